import { parentPort, workerData } from 'node:worker_threads';
import { CallList } from './call-list.js';
import { signal } from '../descriptors/eventfd.js';
import { ATTENDED, LISTS, Own, ROOM, type ThreadData, WRAP } from './io-thread-state.js';

/**
 * How long a thread polls for the next list before it sleeps: about as long as waking it costs.
 */
const POLL_TIME_MS = 0.02;

const { own, common, wake } = workerData as ThreadData;
const state = new Int32Array(own);
const places = new Float64Array(own);
const all = new Int32Array(common);

/** Waits for the next list. @returns false if there will be none. */
function next(done: number): boolean {
  const end = performance.now() + POLL_TIME_MS;
  while (Atomics.load(state, Own.GIVEN) === done) {
    if (performance.now() < end) continue;
    Atomics.store(state, Own.ASLEEP, 1);
    Atomics.wait(state, Own.GIVEN, done);
    Atomics.store(state, Own.ASLEEP, 0);
  }
  return Atomics.load(state, Own.GIVEN) % WRAP !== done;
}

CallList.prepare();
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
parentPort!.postMessage('started');
Atomics.store(state, Own.READY, 1);
for (let done = 0; next(done);) {
  const place = LISTS + (done % ROOM) * 2;
  CallList.make(places[place]!, places[place + 1]!);
  done = (done + 1) % WRAP;
  Atomics.store(state, Own.DONE, done);
  if (Atomics.load(all, ATTENDED) === 0) signal(wake);
}
