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
 *
 * A session outlives stopped queues and status 0, which QEMU sends for a paused guest. RESET_DEVICE
 * ends it and opens another. GET_VRING_BASE, memory that goes away, reset and disconnect stop
 * taking requests and wait for those in flight, no longer than the drain timeout. Only then is the
 * message answered or the memory unmapped. A region that a new memory table repeats keeps its
 * mapping, so that memory hot-plug disturbs no request.
 */
export { VhostUserDevice, type DeviceOptions, type DeviceSession } from './device.js';
export { FrontEnd, type FrontEndOptions } from './front-end.js';
export { FrontEndChannel, FrontEndError, type FrontEndReply } from './front-end-channel.js';
export { FrontEndQueue } from './front-end-queue.js';
export { CONFIG_SIZE, Feature, ProtocolError, ProtocolFeature } from './messages.js';
export { SharedMemory } from './shared-memory.js';
export { bindSocket, ListenError, type ListenOptions } from './listen.js';
export { VhostUserServer, type ServerOptions } from './server.js';
