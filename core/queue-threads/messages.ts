import type { DescriptorUser } from '../system/index.js';
import type { StartingQueue } from '../virtqueue/index.js';

/** What a thread is started with. */
export interface ThreadData {
  readonly user: DescriptorUser;
  /** Eventfds: the thread's own, by which it is woken, and that of the engine's thread. */
  readonly own: number;
  readonly engine: number;
  /** As of `Poller`, in microseconds. */
  readonly pollTime: number;
}

/** A part of a guest's memory, as it is mapped in this process. */
export interface SharedRegion {
  readonly address: number;
  readonly length: number;
  readonly guestAddress: number;
  readonly userAddress: number;
}

/** What a thread is told of a queue as its {@link StartingQueue} has it. */
type Start = Pick<
  StartingQueue,
  'size' | 'features' | 'base' | 'descriptors' | 'available' | 'used' | 'kick' | 'call'
>;

/** A queue that a thread is to serve. Its descriptors are the thread's from here on. */
export interface ServeCommand extends Start {
  readonly command: 'serve';
  readonly queue: number;
  readonly regions: readonly SharedRegion[];
  /** `Line` and `SharedFileTable`. */
  readonly mailbox: SharedArrayBuffer;
  readonly fileTable: SharedArrayBuffer;
}

/** What the engine's thread orders. Pauses are numbered. */
export type Command =
  | ServeCommand
  | { readonly command: 'pause'; readonly queue: number; readonly pause: number }
  | { readonly command: 'resume' | 'stop'; readonly queue: number }
  /** All of the guest's memory, to which some was added. */
  | { readonly command: 'memory'; readonly queue: number; readonly regions: readonly SharedRegion[] }
  | { readonly command: 'call'; readonly queue: number; readonly fd: number }
  /** To let go of everything, and to end. */
  | { readonly command: 'end' };

/**
 * What a thread says of a queue. After each `pause` there is one `paused`, and one `idle` unless it
 * is to go on before.
 */
export type Notice =
  | { readonly notice: 'paused' | 'idle'; readonly queue: number; readonly pause: number }
  | { readonly notice: 'stopped'; readonly queue: number }
  | { readonly notice: 'warning'; readonly queue: number; readonly fields: object; readonly reason: string }
  | { readonly notice: 'broken'; readonly queue: number; readonly fields: object; readonly reason: string };
