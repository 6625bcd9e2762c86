import type { TestContext } from 'node:test';
import fc from 'fast-check';
import { kindOf } from '../runner/kinds.js';

/*
 * Random tests. One that fails prints the command that repeats it. The seed, and fast-check's path
 * to the smallest counterexample, come back by `--seed` and `--path` of test/run.ts, which sets
 * these variables of the environment.
 */
const SEED = process.env['VIRTIOFS_KIT_SEED'];
const PATH = process.env['VIRTIOFS_KIT_PATH'];
/** `--quick`: a tenth of the runs and repetitions, and of the time of races. */
const QUICK = process.env['VIRTIOFS_KIT_QUICK'] !== undefined;
/** fast-check's own number of runs. */
const USUAL_RUNS = 100;

/** How long a race of threads is run, in milliseconds. */
export function raceMs(usual: number): number {
  return QUICK ? usual / 10 : usual;
}

/** How often a test repeats what fails by chance only. */
export function repetitions(usual: number): number {
  return QUICK ? Math.ceil(usual / 10) : usual;
}

/** Checks a property with random values. Once a test: a path belongs to one property. */
export async function checkProperty<T>(
  t: TestContext,
  property: fc.IAsyncProperty<T> | fc.IProperty<T>,
  parameters: fc.Parameters<T> = {},
): Promise<void> {
  const file = callingFile();
  const details = await fc.check(property as fc.IAsyncProperty<T>, {
    includeErrorInReport: true,
    ...parameters,
    numRuns: repetitions(parameters.numRuns ?? USUAL_RUNS),
    ...repeated(),
  });
  if (!details.failed) return;
  const message = fc.defaultReportMessage(details) ?? 'failed';
  const path = details.counterexamplePath;
  const cause = details.errorInstance;
  throw new Error(`${message}\n${repeatCommand(t, file, details.seed, path)}`, { cause });
}

/** The seed of a test that makes its random values by itself: the one asked for, or `usual`. */
function seedOr(usual: number): number {
  return SEED === undefined ? usual : Number(SEED);
}

/** Runs a test that makes its random values itself, from the seed that `body` gets. */
export async function withSeed(
  t: TestContext,
  usual: number,
  body: (seed: number) => void | Promise<void>,
): Promise<void> {
  const file = callingFile();
  const seed = seedOr(usual);
  t.diagnostic(`seed ${seed}`);
  try {
    await body(seed);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`${message}\n${repeatCommand(t, file, seed)}`, { cause: error });
  }
}

/**
 * Random numbers, the same ones for the same seed (xorshift32). For the mass of values of a test,
 * where the seed comes from {@link withSeed} or is a value of a property.
 */
export class Random {
  #state: number;

  constructor(seed: number) {
    // Seeds that are close to each other begin with numbers that are not.
    this.#state = Math.imul(seed, 0x9e3779b1) | 1;
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  /** 0 to `end` - 1. */
  below(end: number): number {
    return this.next() % end;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  /** True in so many of a hundred. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at++) bytes[at] = this.next();
    return bytes;
  }
}

function repeated(): { seed?: number; path?: string } {
  return {
    ...(SEED !== undefined && { seed: Number(SEED) }),
    ...(PATH !== undefined && { path: PATH }),
  };
}

/** The test file below `test` that calls here. Several files may share a process. */
function callingFile(): string {
  const root = new URL('..', import.meta.url).href;
  const lines = (new Error().stack ?? '').split('\n').filter((line) => line.includes(root));
  const caller = lines.find((line) => !line.includes(import.meta.url))!;
  return caller.slice(caller.indexOf(root) + root.length).replace(/:\d+:\d+\)?$/, '');
}

/** The command that runs one test of one file again with the same values. */
function repeatCommand(t: TestContext, file: string, seed: number, path?: string | null): string {
  const name = t.name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/'/g, `'\\''`);
  const words = [`npm run test:${kindOf(file)} -- ${file.replace(/(\.test)?\.js$/, '')}`];
  words.push(`--name '^${name}$'`, `--seed=${seed}`);
  if (path !== undefined && path !== null) words.push(`--path=${path}`);
  return `Repeat with: ${words.join(' ')}`;
}
