import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { EngineMailbox } from '../../../core/queue-threads/mailbox.js';

export interface LineData {
  readonly memory: SharedArrayBuffer;
  readonly size: number;
  /** A word that wakes the thread: 1 once it is told, until it looks. */
  readonly awake: SharedArrayBuffer;
}

export interface LineReport {
  /** The requests in the order in which they came. */
  readonly taken: readonly number[];
  /** How often the thread slept for seconds though there was something. */
  readonly missed: number;
}

/** Milliseconds that it sleeps untold. */
const LONG = 3000;

/** A request by which the mailbox closes. */
export const STOP = -7;

/** Whether the answer of a turn is that there can be none; else it is the turn's number. */
export function failsAt(turn: number): boolean {
  return turn % 97 === 5;
}

/**
 * The program of a thread that answers requests in an order of its own, where it keeps some and
 * takes more first, and sleeps between.
 */
function run({ memory, size, awake }: LineData): LineReport {
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
    // The last ones first, and all where nothing else comes.
    for (let least = waiting > 0 ? 16 : 0; kept.length > least;) answer(kept.pop()!);
    if (waiting > 0) continue;
    engine.setPolling(false);
    if (engine.waiting > 0) continue;
    if (Atomics.wait(sleep, 0, 0, LONG) === 'timed-out' && engine.waiting > 0) missed += 1;
    if (missed > 2) return { taken, missed };
    Atomics.store(sleep, 0, 0);
  }
}

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
if (!isMainThread) parentPort!.postMessage(run(workerData as LineData));
