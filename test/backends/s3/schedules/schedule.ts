import { cpSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../../support/random.js';
import { type Fault, Proxy, type Seen } from '../proxy.js';
import { context, Mount, temporaryFolder, type TestBucket } from '../support.js';
import type { Order, Told } from './killed.js';
import { Steps } from './steps.js';
import { type Step, Worlds } from './worlds.js';

/** What befalls a request. */
const FAULTS: readonly Fault[] = [
  'slow-down',
  'internal-error',
  'reset-before',
  'reset-after',
  'short-body',
  'delay',
  'duplicate',
  'expired',
  'bad-digest',
  'portal',
];
/** Of a hundred requests, those that meet a fault: of a start, and later. */
const FAULTY = { start: 4, later: 20 };

/** How the process of a mount ends: by SIGKILL, or by what one process can do to look the same. */
export type End = 'killed' | 'cut';

/** What came of a schedule. */
export interface Outcome {
  readonly violations: readonly string[];
  /** Processes that ended without warning, and of them those that were killed by SIGKILL. */
  readonly ends: number;
  readonly kills: number;
  readonly requests: number;
  readonly faults: number;
  readonly steps: number;
  /** Of whole files, each compared with what may be in it. */
  readonly reads: number;
  readonly trace: readonly string[];
}

/**
 * A schedule: mounts of one prefix, one after the other, whose requests meet faults and which end
 * in the midst of what they do. Whatever was acknowledged must be there afterwards, and nothing may
 * be kept aside, since there is no other writer.
 *
 * An end that is `cut` is simulated as exactly as one process allows: at one instant the cache
 * folder is copied, as kill -9 would leave it, and the network is cut; the next mount works on the
 * copy.
 */
export class Schedule {
  readonly #bucket: TestBucket;
  readonly #random: Random;
  readonly #prefix: string;
  readonly #worlds = new Worlds();
  readonly #violations: string[] = [];
  readonly #counts = { ends: 0, kills: 0, requests: 0, faults: 0, steps: 0, reads: 0 };
  #folder = '';
  #proxy: Proxy | undefined;
  #meets: 'nothing' | 'faults of a start' | 'faults' | 'a cut line' = 'nothing';

  constructor(bucket: TestBucket, seed: number, end: End) {
    this.#bucket = bucket;
    this.#random = new Random(seed);
    this.#prefix = `${end}-${seed}`;
  }

  /** Whether nothing was wrong so far. */
  get isRight(): boolean {
    return this.#violations.length === 0;
  }

  async end(): Promise<Outcome> {
    await this.#proxy?.close();
    return { violations: this.#violations, ...this.#counts, trace: this.#worlds.trace };
  }

  #options(): Record<string, unknown> {
    const random = this.#random;
    const options = {
      prefix: this.#prefix,
      cacheDir: this.#folder,
      endpoint: this.#proxy!.endpoint,
      // No fault hangs: what takes longer is a busy machine's.
      requestTimeout: 15,
      operationTimeout: 6,
      partSize: '5m',
      // So little that large files go to the disk and come from there.
      memoryCache: '4m',
      diskCache: random.pick([0, '64m']),
      verify: random.pick(['small', 'whole']),
      removals: random.pick(['gathered', 'single']),
      exclusive: random.pick(['bucket', 'mount']),
      durability: random.pick(['bucket', 'local']),
      // Files go up at once, or wait while more happens to them and to their names.
      writebackDelay: random.pick([0, 0.05, 600]),
      metadataTtl: random.pick([0, 5]),
    };
    this.#worlds.trace.push(`mounted with ${JSON.stringify(options)}`);
    return options;
  }

  /** A bad line to the server. */
  async #line(): Promise<Proxy> {
    const proxy = await Proxy.start(this.#bucket.endpoint);
    proxy.fault = (seen) => {
      this.#counts.requests += 1;
      if (this.#meets === 'nothing') return undefined;
      if (this.#meets === 'a cut line') return 'reset-before';
      if (!this.#random.chance(this.#meets === 'faults' ? FAULTY.later : FAULTY.start)) return undefined;
      this.#counts.faults += 1;
      return this.#faultOf(seen);
    };
    return proxy;
  }

  #faultOf({ operation }: Seen): Fault {
    const fault = this.#random.pick(FAULTS);
    // Ceph 16 completes an upload once only, and then does not know it any more.
    return fault === 'duplicate' && /Multipart|UploadPart/.test(operation) ? 'reset-after' : fault;
  }

  /** A folder and a line, and now and then a start that has to find out what the server keeps. */
  async #prepare(): Promise<void> {
    if (this.#folder === '') this.#folder = await temporaryFolder();
    if (this.#random.chance(25)) await rm(join(this.#folder, 'server.json'), { force: true });
    this.#proxy ??= await this.#line();
  }

  /** Mounts in this process, and cuts it off in the midst of a step. */
  async cut(): Promise<void> {
    await this.#guarded(async () => {
      await this.#prepare();
      this.#meets = 'nothing';
      const mount = await Mount.open(this.#bucket, this.#options());
      this.#meets = 'faults';
      const over = { isOver: false };
      const steps = new Steps(mount, this.#random, {
        begin: (step) => this.#began(step),
        end: (ending) => this.#worlds.end(ending),
        read: (name, digest) => this.#read(name, digest),
        get isOver() {
          return over.isOver;
        },
      });
      for (let i = 2 + this.#random.below(6); i > 0; i--) await steps.next();
      const last = steps.next();
      await sleep(this.#random.below(40));
      const copy = await temporaryFolder();
      // All at one instant.
      over.isOver = true;
      this.#meets = 'a cut line';
      cpSync(this.#folder, copy, { recursive: true, filter: (path) => !path.endsWith('.sock') });
      const cut = this.#proxy!.cut();
      this.#worlds.crash();
      this.#counts.ends += 1;
      await Promise.all([cut, mount.backend.mounted.abandon(), last]);
      await rm(this.#folder, { recursive: true, force: true });
      this.#folder = copy;
    });
  }

  /**
   * @returns what a process needs to make steps, of which {@link heard} and {@link died} are told.
   */
  async start(): Promise<Omit<Order, 'id' | 'afterMs'>> {
    await this.#prepare();
    this.#meets = 'faults of a start';
    const { name } = this.#bucket;
    const { endpoint } = this.#proxy!;
    return { name, endpoint, seed: this.#random.next(), options: this.#options() };
  }

  heard({ mounted, failed, step, ending, read, digest }: Told): void {
    if (mounted === true) this.#meets = 'faults';
    // Nothing comes of a start that got no answer in time.
    if (failed !== undefined) this.#worlds.trace.push(`did not start: ${failed}`);
    if (step !== undefined) this.#began(step);
    if (ending !== undefined) this.#worlds.end(ending);
    if (read !== undefined) this.#read(read, digest);
  }

  /** @param errors of a process that was not killed. */
  async died(errors: string | undefined): Promise<void> {
    if (errors === undefined) this.#counts.kills += 1;
    else this.#violations.push(`ended by itself: ${errors}`);
    this.#counts.ends += 1;
    this.#worlds.crash();
    await this.#proxy!.cut();
  }

  #began(step: Step): void {
    this.#counts.steps += 1;
    this.#worlds.begin(step);
  }

  #read(name: string, digest: string | undefined): void {
    this.#counts.reads += 1;
    const wrong = this.#worlds.read(name, digest);
    if (wrong !== undefined) this.#violations.push(wrong);
  }

  /** Starts again on what is left, brings everything into the bucket, and compares. */
  async verify(): Promise<void> {
    await this.#guarded(async () => {
      await this.#prepare();
      this.#meets = 'nothing';
      await this.#compare();
    });
  }

  async #guarded(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.#violations.push(error instanceof Error ? `${error.stack}` : String(error));
    }
  }

  async #compare(): Promise<void> {
    const { endpoint } = this.#proxy!;
    const mount = await Mount.open(this.#bucket, {
      prefix: this.#prefix,
      cacheDir: this.#folder,
      endpoint,
      partSize: '5m',
    });
    await mount.backend
      .syncfs(context)
      .catch((error: unknown) => this.#violations.push(`sync: ${String(error)}`));
    const found = new Map<string, Buffer>();
    for (const key of await this.#bucket.keys(`${this.#prefix}/`)) {
      // A fault may keep a start from deleting its probe. A later start deletes it.
      if (key.includes('/.virtiofs-kit/probe-')) continue;
      found.set(key.slice(this.#prefix.length + 1), await this.#bucket.get(key));
    }
    const wrong = this.#worlds.found(found);
    if (wrong !== undefined) this.#violations.push(wrong);
    for (const [name, content] of found) {
      if (!(await mount.content(name)).equals(content)) this.#violations.push(`${name} is read otherwise`);
    }
    const { conflicts } = mount.backend.mounted.services.metrics;
    const { asides } = mount.backend.mounted.files.losses;
    if (conflicts + asides > 0) this.#violations.push(`${conflicts} conflicts, ${asides} asides`);
    if (this.#violations.length > 0) this.#worlds.trace.push(...mount.log.lines);
    await mount.close();
    this.#worlds.trace.push('verified');
  }
}
