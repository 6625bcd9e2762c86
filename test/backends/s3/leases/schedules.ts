import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Random } from '../../../support/random.js';
import { Proxy, type Fault } from '../proxy.js';
import { temporaryFolder, TestBucket } from '../support.js';
import { violations, type Step } from './histories.js';

const LOCKER = fileURLToPath(new URL('locker.js', import.meta.url));

/** What befalls a single request. */
const FAULTS: readonly Fault[] = [
  'reset-before',
  'reset-after',
  'internal-error',
  'slow-down',
  'delay',
  'late',
  'duplicate',
];

/** What a schedule is made of. */
export interface Schedule {
  readonly seed: number;
  readonly workers: number;
  /** Done steps after which it ends. */
  readonly steps: number;
  /** Of a thousand requests, those with a fault. */
  readonly faults: number;
  /** How often a worker is cut off from the bucket for longer than its lease lasts, or killed. */
  readonly cuts: number;
  readonly kills: number;
}

/** What came of a schedule. */
export interface Outcome {
  readonly violations: readonly string[];
  /** Steps that were begun, and those that are done. */
  readonly begun: number;
  readonly done: number;
  readonly requests: number;
}

/** Seconds of a lease: a busy machine must not keep its holder from renewing it. */
const TERM_SECONDS = 3;
/** Milliseconds for which a line is cut, at least and by how much longer at most. */
const CUT_MS = 2_000;
const CUT_SPREAD_MS = 4_000;

/** One worker's host: its process, which is started again when it was killed. */
class Host {
  readonly #steps = new Map<string, Partial<Step> & { mark: string; began: number }>();
  isCut = false;
  readonly #name: string;
  readonly #bucket: TestBucket;
  readonly #proxy: Proxy;
  readonly #folder: string;
  #child: ChildProcess;
  #errors = '';

  private constructor(name: string, bucket: TestBucket, proxy: Proxy, folder: string) {
    this.#name = name;
    this.#bucket = bucket;
    this.#proxy = proxy;
    this.#folder = folder;
    this.#child = this.#start();
  }

  static async start(name: string, bucket: TestBucket, random: Random, faults: number): Promise<Host> {
    const proxy = await Proxy.start(bucket.endpoint);
    proxy.raw = true;
    const host = new Host(name, bucket, proxy, await temporaryFolder());
    proxy.fault = () => {
      if (host.isCut) return 'reset-before';
      return random.below(1000) < faults ? FAULTS[random.below(FAULTS.length)] : undefined;
    };
    return host;
  }

  get requests(): number {
    return this.#proxy.seen.length;
  }

  /** All that it has begun, by all of its processes. */
  get all(): Step[] {
    return [...this.#steps.values()].map((step) => ({
      ended: Infinity,
      value: undefined,
      isDone: false,
      ...step,
    }));
  }

  #start(): ChildProcess {
    const { name } = this.#bucket;
    const args = [name, this.#proxy.endpoint, this.#folder, this.#name, String(TERM_SECONDS)];
    const child = spawn(process.execPath, [LOCKER, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    createInterface(child.stdout!).on('line', (line) => {
      const told = JSON.parse(line) as { mark: string; began: number };
      this.#steps.set(told.mark, { ...this.#steps.get(told.mark), ...told });
    });
    child.stderr!.on('data', (text: Buffer) => (this.#errors = `${this.#errors}${text}`.slice(-4000)));
    return child;
  }

  async kill(): Promise<void> {
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
    this.#child = this.#start();
  }

  /** Lets it end its last step. @returns what it has said of errors, if it did not end well. */
  async end(): Promise<string | undefined> {
    const child = this.#child;
    const isOver = child.exitCode !== null || child.signalCode !== null;
    const closed = isOver ? undefined : once(child, 'close');
    child.stdin!.end();
    await closed;
    await this.#proxy.settled();
    await this.#proxy.close();
    return child.exitCode === 0 ? undefined : `${this.#name} ended with ${child.exitCode}: ${this.#errors}`;
  }
}

/** Lets hosts count under one lock, with faults, and checks what came of it. */
export async function run({ seed, workers, steps, faults, cuts, kills }: Schedule): Promise<Outcome> {
  const random = new Random(seed);
  const bucket = await TestBucket.create();
  await bucket.put('counter', '0');
  await bucket.put('log', '');
  const hosts: Host[] = [];
  for (let i = 0; i < workers; i++) hosts.push(await Host.start(`w${i}`, bucket, random, faults));
  const events = [...Array<'cut'>(cuts).fill('cut'), ...Array<'kill'>(kills).fill('kill')]
    .map((kind) => ({ kind, at: 1 + random.below(steps - 1), host: random.pick(hosts) }))
    .sort((a, b) => a.at - b.at);
  const all = (): Step[] => hosts.flatMap((host) => host.all);
  const until = async (count: number): Promise<void> => {
    while (all().filter(({ isDone }) => isDone).length < count) await sleep(20);
    // At any moment of the step that comes next.
    await sleep(random.below(300));
  };
  for (const { kind, at, host } of events) {
    await until(at);
    if (kind === 'kill') await host.kill();
    else if (!host.isCut) {
      host.isCut = true;
      setTimeout(() => (host.isCut = false), CUT_MS + random.below(CUT_SPREAD_MS));
    }
  }
  await until(steps);
  const failed = (await Promise.all(hosts.map((host) => host.end()))).filter((text) => text !== undefined);
  const history = all();
  const counter = Number(await bucket.get('counter'));
  const log = `${await bucket.get('log')}`.split('\n').filter((line) => line !== '');
  return {
    violations: [...violations(history, counter, log), ...failed],
    begun: history.length,
    done: history.filter(({ isDone }) => isDone).length,
    requests: hosts.reduce((sum, host) => sum + host.requests, 0),
  };
}
