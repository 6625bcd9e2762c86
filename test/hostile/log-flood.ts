import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('log-child.js', import.meta.url));

/** Longest that a daemon's event loop may stand still, with room for a busy machine. */
export const MOST_MS = 500;

/** A program that logs, and what it says of its first second. */
export interface Logging {
  readonly stderr: Readable | null;
  /** Longest that its event loop stood still, in milliseconds. */
  readonly most: number;
  /** Lines that it has logged. */
  readonly lines: number;
  /** Has the program end in good order. */
  end(): Promise<void>;
}

/** Runs a program that logs as much as it can. @returns when it has done so for a second. */
export async function flood(stderr: number | 'pipe'): Promise<Logging> {
  const program = spawn(process.execPath, [child, '1000'], { stdio: ['pipe', 'pipe', stderr] });
  const timer = setTimeout(() => program.kill('SIGKILL'), 30_000);
  const ended = new Promise<[number | null, string | null]>((resolve) =>
    program.once('exit', (code, signal) => resolve([code, signal])),
  );
  const line = await Promise.race([
    new Promise<string>((resolve) => createInterface(program.stdout!).once('line', resolve)),
    ended.then((how) => assert.fail(`it ended: ${how.join(' ')}`)),
  ]);
  return {
    stderr: program.stderr,
    ...(JSON.parse(line) as { most: number; lines: number }),
    async end() {
      program.stdin!.write('end\n');
      assert.deepEqual(await ended, [0, null]);
      clearTimeout(timer);
    },
  };
}
