import { randomBytes } from 'node:crypto';
import {
  type Awaitable,
  type Backend,
  type CachePolicy,
  FileType,
  FsError,
  type Logger,
  UsageError,
} from '../backend/index.js';
import { Session } from '../fuse/index.js';
import { hostBuffer } from '../memory/index.js';
import { Export, type ExportLimits, type NodeIdHigh, type NodeIdLow } from '../state/index.js';
import { type ContractCase, type Method, namesIn, noise, type Trial } from './case.js';
import { cases } from './cases/index.js';
import { Client, type Found, ROOT } from './client.js';
import { ContractFailure, NotSupported } from './expect.js';
import { NamePattern } from './name-pattern.js';

/** Settings, all of them optional. */
type Settings<T> = { readonly [K in keyof T]?: T[K] | undefined };

/** What {@link checkBackend} checks, and how. */
export interface CheckOptions {
  /**
   * Makes the backend. Rules about restarts call it again: the new backend must have the same data,
   * and its `restore` gets what the former one's `save` has returned.
   */
  create(): Awaitable<Backend>;
  /** Gets what the backend and the session log. */
  readonly log: Logger;
  /** Settings of the export, as for any that is served. */
  readonly cache?: Settings<CachePolicy>;
  /** Limits of the export, as for any that is served. */
  readonly limits?: Settings<ExportLimits>;
  /** Chooses the cases to run, by name. Default: all. */
  readonly only?: (name: string) => boolean;
  /** How long a case may take, and what comes after it, in milliseconds. Default: 60,000. */
  readonly timeoutMs?: number;
  /** The directory in which files are made, as a path below the root. Default: the root. */
  readonly directory?: string;
  /** What files are called, where the backend takes not every name: a pattern such as `*.json`. */
  readonly namePattern?: string;
  /**
   * Content that the backend takes for a file, where it does not take every content. Rules that
   * write another are skipped then.
   */
  readonly content?: Uint8Array;
  /** Chooses the random sequences of operations: the same ones for the same number. Default: 1. */
  readonly seed?: number;
  /** Chooses cases that may fail, by name. One that passes all the same is reported as failed. */
  readonly except?: (name: string) => boolean;
  /** Called after each case. */
  readonly onResult?: (result: CaseResult) => void;
}

/** The result of one case. */
export interface CaseResult {
  /** The rule, as a sentence. */
  readonly name: string;
  /** Skipped: the backend lacks what the rule is about. */
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** For a failure: what was expected and what came. For a skip: what the backend lacks. */
  readonly reason?: string;
  /** For a failure by an unexpected exception of the suite: the exception. */
  readonly error?: unknown;
  /** For a failure: what the backend has thrown meanwhile that is no FsError. */
  readonly causes?: readonly unknown[];
}

/** The results of all cases. */
export interface CheckReport {
  /** A result for each rule, in the order in which they ran. */
  readonly results: readonly CaseResult[];
  /** How many rules the backend keeps. */
  readonly passed: number;
  /** How many it breaks. */
  readonly failed: number;
  /** How many it has not the methods for. */
  readonly skipped: number;
}

/** Name of the result for what comes after all rules, which is there only if that fails. */
const AFTERWARDS = 'the session and the backend end';

/**
 * Checks a backend against the contract, through a session, as a guest would see it. Rules run only
 * if the backend has the methods that they need. If it can make directories, everything happens in
 * a new directory with a random name in the one to begin in, which is removed afterwards if
 * possible. If not, files are made in the one to begin in, which should be empty, and those of each
 * rule are removed before the next.
 * @throws what making and mounting the backend throws, and UsageError for a directory that is not
 * there.
 */
export async function checkBackend(options: CheckOptions): Promise<CheckReport> {
  const bench = await Bench.open(options);
  const results: CaseResult[] = [];
  const report = (result: CaseResult): void => {
    results.push(result);
    options.onResult?.(result);
  };
  for (const one of cases) {
    if (options.only !== undefined && !options.only(one.name)) continue;
    report(expected(await bench.run(one), options.except?.(one.name) === true));
    if (bench.isBroken) break;
  }
  const failure = await bench.close();
  if (failure !== undefined) report(failure);
  const count = (outcome: CaseResult['outcome']): number =>
    results.filter((result) => result.outcome === outcome).length;
  return { results, passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

function expected(result: CaseResult, mayFail: boolean): CaseResult {
  if (!mayFail || result.outcome === 'skipped') return result;
  const { name, reason = '' } = result;
  if (result.outcome === 'failed') return { name, outcome: 'skipped', reason: `excepted: ${reason}` };
  return { name, outcome: 'failed', reason: 'it is excepted, and holds' };
}

/** A mounted backend with a session. */
class Bench {
  readonly #options: CheckOptions;
  readonly #folder = `virtiofs-kit-check-${randomBytes(6).toString('hex')}`;
  readonly #log: KeepingLog;
  #export: Export;
  #names: NamePattern | undefined;
  #session!: Session;
  #client!: Client;
  #cases = 0;
  /** Names that the cases have made in the directory to begin in. */
  readonly #made = new Set<string>();
  /** Where the rules share a directory: the one to begin in, or one of the check's own. */
  #shared: 'start' | 'own' | undefined;
  /** Whether no rule can be tried any more, since a session or the backend did not end. */
  isBroken = false;

  private constructor(options: CheckOptions, shared: Export, log: KeepingLog) {
    this.#options = options;
    this.#export = shared;
    this.#log = log;
  }

  static async open(options: CheckOptions): Promise<Bench> {
    const log = new KeepingLog(options.log);
    const opened = await within(timeoutOf(options), 'mount', openExport({ ...options, log }));
    const bench = new Bench(options, opened, log);
    try {
      await bench.#begin();
      await bench.#start();
    } catch (error) {
      await bench.close();
      throw error;
    }
    return bench;
  }

  async run(one: ContractCase): Promise<CaseResult> {
    const reason = this.#whyNot(one);
    if (reason !== undefined) return { name: one.name, outcome: 'skipped', reason };
    this.#log.causes = [];
    const result = await this.#outcome(one);
    const after = await this.#again();
    const failed = result.outcome === 'failed' ? result : (after ?? result);
    return failed.outcome === 'failed' && this.#log.causes.length > 0
      ? { ...failed, causes: this.#log.causes }
      : failed;
  }

  #whyNot({ needs }: ContractCase): string | undefined {
    const missing = needs
      .map((need) => [need].flat())
      .filter((methods) => !methods.some((method) => this.#has(method)));
    if (missing.length > 0)
      return `the backend has no ${missing.map((methods) => methods.join(' or ')).join(', ')}`;
    return undefined;
  }

  async #outcome({ name, run }: ContractCase): Promise<CaseResult> {
    const { namePattern } = this.#options;
    try {
      this.#names = namePattern === undefined ? undefined : new NamePattern(namePattern);
      await this.#end();
      await this.#begin();
      const trying = this.#trial(`case-${++this.#cases}`).then(run);
      await within(this.#timeoutMs, 'the case', trying);
      return { name, outcome: 'passed' };
    } catch (error) {
      if (error instanceof NotSupported)
        return { name, outcome: 'skipped', reason: `refused: ${error.message}` };
      if (error instanceof ContractFailure) return { name, outcome: 'failed', reason: error.message };
      const { failure } = this.#client;
      if (error instanceof FsError && failure?.error === error)
        return { name, outcome: 'failed', reason: `${failure.request}: ${error.code}` };
      return { name, outcome: 'failed', reason: String(error), error };
    }
  }

  /** Begins anew after a case. @returns a failure if the session does not end. */
  async #again(): Promise<CaseResult | undefined> {
    try {
      await this.#end();
      this.#names = undefined;
      await this.#begin();
      await within(this.#timeoutMs, 'removing the files of the case', this.#sweep());
      return undefined;
    } catch (error) {
      this.isBroken = true;
      return { name: AFTERWARDS, outcome: 'failed', reason: reasonOf(error) };
    }
  }

  /** Removes what a case has made, where the next one gets the same directory. */
  async #sweep(): Promise<void> {
    const client = this.#client;
    if (this.#shared === undefined || !this.#has('unlink')) return;
    if (this.#shared === 'own' && !this.#has('readdir')) return;
    try {
      const start = await this.#start();
      if (this.#shared === 'own') {
        const { id } = await client.lookup(start, this.#folder);
        for (const name of await namesIn(client, id)) await removeTree(client, id, name);
        return;
      }
      // Others may use the directory, too.
      for (const name of this.#made) {
        if ((await client.find(start, name)) !== undefined) await removeTree(client, start, name);
        this.#made.delete(name);
      }
    } catch (error) {
      this.#options.log.warn({ error: reasonOf(error) }, 'what a rule has made stays');
    }
  }

  /** Removes what the cases have made, if the backend can do that. */
  async #clean(): Promise<void> {
    const { unlink, rmdir, readdir } = this.#export.backend;
    if (unlink === undefined || rmdir === undefined || readdir === undefined) return;
    try {
      await within(this.#timeoutMs, 'removing the files of the check', this.#remove());
    } catch (error) {
      this.#options.log.warn({ folder: this.#folder, error: reasonOf(error) }, 'the files of the check stay');
    }
  }

  async #remove(): Promise<void> {
    const parent = await this.#start();
    if ((await this.#client.find(parent, this.#folder)) !== undefined)
      await removeTree(this.#client, parent, this.#folder);
  }

  /** Removes what was made, and unmounts. @returns a failure if that does not end. */
  async close(): Promise<CaseResult | undefined> {
    try {
      if (!this.isBroken) {
        await this.#clean();
        await this.#end();
      }
      await within(this.#timeoutMs, 'unmount', this.#export.close());
      return undefined;
    } catch (error) {
      return { name: AFTERWARDS, outcome: 'failed', reason: reasonOf(error) };
    }
  }

  get #timeoutMs(): number {
    return timeoutOf(this.#options);
  }

  #has(method: Method): boolean {
    return this.#export.backend[method] !== undefined;
  }

  /** The directory in which to begin. @throws UsageError if it is not there. */
  async #start(): Promise<bigint> {
    let at = ROOT;
    for (const name of (this.#options.directory ?? '').split('/').filter((part) => part !== '')) {
      const found = await this.#findDirectory(at, name);
      if (found === undefined)
        throw new UsageError(`directory ${this.#options.directory}: no ${name} in the backend`);
      at = found.id;
    }
    return at;
  }

  /** Directories are called what they are, whatever files are called. */
  #findDirectory(parent: bigint, name: string): Promise<Found | undefined> {
    this.#names?.directory(name);
    return this.#client.find(parent, name);
  }

  async #trial(folder: string): Promise<Trial> {
    const client = this.#client;
    let directory = await this.#start();
    this.#shared = 'start';
    for (const [name, shared] of [
      [this.#folder, 'own'],
      [folder, undefined],
    ] as const) {
      const made = this.#has('mkdir') ? await this.#madeDirectory(directory, name) : undefined;
      if (made === undefined) break;
      directory = made;
      this.#shared = shared;
    }
    if (this.#shared === 'start') client.note(directory, this.#made);
    const restart = async (): Promise<Trial> => {
      await this.#end();
      const state = await this.#export.backend.save?.();
      await this.#export.close();
      this.#export = await openExport({ ...this.#options, log: this.#log }, state);
      await this.#begin();
      return this.#trial(folder);
    };
    const { backend } = this.#export;
    const content = this.#options.content ?? noise(CONTENT_BYTES);
    const { seed = 1 } = this.#options;
    return { client, backend, directory, seed, content, keyOf: (id) => this.#keyOf(id), restart };
  }

  /** A directory of that name; undefined if the backend has none in this place. */
  async #madeDirectory(parent: bigint, name: string): Promise<bigint | undefined> {
    const known = await this.#findDirectory(parent, name);
    if (known !== undefined) return known.id;
    try {
      return (await this.#client.mkdir(parent, name)).id;
    } catch (error) {
      if (error === FsError.of('EPERM') || error === FsError.of('EACCES')) return undefined;
      throw error;
    }
  }

  #keyOf(id: bigint): string | undefined {
    const { backend, nodes } = this.#export;
    if (backend.key === undefined) return undefined;
    const low = Number(BigInt.asIntN(32, id)) as NodeIdLow;
    const slot = nodes.find(low, Number(BigInt.asIntN(32, id >> 32n)) as NodeIdHigh);
    const key = backend.key(nodes.node(slot));
    return typeof key === 'object' ? `bytes ${Buffer.from(key).toString('hex')}` : JSON.stringify(key);
  }

  async #begin(): Promise<void> {
    this.#session = new Session(this.#export, { drainTimeoutMs: Math.min(1000, this.#timeoutMs) });
    this.#client = new Client(this.#session, { names: this.#names, content: this.#options.content });
    this.#client.endAfter(this.#timeoutMs);
    await this.#client.init();
  }

  async #end(): Promise<void> {
    const client = this.#client;
    const ending = (async () => {
      await client.forgetAll();
      await this.#session.drain();
      await this.#session.close();
    })();
    await within(this.#timeoutMs, 'the session', ending);
    client.close();
  }
}

/** Bytes of a trial's content where none was given. */
const CONTENT_BYTES = 10_000;

/** Passes lines on, and keeps the exceptions in them. */
class KeepingLog implements Logger {
  readonly #log: Logger;
  causes: unknown[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  debug(fields: object, message: string): void {
    this.#log.debug(fields, message);
  }

  info(fields: object, message: string): void {
    this.#log.info(fields, message);
  }

  warn(fields: object, message: string): void {
    this.#keep(fields);
    this.#log.warn(fields, message);
  }

  error(fields: object, message: string): void {
    this.#keep(fields);
    this.#log.error(fields, message);
  }

  #keep(fields: object): void {
    if ('err' in fields && this.causes.length < MOST_CAUSES) this.causes.push(fields.err);
  }
}

/** Most exceptions that one result shows. */
const MOST_CAUSES = 3;

function timeoutOf({ timeoutMs = 60_000 }: CheckOptions): number {
  return timeoutMs;
}

function reasonOf(error: unknown): string {
  return error instanceof ContractFailure ? error.message : String(error);
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

async function within<T>(milliseconds: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const error = new ContractFailure(what, 'an end', `none within ${milliseconds / 1000} s`);
    timer = setTimeout(() => reject(error), milliseconds);
  });
  try {
    return await Promise.race([work, late]);
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
