import { parentPort, workerData } from 'node:worker_threads';
import { type Fd, Mapping } from '../../core/system/index.js';
import { Random } from '../support/random.js';

/*
 * A thread that changes a front-end's memory while requests in it are served, as a guest with a
 * second processor can: headers, arguments and replies, sometimes the rings.
 */

/** What the thread is to change. */
export interface Target {
  readonly fd: Fd;
  /** Bytes that are mapped. */
  readonly length: number;
  /** Ranges that are changed: offset and length of each. */
  readonly ranges: readonly (readonly [number, number])[];
}

/** Words of the shared state: how often the thread has mapped a target. */
export const MAPPED = 0;

/** Values at the edges, which a word gets. */
const EDGES = [0, 1, 16, 40, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffff000, 4096];

interface Start {
  readonly seed: number;
  readonly state: Int32Array;
}

if (parentPort !== null) {
  const { seed, state } = workerData as Start;
  const random = new Random(seed);
  let mapping: Mapping | undefined;
  let words = new Uint32Array(0);
  let ranges: Target['ranges'] = [];
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const race = (): void => {
    for (let i = 0; i < 500 && ranges.length > 0; i++) {
      const [offset, length] = random.pick(ranges);
      const at = (offset + random.below(length)) >>> 2;
      const old = words[at]!;
      if (random.chance(40)) words[at] = old ^ (1 << random.below(32));
      else words[at] = random.chance(50) ? random.pick(EDGES) : random.next();
      // Back again at once, so that requests stay such as are understood.
      if (random.chance(70)) words[at] = old;
    }
    Atomics.wait(pause, 0, 0, 0.2);
    setImmediate(race);
  };
  parentPort.on('message', (target: Target) => {
    mapping?.unmap();
    mapping = Mapping.map(target.fd, target.length, 0);
    words = new Uint32Array(mapping.view(mapping.address, target.length));
    ranges = target.ranges;
    Atomics.add(state, MAPPED, 1);
    Atomics.notify(state, MAPPED);
  });
  race();
}
