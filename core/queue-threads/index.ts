/**
 * Queue threads: worker threads that serve request queues beside the engine's thread. All state
 * stays with the engine's thread. It publishes the descriptors behind nodes and open files in a
 * file table in shared memory ({@link SharedFileTable}). By these a thread serves READ, WRITE,
 * GETATTR and LOOKUP itself (`DirectService`, whose system calls are `DirectCalls`). Every other
 * request goes through a mailbox in shared memory (`mailbox.ts`) to the engine's thread, which
 * answers it as on any queue (`RemoteRun`).
 *
 * `QueueThreads` starts the threads and deals out queues. `worker.ts` is a thread's program, and
 * `messages.ts` has the messages by which queues come and go.
 */
export { QueueThreads, type ThreadLog } from './queue-threads.js';
export type { DirectCounts, SharedFileTable } from './file-table.js';
