import type { Fd, DescriptorUser } from '../system/index.js';
import type { InflightPlace, StartingQueue } from '../virtqueue/index.js';

/** What a thread is started with. */
export interface ThreadData {
  readonly user: DescriptorUser;
  /** Eventfds: `own` wakes this thread, `engine` wakes the engine's thread. */
  readonly own: Fd;
  readonly engine: Fd;
  /** How long the thread's `Poller` polls before it sleeps, in microseconds. */
  readonly pollTime: number;
}

/** A region of a guest's memory, as it is mapped in this process. */
export interface SharedRegion {
  readonly address: number;
  readonly length: number;
  readonly guestAddress: number;
  readonly userAddress: number;
}

/** What a thread learns of a queue, as {@link StartingQueue} has it. */
type Start = Pick<
  StartingQueue,
  'size' | 'features' | 'base' | 'again' | 'descriptors' | 'available' | 'used' | 'kick' | 'call'
>;

/** Has a thread serve a queue. The thread owns the queue's descriptors from here on. */
export interface ServeCommand extends Start {
  readonly command: 'serve';
  readonly queue: number;
  readonly regions: readonly SharedRegion[];
  readonly inflight: InflightPlace | undefined;
  /** The memory of the queue's mailbox and of its session's `SharedFileTable`. */
  readonly mailbox: SharedArrayBuffer;
  readonly fileTable: SharedArrayBuffer;
}

/** Messages from the engine's thread to a queue thread. Pauses are numbered. */
export type Command =
  | ServeCommand
  | { readonly command: 'pause'; readonly queue: number; readonly pause: number }
  | { readonly command: 'resume' | 'stop'; readonly queue: number }
  /** Regions were added to the guest's memory; all of its regions are listed. */
  | { readonly command: 'memory'; readonly queue: number; readonly regions: readonly SharedRegion[] }
  | { readonly command: 'call'; readonly queue: number; readonly fd: Fd }
  /** The thread closes all its queues and ends. */
  | { readonly command: 'end' };

/**
 * Messages from a queue thread. Each `pause` is followed by one `paused`, and then by one `idle`
 * unless the queue is resumed before it is idle.
 */
export type Notice = { readonly notice: 'started' } | QueueNotice;

/** A notice about one queue. */
export type QueueNotice =
  | { readonly notice: 'paused' | 'idle'; readonly queue: number; readonly pause: number }
  | { readonly notice: 'stopped'; readonly queue: number }
  | { readonly notice: 'warning'; readonly queue: number; readonly fields: object; readonly reason: string }
  | { readonly notice: 'broken'; readonly queue: number; readonly fields: object; readonly reason: string };
