/**
 * Guest memory: the address space that a guest shares with the daemon ({@link AddressSpace}), and a
 * request's lists of segments in it ({@link SegmentList}). System calls use a list as an iovec
 * array, JavaScript uses it as typed arrays; neither makes a copy. Every address that a guest gives
 * is checked here before it is used. A {@link Message} is one request with its two lists: it is
 * what transports hand to the FUSE side.
 */
export * from './address-space.js';
export * from './back-off.js';
export * from './dirty-log.js';
export * from './host-buffer.js';
export * from './message.js';
export * from './segment-list.js';
export * from './windows.js';
