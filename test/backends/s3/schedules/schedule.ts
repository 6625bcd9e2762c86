import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Random } from '../../../support/random.js';
import { type Fault, Proxy, type Seen } from '../proxy.js';
import { context, Mount, temporaryFolder, type TestBucket } from '../support.js';
import { Steps } from './steps.js';
import { type Ending, type Step, Worlds } from './worlds.js';

const WORKER = fileURLToPath(new URL('killed-worker.js', import.meta.url));

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
/** Rounds of a schedule, each with a start, steps, and an end without warning. */
const ROUNDS = 2;

/** How the process of a mount ends: by SIGKILL, or by what one process can do to look the same. */
export type End = 'killed' | 'cut';

/** What a worker tells. */
interface Told {
  readonly step?: Step;
  readonly ending?: Ending;
  readonly read?: string;
  readonly digest?: string;
  readonly mounted?: true;
}

/** What came of a schedule. */
export interface Outcome {
  readonly violations: readonly string[];
  /** Processes that ended without warning, and of them those that were killed by SIGKILL. */
  readonly ends: number;
  readonly kills: number;
  readonly requests: number;
  readonly faults: number;
  readonly steps: number;
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
  readonly #end: End;
  readonly #prefix: string;
  readonly #worlds = new Worlds();
  readonly #violations: string[] = [];
  readonly #dying: Promise<unknown>[] = [];
  readonly #counts = { ends: 0, kills: 0, requests: 0, faults: 0, steps: 0 };
  #folder = '';
  #isStarting = false;

  constructor(bucket: TestBucket, seed: number, end: End) {
    this.#bucket = bucket;
    this.#random = new Random(seed);
    this.#end = end;
    this.#prefix = `${end}-${seed}`;
  }

  async run(): Promise<Outcome> {
    this.#folder = await temporaryFolder();
    try {
      for (let round = 0; round < ROUNDS && this.#violations.length === 0; round++) {
        if (this.#end === 'cut') await this.#cut();
        else {
          // A start that takes up what a dead one has left may be killed, too.
          const kills = this.#random.chance(30) ? 2 : 1;
          for (let i = 0; i < kills; i++) await this.#kill();
        }
        await this.#verify();
      }
    } catch (error) {
      this.#violations.push(error instanceof Error ? `${error.stack}` : String(error));
    }
    await Promise.all(this.#dying);
    return { violations: this.#violations, ...this.#counts, trace: this.#worlds.trace };
  }

  #options(): Record<string, unknown> {
    const random = this.#random;
    return {
      prefix: this.#prefix,
      cacheDir: this.#folder,
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
  }

  /** A bad line to the server. */
  async #line(): Promise<Proxy> {
    const proxy = await Proxy.start(this.#bucket.endpoint);
    proxy.fault = (seen) => {
      this.#counts.requests += 1;
      if (!this.#random.chance(this.#isStarting ? FAULTY.start : FAULTY.later)) return undefined;
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

  /** Mounts in this process, and cuts it off in the midst of a step. */
  async #cut(): Promise<void> {
    const proxy = await this.#line();
    const { fault } = proxy;
    proxy.fault = () => undefined;
    const mount = await Mount.open(this.#bucket, { ...this.#options(), endpoint: proxy.endpoint });
    proxy.fault = fault;
    this.#isStarting = false;
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
    over.isOver = true;
    const copy = await temporaryFolder();
    cpSync(this.#folder, copy, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    this.#worlds.crash();
    this.#counts.ends += 1;
    this.#dying.push(proxy.close(), mount.backend.mounted.abandon());
    await last;
    await proxy.settled();
    this.#folder = copy;
  }

  /** Has another process mount, and kills it at any moment, of its start too. */
  async #kill(): Promise<void> {
    const proxy = await this.#line();
    const options = JSON.stringify({ ...this.#options(), endpoint: proxy.endpoint });
    const args = [this.#bucket.name, proxy.endpoint, String(this.#random.next()), options];
    const child = spawn(process.execPath, [WORKER, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#isStarting = true;
    let errors = '';
    child.stderr.on('data', (text: Buffer) => (errors = `${errors}${text}`.slice(-2000)));
    const killed = this.#takeDown(child);
    await once(child, 'close');
    await killed;
    // Nothing comes of a start that got no answer in time.
    if (child.signalCode !== 'SIGKILL') this.#worlds.trace.push(`did not start: ${errors}`);
    else this.#counts.kills += 1;
    this.#counts.ends += 1;
    this.#worlds.crash();
    await proxy.close();
  }

  async #takeDown(child: ChildProcess): Promise<void> {
    let left = this.#random.chance(10) ? 0 : 1 + this.#random.below(20);
    const pauseMs = this.#random.below(left === 0 ? 400 : 60);
    for await (const line of createInterface({ input: child.stdout! })) {
      const { step, ending, read, digest, mounted } = JSON.parse(line) as Told;
      if (mounted === true) this.#isStarting = false;
      if (step !== undefined) this.#began(step);
      if (ending !== undefined) this.#worlds.end(ending);
      if (read !== undefined) this.#read(read, digest);
      if (left === 0 || (left > 0 && (step !== undefined || mounted === true) && --left === 0)) {
        left = -1;
        setTimeout(() => child.kill('SIGKILL'), pauseMs);
      }
    }
  }

  #began(step: Step): void {
    this.#counts.steps += 1;
    this.#worlds.begin(step);
  }

  #read(name: string, digest: string | undefined): void {
    const wrong = this.#worlds.read(name, digest);
    if (wrong !== undefined) this.#violations.push(wrong);
  }

  /** Starts again on what is left, brings everything into the bucket, and compares. */
  async #verify(): Promise<void> {
    const mount = await Mount.open(this.#bucket, {
      prefix: this.#prefix,
      cacheDir: this.#folder,
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
