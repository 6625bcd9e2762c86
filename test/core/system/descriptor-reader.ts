import * as fs from 'node:fs';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { type Fd, DescriptorUse, type DescriptorUser } from '../../../core/system/index.js';

/** Words by which a descriptor is published to the thread. The version is odd during a write. */
export const Place = { VERSION: 0, FD: 1, SERIAL: 2, ID: 3 } as const;
export const PLACE_WORDS = 4;

/** Words that both threads share. */
export const Progress = { STOP: 0, READS: 1 } as const;

export interface ReaderData {
  readonly user: DescriptorUser;
  readonly places: number;
  readonly memory: SharedArrayBuffer;
  readonly progress: SharedArrayBuffer;
}

export interface ReaderReport {
  /** Reads that failed, or returned another file's number. */
  readonly wrong: readonly string[];
}

/** Reads in a turn, during which the other thread may give descriptors up. */
const READS = 4;

/**
 * The program of a thread that reads files of one byte each, by descriptors that are published to
 * it.
 */
function run({ user, places, memory, progress: shared }: ReaderData): ReaderReport {
  const use = new DescriptorUse(user);
  const words = new Int32Array(memory);
  const progress = new Int32Array(shared);
  const wrong: string[] = [];
  const byte = new Uint8Array(1);

  function read(fd: number, id: number): void {
    try {
      const count = fs.readSync(fd, byte, 0, 1, 0);
      if (count !== 1 || byte[0] !== id) wrong.push(`${count} bytes, file ${byte[0]} instead of ${id}`);
    } catch (error) {
      wrong.push(String(error));
    }
    Atomics.add(progress, Progress.READS, 1);
  }

  for (let turn = 0; Atomics.load(progress, Progress.STOP) === 0 && wrong.length < 10; turn++) {
    use.enter();
    const at = (turn % places) * PLACE_WORDS;
    const version = Atomics.load(words, at + Place.VERSION);
    const fd = Atomics.load(words, at + Place.FD) as Fd;
    const serial = Atomics.load(words, at + Place.SERIAL);
    const id = Atomics.load(words, at + Place.ID);
    const isWhole = (version & 1) === 0 && Atomics.load(words, at + Place.VERSION) === version;
    if (isWhole && serial !== 0 && use.isCurrent(fd, serial)) for (let i = 0; i < READS; i++) read(fd, id);
    use.leave();
  }
  return { wrong };
}

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
if (!isMainThread) parentPort!.postMessage(run(workerData as ReaderData));
