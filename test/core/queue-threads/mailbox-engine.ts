import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { EngineMailbox } from '../../../core/queue-threads/mailbox.js';

export interface MailboxData {
  readonly memory: SharedArrayBuffer;
  readonly size: number;
  /** A word by which the thread is woken: set to 1 by the waker, to 0 by the thread. */
  readonly awake: SharedArrayBuffer;
}

export interface MailboxReport {
  /** The requests in the order in which they came. */
  readonly taken: readonly number[];
  /** How often the thread slept its full time although a request was there. */
  readonly missed: number;
}

/** How long the thread sleeps if nobody wakes it. */
const SLEEP_MS = 3000;

/** A request that ends the thread. */
export const STOP = -7;

/** Whether the answer with this number is undefined: the request can't be answered. */
export function failsAt(turn: number): boolean {
  return turn % 97 === 5;
}

/**
 * The program of a thread that answers requests in another order: it keeps some, and takes more
 * first. It sleeps when there are none.
 */
function run({ memory, size, awake }: MailboxData): MailboxReport {
  const engine = new EngineMailbox(memory, size);
  const sleep = new Int32Array(awake);
  const taken: number[] = [];
  const kept: number[] = [];
  let turn = 0;
  let missed = 0;

  function answer(id: number): void {
    engine.answer(id, failsAt(turn) ? undefined : turn);
    turn += 1;
  }

  for (;;) {
    engine.setPolling(true);
    const waiting = engine.waiting;
    for (let i = 0; i < waiting; i++) {
      const id = engine.take();
      if (id === STOP) return { taken, missed };
      taken.push(id);
      if (id % 3 === 0) kept.push(id);
      else answer(id);
    }
    // The latest first. 16 are kept as long as requests come, and none otherwise.
    for (let least = waiting > 0 ? 16 : 0; kept.length > least;) answer(kept.pop()!);
    if (waiting > 0) continue;
    engine.setPolling(false);
    if (engine.waiting > 0) continue;
    if (Atomics.wait(sleep, 0, 0, SLEEP_MS) === 'timed-out' && engine.waiting > 0) missed += 1;
    if (missed > 2) return { taken, missed };
    Atomics.store(sleep, 0, 0);
  }
}

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
if (!isMainThread) parentPort!.postMessage(run(workerData as MailboxData));
