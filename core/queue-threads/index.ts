/**
 * Queue threads: worker threads that serve request queues beside the engine's thread. All state
 * stays with the engine's thread.
 *
 * - `queue-threads.ts`: starts the threads and deals out queues. `worker.ts`: a thread's program.
 * - `shared-file-table.ts`: what the engine publishes for threads: descriptors behind nodes and
 *   open files, in shared memory.
 * - `direct-service.ts`, `direct-calls.ts`: how a thread serves READ, WRITE, GETATTR and LOOKUP
 *   with these, and the system calls for it.
 * - `mailbox.ts`, `remote-run.ts`: the way of every other request to the engine's thread, which
 *   answers it as on any queue.
 * - `messages.ts`: the messages by which queues come and go.
 *
 * How a thread serves requests although all state is the engine's:
 *
 * - File table. When the engine answers a request that was passed on, it publishes what is behind
 *   the file: a descriptor, by node id, by `fh`, or by the file's identity for LOOKUP. Places are
 *   fixed. An entry that finds its place taken replaces the other, and what a thread does not find
 *   it passes on. Only the engine writes. A version in each place tells a thread that it read half
 *   of an entry.
 * - Descriptors. A number may be closed and stand for another file at any moment. Threads use
 *   descriptors in turns, as readers of RCU do: one that is given up is no longer current at once,
 *   and is closed when the turns that were under way are over.
 * - Lookups. A LOOKUP that finds a file adds one to what the guest has to FORGET. A published entry
 *   comes with 255 lookups that are counted as the guest's already. Threads take from them by
 *   compare-and-exchange. What is left is given back before the guest's FORGET, and when the entry
 *   is withdrawn. So lookup counts stay exact.
 *   Where a session journal is kept, no lookups are given: who reads it could not count them.
 * - Page cache. Whether a guest may keep what it cached is decided by the attributes that it was
 *   told last. A thread that tells others than the table has says so in the place, and the engine
 *   then takes the file as changed.
 * - Stopping. A queue that is to stop is paused: its thread answers what it has taken and says so.
 *   How far it came in the ring stands in shared memory all the time. Memory is let go of
 *   afterwards. While a dirty log is kept the queue is the engine's.
 */
export { QueueThreads, type ThreadLog } from './queue-threads.js';
export type { SharedFileTable } from './shared-file-table.js';
