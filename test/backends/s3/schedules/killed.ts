import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Random } from '../../../support/random.js';
import type { Schedule } from './schedule.js';
import type { Ending, Step } from './worlds.js';

const WORKER = fileURLToPath(new URL('killed-worker.js', import.meta.url));

/** What a worker is to mount, and how. */
export interface Order {
  readonly id: number;
  /** The bucket's. */
  readonly name: string;
  readonly endpoint: string;
  readonly seed: number;
  readonly options: Record<string, unknown>;
  /** Milliseconds before it mounts. */
  readonly afterMs: number;
}

/** What a worker tells of one mount. */
export interface Told {
  readonly id: number;
  readonly starts?: true;
  readonly mounted?: true;
  /** Why it could not be mounted. */
  readonly failed?: string;
  readonly step?: Step;
  readonly ending?: Ending;
  readonly read?: string;
  readonly digest?: string;
}

/** Mounts begin within so many milliseconds, so that a kill meets them in different moments. */
const STARTS_MS = 700;
/** Steps of each mount before a kill, on an average at most. */
const STEPS = 12;
/** Changes of files of each mount before a kill, on an average at most. */
const CHANGES = 80;
/** Milliseconds after which a process is killed that has not come to its moment. */
const LONGEST_MS = 20_000;

/**
 * Has a process serve the mounts of schedules, and kills it at any moment: after a number of steps,
 * in the midst of its starts, or at one of its changes of files.
 */
export async function killTogether(schedules: readonly Schedule[], random: Random): Promise<void> {
  const byChange = random.chance(40);
  const changes = 1 + random.below(CHANGES * schedules.length);
  const args = byChange ? [String(changes), random.pick(['before', 'after'])] : [];
  const child = spawn(process.execPath, [WORKER, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (text: Buffer) => (errors = `${errors}${text}`.slice(-2000)));
  const closed = once(child, 'close');
  // It is gone before it has read all.
  child.stdin.on('error', () => undefined);
  for (const [id, schedule] of schedules.entries()) {
    const order: Order = { ...(await schedule.start()), id, afterMs: random.below(STARTS_MS) };
    child.stdin.write(`${JSON.stringify(order)}\n`);
  }
  const timer = setTimeout(() => child.kill('SIGKILL'), LONGEST_MS);
  await takeDown(child, schedules, random, byChange);
  await closed;
  clearTimeout(timer);
  const isKilled = child.signalCode === 'SIGKILL';
  await Promise.all(schedules.map((schedule) => schedule.died(isKilled ? undefined : errors)));
}

async function takeDown(
  child: ChildProcess,
  schedules: readonly Schedule[],
  random: Random,
  byChange: boolean,
): Promise<void> {
  const isEarly = random.chance(15);
  let left = byChange ? Infinity : isEarly ? 1 : 1 + random.below(STEPS * schedules.length);
  const pauseMs = random.below(isEarly ? 2 * STARTS_MS : 60);
  for await (const line of createInterface({ input: child.stdout! })) {
    const told = JSON.parse(line) as Told;
    schedules[told.id]!.heard(told);
    if ((isEarly ? told.starts : told.step) === undefined) continue;
    left -= 1;
    if (left === 0) setTimeout(() => child.kill('SIGKILL'), pauseMs);
  }
}
