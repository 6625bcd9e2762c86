/**
 * Virtqueues: from a ring in guest memory to requests with readable and writable segments, and
 * back. {@link Virtqueue} is the device side, {@link DriverQueue} the driver side that tests and
 * benchmarks use.
 *
 * A queue is two things: the ring's format ({@link DeviceRing}: what lies where, which rules a
 * chain must keep) and its life (`Virtqueue`: starting and stopping; `QueueRun`: when to take
 * requests and when to interrupt the guest). The split ring is one format; another one needs to
 * implement `DeviceRing` only. Section numbers are those of the virtio specification, version 1.2.
 */
export * from './device-ring.js';
export * from './driver-queue.js';
export * from './inflight.js';
export * from './layout.js';
export * from './poller.js';
export { ChainMessage, type ChainOwner } from './queue-run.js';
export type { Completions, QueueMessage, QueueService, Run, SharedTable } from './queue-run.js';
export * from './split-ring.js';
export * from './virtqueue.js';
