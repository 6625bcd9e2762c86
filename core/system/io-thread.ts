import { workerData } from 'node:worker_threads';
import { signal } from './eventfd.js';
import { IoBatch } from './io-batch.js';
import { ATTENDED, BATCHES, Own, ROOM, type ThreadData, WRAP } from './io-thread-state.js';

/** How long a thread looks for the next batch before it sleeps, in milliseconds: about what being woken costs. */
const LOOK_TIME = 0.02;

const { own, common, wake } = workerData as ThreadData;
const state = new Int32Array(own);
const places = new Float64Array(own);
const all = new Int32Array(common);
const batches = new Map<number, IoBatch>();

/** Waits for the next batch. @returns false where there will be none. */
function next(done: number): boolean {
  const end = performance.now() + LOOK_TIME;
  while (Atomics.load(state, Own.GIVEN) === done) {
    if (performance.now() < end) continue;
    Atomics.store(state, Own.ASLEEP, 1);
    Atomics.wait(state, Own.GIVEN, done);
    Atomics.store(state, Own.ASLEEP, 0);
  }
  return Atomics.load(state, Own.GIVEN) % WRAP !== done;
}

Atomics.store(state, Own.READY, 1);
for (let done = 0; next(done);) {
  const place = BATCHES + (done % ROOM) * 2;
  const address = places[place]!;
  let batch = batches.get(address);
  if (batch === undefined) {
    batch = IoBatch.at(address);
    batches.set(address, batch);
  }
  batch.carryOut(places[place + 1]!);
  done = (done + 1) % WRAP;
  Atomics.store(state, Own.DONE, done);
  if (Atomics.load(all, ATTENDED) === 0) signal(wake);
}
