/**
 * The vhost-user protocol, both sides: the back-end that serves a virtio-fs device to a virtual
 * machine monitor over a unix socket, and the front-end that drives any such back-end without a
 * guest, for tests and benchmarks.
 *
 * The back-end's layers, from the socket up: `Channel` frames messages and keeps their descriptors
 * with them, `messages.ts` knows every layout and rule, `VhostUserDevice` keeps one connection's
 * state, `Vring` one queue's, and `VhostUserServer` accepts connections. What a request means is
 * unknown here: each goes to the session that the server's owner opens. The protocol is QEMU's
 * `docs/interop/vhost-user.rst`, the device virtio 1.2 section 5.11.
 */
export { VhostUserDevice, type DeviceOptions, type DeviceSession } from './device.js';
export { FrontEnd, type FrontEndOptions } from './front-end.js';
export { FrontEndChannel, FrontEndError } from './front-end-channel.js';
export { FrontEndQueue } from './front-end-queue.js';
export { CONFIG_SIZE, Feature, ProtocolError, ProtocolFeature } from './messages.js';
export { SharedMemory } from './shared-memory.js';
export { ListenError, VhostUserServer, type ServerOptions } from './server.js';
