/**
 * Virtqueues: from a ring in guest memory to requests with readable and writable segments, and
 * back. Section numbers are those of the virtio specification, version 1.2.
 *
 * - `device-ring.ts`: a ring's format as the device needs it: what lies where, and which rules a
 *   chain must keep. `split-ring.ts` and `split-ring-layout.ts` are the split ring. Another format,
 *   such as the packed ring, implements `DeviceRing` too.
 * - `virtqueue.ts`: a queue's life: set up, started, stopped. `queue-run.ts`: when to take
 *   requests, and when to interrupt the guest. `poller.ts`: looks at rings for a moment before the
 *   thread sleeps.
 * - `inflight.ts`: which requests were taken and not answered, in memory that outlives this
 *   process.
 * - `driver-queue.ts`: the driver's side, for the front-end.
 */
export * from './device-ring.js';
export * from './driver-queue.js';
export * from './inflight.js';
export * from './split-ring-layout.js';
export * from './poller.js';
export { ChainMessage, type ChainOwner } from './queue-run.js';
export type { Completions, QueueMessage, QueueService, Run, SharedTable } from './queue-run.js';
export * from './split-ring.js';
export * from './virtqueue.js';
