/**
 * The operating system: libc functions through koffi, errors as the kernel gives them, memory
 * outside the JavaScript heap, descriptors with owners, and polls of the event loop. This room uses
 * nothing else in the project.
 *
 * Results follow the kernel: a call on the data path returns 0 or more, or minus the errno, and
 * never throws. What sets something up (a socket, a mapping) throws {@link SystemError} instead.
 * Pointers are plain numbers, since user addresses lie below 2^47, and come only from {@link
 * NativeMemory} and {@link Mapping}: the address of a small typed array is never taken, because V8
 * moves those.
 *
 * Views made over foreign memory cannot be detached. `free` and `unmap` therefore put fresh
 * anonymous memory in the place of what they let go: a late access, by JavaScript or by a system
 * call on a thread, finds zeros that nobody else uses. The addresses are given back when the last
 * view was collected.
 *
 * - `calls/`: libc through koffi, the file system calls of passthrough, and the errors that calls
 *   return (`negative-errno.ts`; replies to guests have those of core/backend).
 * - `batches/`: many system calls in one foreign call (`CallList`), and threads that make such
 *   lists. `started-threads.ts`: waits for threads that are just starting.
 * - `memory/`: memory outside the heap, mappings, memfds, and how V8 counts it.
 * - `descriptors/`: the type of a descriptor's number, descriptors with owners, eventfds, unix
 *   sockets, spare ones that listen already, descriptors that threads share, output that never
 *   blocks, what this program was executed with, what a service manager passes and is told.
 * - `event-loop/`: the sleep of the engine's thread, signals right before it, polls of the event
 *   loop, and inotify.
 * - `log.ts`: where rooms below `core/plugins` log.
 * - `confinement/`: Landlock, seccomp, namespaces, no WebAssembly. Landlock and namespaces confine
 *   one thread. That thread then executes the program anew, so that all threads of the new program
 *   are confined.
 */
export * from './batches/call-list.js';
export type { Fd } from './descriptors/fd.js';
export * from './descriptors/eventfd.js';
export * from './descriptors/foreign-eventfd.js';
export { inheritedFd } from './descriptors/inherited-fd.js';
export { IoThreads, type IoWork } from './batches/io-threads.js';
export * from './calls/libc.js';
export { isAtOrBelow, ownMounts } from './calls/own-mounts.js';
export * from './descriptors/descriptor-limit.js';
export type { Log } from './log.js';
export { fileIdentity } from './memory/foreign-memory.js';
export * from './memory/mapping.js';
export * from './memory/memfd.js';
export * from './memory/native-memory.js';
export * from './descriptors/non-blocking-output.js';
export * from './descriptors/owned-fd.js';
export { acceptsDescriptors, ReceivedFd } from './descriptors/received-fd.js';
export * from './calls/vectored-io.js';
export { PAGE_SIZE } from './memory/region.js';
export * from './descriptors/shared-descriptors.js';
export { passedDescriptors, SERVICE_MANAGER_VARIABLES, ServiceManager } from './descriptors/sd-notify.js';
export { listenOnLoopback } from './descriptors/tcp-listener.js';
export { MAX_FDS, MAX_TRANSFER_BYTES, UnixConnection, UnixListener } from './descriptors/unix-socket.js';
export { Inotify, type InotifyKind } from './event-loop/inotify.js';
export * from './event-loop/own-sleep.js';
export { signalBeforeSleep, signalOwed } from './event-loop/signal-before-sleep.js';
export * from './event-loop/watch.js';
