/**
 * The operating system: libc functions through koffi, errors as the kernel gives them, memory outside the JavaScript
 * heap, descriptors with owners, and polls of the event loop. This room uses nothing else in the project.
 *
 * Results follow the kernel: a call on the data path returns 0 or more, or minus the errno, and never throws. What sets
 * something up (a socket, a mapping) throws {@link SystemError} instead. Pointers are plain numbers, since user addresses
 * lie below 2^47, and come only from {@link NativeMemory} and {@link Mapping}: the address of a small typed array is
 * never taken, because V8 moves those.
 */
export * from './call-list.js';
export * from './eventfd.js';
export { IoThreads, type IoWork } from './io-threads.js';
export * from './libc.js';
export * from './limits.js';
export * from './mapping.js';
export * from './memfd.js';
export * from './native-memory.js';
export * from './owned-fd.js';
export * from './pieces.js';
export { PAGE_SIZE, WINDOW_SIZE } from './region.js';
export * from './shared-descriptors.js';
export * from './unix-socket.js';
export * from './watch.js';
