import { randomBytes } from 'node:crypto';
import { type Awaitable, type Backend, type CachePolicy, FileType, type Logger } from '../backend/index.js';
import { Session } from '../fuse/index.js';
import { hostBuffer } from '../memory/index.js';
import { Export, type ExportLimits } from '../state/index.js';
import { type ContractCase, type Method, namesIn, type Trial } from './case.js';
import { cases } from './cases/index.js';
import { Client, ROOT } from './client.js';
import { ContractFailure, NotSupported } from './expect.js';

/** Settings, all of them optional. */
type Settings<T> = { readonly [K in keyof T]?: T[K] | undefined };

export interface CheckOptions {
  /**
   * Makes the backend. Rules about restarts call it again: the new backend must have the same data,
   * and its `restore` gets what the former one's `save` has returned.
   */
  create(): Awaitable<Backend>;
  readonly log: Logger;
  /** Settings of the export, as for any that is served. */
  readonly cache?: Settings<CachePolicy>;
  readonly limits?: Settings<ExportLimits>;
  /** Chooses the cases to run, by name. Default: all. */
  readonly only?: (name: string) => boolean;
  /** How long a case may take, in milliseconds. Default: 60,000. */
  readonly timeoutMs?: number;
  /** Called after each case. */
  readonly onResult?: (result: CaseResult) => void;
}

/** The result of one case. */
export interface CaseResult {
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** For a failure: what was expected and what came. For a skip: what the backend lacks. */
  readonly reason?: string;
  /** For a failure by an unexpected exception: the exception. */
  readonly error?: unknown;
}

/** The results of all cases. */
export interface CheckReport {
  readonly results: readonly CaseResult[];
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/**
 * Checks a backend against the contract, through a session, as a guest would see it. Rules run only
 * if the backend has the methods that they need. If it can make directories, everything happens in
 * a new directory with a random name in its root, which is removed afterwards if possible. If not,
 * files are made in the root.
 * @throws what making and mounting the backend throws.
 */
export async function checkBackend(options: CheckOptions): Promise<CheckReport> {
  const bench = await Bench.open(options);
  const results: CaseResult[] = [];
  try {
    for (const one of cases) {
      if (options.only !== undefined && !options.only(one.name)) continue;
      const result = await bench.run(one);
      results.push(result);
      options.onResult?.(result);
    }
    await bench.clean();
  } finally {
    await bench.close();
  }
  const count = (outcome: CaseResult['outcome']): number =>
    results.filter((result) => result.outcome === outcome).length;
  return { results, passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

/** A mounted backend with a session. */
class Bench {
  readonly #options: CheckOptions;
  readonly #folder = `virtiofs-kit-check-${randomBytes(6).toString('hex')}`;
  #export: Export;
  #session!: Session;
  #client!: Client;
  #cases = 0;

  private constructor(options: CheckOptions, shared: Export) {
    this.#options = options;
    this.#export = shared;
  }

  static async open(options: CheckOptions): Promise<Bench> {
    const bench = new Bench(options, await openExport(options));
    await bench.#begin();
    return bench;
  }

  async run({ name, needs, run }: ContractCase): Promise<CaseResult> {
    const missing = needs
      .map((need) => [need].flat())
      .filter((methods) => !methods.some((method) => this.#has(method)));
    if (missing.length > 0) {
      const lacks = missing.map((methods) => methods.join(' or ')).join(', ');
      return { name, outcome: 'skipped', reason: `the backend has no ${lacks}` };
    }
    try {
      const trial = await this.#trial(`case-${++this.#cases}`);
      await within(this.#timeoutMs, run(trial));
      return { name, outcome: 'passed' };
    } catch (error) {
      if (error instanceof NotSupported)
        return { name, outcome: 'skipped', reason: `refused: ${error.message}` };
      if (error instanceof ContractFailure) return { name, outcome: 'failed', reason: error.message };
      return { name, outcome: 'failed', reason: String(error), error };
    } finally {
      await this.#end();
      await this.#begin();
    }
  }

  /** Removes what the cases have made, if the backend can do that. */
  async clean(): Promise<void> {
    const { unlink, rmdir, readdir } = this.#export.backend;
    if (unlink === undefined || rmdir === undefined || readdir === undefined) return;
    try {
      await this.#remove();
    } catch (error) {
      this.#options.log.warn({ folder: this.#folder, error: String(error) }, 'the files of the check stay');
    }
  }

  async #remove(): Promise<void> {
    if ((await this.#client.find(ROOT, this.#folder)) !== undefined)
      await removeTree(this.#client, ROOT, this.#folder);
  }

  async close(): Promise<void> {
    await this.#end();
    await this.#export.close();
  }

  get #timeoutMs(): number {
    return this.#options.timeoutMs ?? 60_000;
  }

  #has(method: Method): boolean {
    return this.#export.backend[method] !== undefined;
  }

  async #trial(folder: string): Promise<Trial> {
    const client = this.#client;
    let directory = ROOT;
    if (this.#has('mkdir')) {
      const shared = (await client.find(ROOT, this.#folder)) ?? (await client.mkdir(ROOT, this.#folder));
      directory = ((await client.find(shared.id, folder)) ?? (await client.mkdir(shared.id, folder))).id;
    }
    const restart = async (): Promise<Trial> => {
      await this.#end();
      const state = await this.#export.backend.save?.();
      await this.#export.close();
      this.#export = await openExport(this.#options, state);
      await this.#begin();
      return this.#trial(folder);
    };
    return { client, backend: this.#export.backend, directory, restart };
  }

  async #begin(): Promise<void> {
    this.#session = new Session(this.#export, { drainTimeoutMs: Math.min(1000, this.#timeoutMs) });
    this.#client = new Client(this.#session);
    await this.#client.init();
  }

  async #end(): Promise<void> {
    await this.#client.forgetAll();
    await this.#session.drain();
    await this.#session.close();
    this.#client.close();
  }
}

async function openExport({ create, ...options }: CheckOptions, state?: Uint8Array): Promise<Export> {
  const settings = { cache: given(options.cache ?? {}), limits: given(options.limits ?? {}) };
  return Export.open(await create(), { log: options.log, createBuffer: hostBuffer, ...settings }, state);
}

function given<T>(settings: Settings<T>): Partial<T> {
  return Object.fromEntries(
    Object.entries(settings).filter(([, value]) => value !== undefined),
  ) as Partial<T>;
}

async function within(milliseconds: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const error = new ContractFailure('the case', 'an end', `none within ${milliseconds / 1000} s`);
    timer = setTimeout(() => reject(error), milliseconds);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function removeTree(client: Client, parent: bigint, name: string): Promise<void> {
  const { id, stat } = await client.lookup(parent, name);
  if ((stat.mode & FileType.MASK) !== FileType.DIRECTORY) return client.unlink(parent, name);
  for (const inner of await namesIn(client, id)) await removeTree(client, id, inner);
  return client.rmdir(parent, name);
}
