/**
 * Guest memory: the address space that a guest shares with the daemon, and a request's lists of
 * segments in it. System calls use a list as an iovec array, JavaScript uses it as typed arrays;
 * neither makes a copy. Every address that a guest gives is checked here before it is used.
 *
 * - `address-space.ts`, `windows.ts`: a guest's memory regions, and the views of them that
 *   JavaScript uses, made on first use.
 * - `segment-list.ts`, `segment-window.ts`, `iov.ts`: a request's segments, a part of them, and
 *   their iovec array.
 * - `message.ts`: one request with its two lists, which transports hand to the FUSE side.
 * - `host-buffer.ts`: the same interface over memory of this process.
 * - `dirty-log.ts`: which pages were written, for live migration.
 * - `pool.ts`: objects that wait to be used again.
 * - `back-off.ts`: when to pass over what costs time and was fruitless. Rings and FUSE both use
 *   it.
 */
export * from './address-space.js';
export * from './back-off.js';
export * from './dirty-log.js';
export * from './host-buffer.js';
export * from './message.js';
export * from './pool.js';
export * from './segment-list.js';
export * from './windows.js';
