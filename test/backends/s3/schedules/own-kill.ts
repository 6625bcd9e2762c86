/**
 * Has a process kill itself at one of its changes of files, which no other process could hit. To be
 * imported before all that makes them. See `killed-worker.ts`.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

/** What changes files, or waits until the disk has them. */
const CHANGES = {
  fs: [
    'writeSync',
    'writevSync',
    'writev',
    'openSync',
    'unlinkSync',
    'renameSync',
    'fdatasync',
    'ftruncate',
    'closeSync',
  ],
  promises: ['open', 'rename', 'unlink', 'writeFile', 'mkdir'],
} as const;

let left = Infinity;
let isBefore = false;
const write = fs.writeSync;
const PAUSE = new Int32Array(new SharedArrayBuffer(4));

/** The process ends by SIGKILL at a change of a file, so many from now. */
export function killAtChange(count: number, before: boolean): void {
  left = count;
  isBefore = before;
}

/** Writes to the standard output, which counts for no change. Waits while nobody reads it. */
export function tell(message: object): void {
  for (let rest = Buffer.from(`${JSON.stringify(message)}\n`); rest.length > 0;) {
    try {
      rest = rest.subarray(write(1, rest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(PAUSE, 0, 0, 5);
    }
  }
}

type Call = (...args: unknown[]) => unknown;

function counted(call: Call): Call {
  const changed: Call = (...args) => {
    left -= 1;
    if (left === 0 && isBefore) die();
    const result = call(...args);
    // It is done, or begun on a thread.
    if (left === 0) die();
    return result;
  };
  return Object.defineProperties(changed, Object.getOwnPropertyDescriptors(call));
}

function die(): void {
  process.kill(process.pid, 'SIGKILL');
}

for (const [place, names] of [
  [fs, CHANGES.fs],
  [fs.promises, CHANGES.promises],
] as const) {
  const calls = place as unknown as Record<string, Call>;
  for (const name of names) calls[name] = counted(calls[name]!);
}
syncBuiltinESMExports();
