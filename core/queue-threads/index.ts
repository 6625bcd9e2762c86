/**
 * Queue threads: request queues served beside the engine's thread. All state is that thread's; a
 * session shows the others the descriptors behind nodes and open files ({@link Shown}), by which
 * they serve READ, WRITE, GETATTR and LOOKUP for themselves. What else comes they pass on (`Line`),
 * and the engine's thread answers it like any request.
 */
export { QueueThreads, type ThreadLog } from './queue-threads.js';
export type { ServedCounts, Shown } from './file-table.js';
