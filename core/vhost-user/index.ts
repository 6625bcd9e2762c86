/**
 * The vhost-user protocol, both sides: the back-end that serves a virtio-fs device to a virtual
 * machine monitor over a unix socket, and the front-end that drives any such back-end without a
 * guest. The protocol is QEMU's `docs/interop/vhost-user.rst`, the device virtio 1.2 section 5.11.
 * What a request means is unknown here: each goes to the session that the server's owner opens.
 *
 * - `messages.ts`: every message's layout and rules. `channel.ts`: frames messages, and keeps
 *   their descriptors with them.
 * - `server.ts`, `listen.ts`, `socket-options.ts`: accepts connections. `device.ts`: one
 *   connection's state. `vring.ts`: one queue's.
 * - `state-pipe.ts`: a session's state, on its way to or from another host. `saved-queues.ts`: what
 *   goes along of the queues.
 * - `memory-table.ts`: the guest's memory regions. `inflight-area.ts`: the region of requests in
 *   flight.
 * - `front-end.ts`, `front-end-channel.ts`, `front-end-queue.ts`, `front-end-memory.ts`: the
 *   front-end.
 *
 * A session outlives stopped queues and status 0, which QEMU sends for a paused guest.
 * RESET_DEVICE ends it and opens another. GET_VRING_BASE, memory that goes away, reset and
 * disconnect stop taking requests and wait for those in flight, no longer than the drain timeout.
 * Only then is the message answered or the memory unmapped. Requests that wait for locks are not
 * waited for: they are dispatched again when their queue starts again. A region that a new memory
 * table repeats keeps its mapping, so that memory hot-plug disturbs no request.
 */
export { VhostUserDevice, type DeviceOptions, type DeviceSession, type Migration } from './device.js';
export { FrontEnd, type FrontEndOptions } from './front-end.js';
export { FrontEndChannel, FrontEndError, type FrontEndReply } from './front-end-channel.js';
export { FrontEndQueue } from './front-end-queue.js';
export { CONFIG_SIZE, Feature, ProtocolError, ProtocolFeature } from './messages.js';
export { SharedMemory } from './front-end-memory.js';
export { bindSocket, ListenError, type ListenOptions } from './listen.js';
export { VhostUserServer, type ServerOptions } from './server.js';
