/**
 * Mapped memory and what lies in it: the address space that a guest shares with the daemon, and
 * lists of its segments as a request carries them, readable both by system calls (as an iovec
 * array) and by JavaScript (as typed arrays), without copies. Every address that a guest names is
 * checked here before it is used.
 */
export * from './address-space.js';
export * from './dirty-log.js';
export * from './host-buffer.js';
export * from './message.js';
export * from './segment-list.js';
export * from './windows.js';
