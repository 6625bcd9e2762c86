import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../../core/backend/index.js';
import { ProcessTree } from '../../../core/bench/cpu.js';
import { median, ratioOf } from '../../../core/bench/figures.js';
import { Guest } from '../../../core/guest/index.js';
import { launch, type RunningDaemon } from '../../support/daemons.js';
import { whenListening, type Subject } from '../subject.js';
import { groupsOf, materialScript, type Amount, type Group, type Step } from './steps.js';

/** The program that the guest runs. */
const FILES = 'files.c';

/** MiB. Room for the material, and for what the guest caches. */
const GUEST_MEMORY_MIB = 1536;

/** How daemons are compared. */
export interface GuestComparison {
  readonly amount: Amount;
  /** Keys of groups; default: all. */
  readonly only?: readonly string[] | undefined;
  /** Counted rounds. */
  readonly rounds: number;
  /** Rounds before them that are not counted. */
  readonly warmUp: number;
  /** Guests that work at the same time, each in a folder of its own. */
  readonly guests: number;
  /** An empty folder on the file system to be served. */
  readonly scratch: string;
  onProgress(text: string): void;
}

/** What one step took in one round. */
export interface StepFigures {
  /** Seconds in the guest; of several guests, those of the last one to end. */
  readonly wall: number;
  /** CPU seconds of the daemon or daemons, all their threads and processes. */
  readonly cpu: number;
}

/** A step, measured: the rounds of each daemon, in the order of the daemons. */
export interface StepResult {
  readonly step: Pick<Step, 'key' | 'title'>;
  readonly rounds: readonly (readonly StepFigures[])[];
}

/** What each guest has a share of: one daemon, or one for each guest. */
interface Served {
  readonly trees: readonly ProcessTree[];
  /** By guest. */
  readonly sockets: readonly string[];
  /** Where the guests have it. */
  readonly mountPoint: string;
}

/** CPU seconds that the daemons have used so far. */
function cpuSecondsOf({ trees }: Served): number {
  return trees.reduce((sum, tree) => sum + tree.cpuSeconds(), 0);
}

const allGroups = groupsOf({ files: 1, tree: 1, transactions: 1, fileMiB: 1, smallMiB: 1 });

/** The keys of all groups. */
export const groupKeys: readonly string[] = allGroups.map(({ key }) => key);

/** Those that several guests can work on at the same time: one fio takes all its steps in turn. */
export const sharedGroupKeys: readonly string[] = allGroups
  .filter(({ steps }) => steps.every(({ job }) => job === undefined))
  .map(({ key }) => key);

/**
 * Boots guests of User-Mode Linux with a share of each daemon, and has them take every step on each
 * of them in turns, all guests at the same time. Each daemon serves a folder of its own on the same
 * file system. A daemon that serves one guest is started for each of them.
 * @throws UsageError if User-Mode Linux, gcc or a program of the steps is missing.
 */
export async function compareInGuest(
  subjects: readonly Subject[],
  { amount, only, rounds, warmUp, guests, scratch, onProgress }: GuestComparison,
): Promise<StepResult[]> {
  const wanted = only ?? (guests > 1 ? sharedGroupKeys : groupKeys);
  const groups = groupsOf(amount).filter(({ key }) => wanted.includes(key));
  const files = compile(FILES, join(scratch, 'files'));
  const started: (() => Promise<unknown>)[] = [];
  try {
    const served = await startDaemons(subjects, guests, scratch, started);
    const programs = [files, ...groups.flatMap((group) => group.programs)];
    onProgress(guests > 1 ? 'booting the guests' : 'booting the guest');
    const workers = await startGuests(served, guests, programs, started);
    for (const worker of workers) await worker.obey(materialScript(amount, groups), '/tmp');
    return await takeRounds(workers, groups, served, { rounds, warmUp, onProgress });
  } finally {
    for (const stop of started.toReversed()) await stop();
  }
}

/** @param started gets what stops each daemon. */
async function startDaemons(
  subjects: readonly Subject[],
  guests: number,
  scratch: string,
  started: (() => Promise<unknown>)[],
): Promise<Served[]> {
  const served: Served[] = [];
  for (const [i, { daemon, servesMany }] of subjects.entries()) {
    const directory = join(scratch, `served${i}`);
    mkdirSync(directory);
    const own: RunningDaemon[] = [];
    for (let guest = 0; guest < (servesMany === true ? 1 : guests); guest++) {
      const running = launch(daemon, directory, join(scratch, `socket${i}-${guest}`));
      started.push(() => running.stop());
      own.push(running);
      await whenListening(running);
    }
    served.push({
      trees: own.map((running) => new ProcessTree(running.process.pid!)),
      sockets: Array.from({ length: guests }, (_, guest) => (own[guest] ?? own[0]!).socket),
      mountPoint: `/mnt/${i}`,
    });
  }
  return served;
}

/** @param started gets what stops each guest. */
async function startGuests(
  served: readonly Served[],
  guests: number,
  programs: readonly string[],
  started: (() => Promise<unknown>)[],
): Promise<Worker[]> {
  const workers: Worker[] = [];
  for (let i = 0; i < guests; i++) {
    const shares = served.map(({ sockets, mountPoint }, at) => ({
      tag: `share${at}`,
      socket: sockets[i]!,
      mountPoint,
      isForeign: true,
    }));
    const guest = await Guest.boot({ shares, programs, memory: GUEST_MEMORY_MIB, accelerator: 'uml' });
    started.push(() => guest[Symbol.asyncDispose]());
    const worker = new Worker(guest, `work${i}`);
    started.push(() => worker[Symbol.asyncDispose]());
    workers.push(worker);
  }
  return workers;
}

async function takeRounds(
  workers: readonly Worker[],
  groups: readonly Group[],
  served: readonly Served[],
  { rounds, warmUp, onProgress }: Pick<GuestComparison, 'rounds' | 'warmUp' | 'onProgress'>,
): Promise<StepResult[]> {
  const results = groups.flatMap(({ steps }) =>
    steps.map((step) => ({ step, rounds: served.map((): StepFigures[] => []) })),
  );
  for (let round = -warmUp; round < rounds; round++) {
    // Each daemon is the first one in half of the rounds.
    const order = served.map((_, i) => i);
    if (round % 2 !== 0) order.reverse();
    for (const group of groups) {
      onProgress(round < 0 ? `warming up: ${group.key}` : `round ${round + 1} of ${rounds}: ${group.key}`);
      for (const worker of workers)
        for (const { mountPoint } of served) await worker.obey(`mkdir ${worker.folder}`, mountPoint);
      const figures = await takeSteps(workers, group, served, order);
      for (const worker of workers)
        for (const { mountPoint } of served) await worker.obey(`rm -r ${worker.folder}`, mountPoint);
      if (round < 0) continue;
      for (const { step, rounds: all } of results)
        for (const [i, one] of (figures.get(step.key) ?? []).entries()) all[i]!.push(one);
    }
  }
  return results;
}

/** Compiles a source that lies beside this file's. @returns the path of the result. */
function compile(source: string, result: string): string {
  const path = fileURLToPath(new URL(`../../../../test/bench/guest/${source}`, import.meta.url));
  const line = ['-O2', '-static', '-o', result, path];
  const { error, status, stderr } = spawnSync('gcc', line, { encoding: 'utf8' });
  if (error !== undefined) throw new UsageError('gcc not found: apt-get install gcc libc6-dev');
  if (status !== 0) throw new UsageError(`gcc: ${stderr}`);
  return result;
}

/** The program in the guest that takes commands, one after another. */
class Worker implements AsyncDisposable {
  /** Its folder in each share. */
  readonly folder: string;
  readonly #commands = new PassThrough();
  readonly #ended: Promise<unknown>;
  #held = '';
  #errors = '';
  #onLine: (line: string) => void = () => {};
  #failure: Error | undefined;

  constructor(guest: Guest, folder: string) {
    this.folder = folder;
    const stdout = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        const lines = (this.#held + chunk.toString('latin1')).split('\n');
        this.#held = lines.pop()!;
        for (const line of lines) this.#onLine(line);
        done();
      },
    });
    const stderr = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.#errors = (this.#errors + chunk.toString()).slice(-2000);
        done();
      },
    });
    this.#ended = guest.run(['files', 'obey'], { stdin: this.#commands, stdout, stderr }).then(
      (code) => this.#end(new Error(`the guest's program has ended with ${code}`)),
      (error: unknown) => this.#end(error as Error),
    );
  }

  #end(failure: Error): void {
    this.#failure = failure;
    this.#onLine('done 255 0');
  }

  /**
   * Has the guest carry out a command in a folder.
   * @param onLine gets each line of its output as it comes: "begin" first.
   * @returns the seconds that it took in the guest.
   * @throws Error if it fails, or if the guest has ended.
   */
  async obey(script: string, folder: string, onLine = (_line: string): void => {}): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure;
    const last = new Promise<string>((resolve) => {
      this.#onLine = (line) => {
        onLine(line);
        if (line.startsWith('done ')) resolve(line);
      };
    });
    this.#commands.write(`${folder} ${Buffer.byteLength(script)}\n${script}`);
    const [, code, nanoseconds] = (await last).split(' ');
    if (code !== '0')
      throw this.#failure ?? new Error(`exit code ${code} in the guest: ${script}\n${this.#errors}`);
    return Number(nanoseconds) / 1e9;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#commands.end();
    await this.#ended;
  }
}

/** Figures of each step by its key, in the order of the daemons. */
type FiguresByStep = ReadonlyMap<string, StepFigures[]>;

/** Takes the steps of a group on each daemon in turns. */
async function takeSteps(
  workers: readonly Worker[],
  { steps }: Group,
  served: readonly Served[],
  order: readonly number[],
): Promise<FiguresByStep> {
  const figures: FiguresByStep = new Map(steps.map(({ key }) => [key, []]));
  for (const { key, script } of steps) {
    if (script === undefined) continue;
    for (const i of order) figures.get(key)![i] = await takeStep(workers, script, served[i]!);
  }
  const jobs = steps.filter(({ job }) => job !== undefined);
  if (jobs.length > 0) await runFio(workers[0]!, jobs, served, order, figures);
  return figures;
}

/** Has all guests take a step at the same time. */
async function takeStep(workers: readonly Worker[], script: string, share: Served): Promise<StepFigures> {
  let waiting = workers.length;
  let cpu = 0;
  const walls = await Promise.all(
    workers.map((worker) =>
      worker.obey(script, `${share.mountPoint}/${worker.folder}`, (line) => {
        // From here on all of them have dropped what they had cached.
        if (line === 'begin' && --waiting === 0) cpu = -cpuSecondsOf(share);
      }),
    ),
  );
  return { wall: Math.max(...walls), cpu: cpu + cpuSecondsOf(share) };
}

/** Of fio's result, as far as it is used. */
interface FioResult {
  readonly jobs: readonly { readonly error: number; readonly read: FioRun; readonly write: FioRun }[];
}

interface FioRun {
  /** Milliseconds. */
  readonly runtime: number;
}

/** One fio for all steps and daemons, since it takes seconds to start. */
async function runFio(
  worker: Worker,
  steps: readonly Step[],
  served: readonly Served[],
  order: readonly number[],
  figures: FiguresByStep,
): Promise<void> {
  const turns = steps.flatMap(({ key, job }) => order.map((i) => ({ key, job, i })));
  const global = [
    '[global]',
    'ioengine=libaio',
    'direct=1',
    'stonewall',
    // The marks leave the guest before what comes after them begins.
    "exec_prerun=sh -c 'echo fio begins >&9 && sleep 0.1'",
    "exec_postrun=sh -c 'echo fio ends >&9 && sleep 0.1'",
  ];
  const jobs = turns.map(
    ({ key, job, i }) => `[${key}-${i}]\nfilename=${served[i]!.mountPoint}/${worker.folder}/big\n${job}`,
  );
  const script = [
    'exec 9>&1',
    `cat >jobs.fio <<'END'\n${[...global, ...jobs].join('\n')}\nEND`,
    'fio --output-format=json --output=result.json jobs.fio >&2',
    'echo result',
    'cat result.json',
  ];
  const cpu: number[] = [];
  let turn = 0;
  let before = 0;
  let json: string | undefined;
  await worker.obey(script.join('\n'), '/tmp', (line) => {
    if (line.startsWith('done ')) return;
    if (json !== undefined) json += line;
    else if (line === 'result') json = '';
    else if (line === 'fio begins') before = cpuSecondsOf(served[turns[turn]!.i]!);
    else if (line === 'fio ends') cpu.push(cpuSecondsOf(served[turns[turn++]!.i]!) - before);
  });
  const { jobs: results } = JSON.parse(json ?? '') as FioResult;
  for (const [at, { key, i }] of turns.entries()) {
    const { error, read, write } = results[at]!;
    const spent = cpu[at];
    if (error !== 0 || spent === undefined) throw new Error(`fio: ${key} failed with errno ${error}`);
    figures.get(key)![i] = { wall: (read.runtime + write.runtime) / 1000, cpu: spent };
  }
}

/** The results as a table of Markdown; ratios are of the first daemon to each of the others. */
export function guestTable(subjects: readonly Subject[], results: readonly StepResult[]): string {
  const [first, ...others] = subjects.map(({ name }) => name);
  const head = [
    'seconds: wall clock, CPU of the daemon',
    first!,
    ...others,
    ...others.flatMap((name) => [`wall : ${name}`, `CPU : ${name}`]),
  ];
  const lines = results.map(({ step, rounds }) => {
    const cells = rounds.map((all) =>
      [median(all.map(({ wall }) => wall)), median(all.map(({ cpu }) => cpu))]
        .map((seconds) => seconds.toFixed(2))
        .join(', '),
    );
    const ratios = rounds.slice(1).flatMap((other) =>
      (['wall', 'cpu'] as const).map((what) => {
        const {
          median: middle,
          least,
          most,
        } = ratioOf(
          rounds[0]!.map((one) => one[what]),
          other.map((one) => one[what]),
        );
        return `${middle.toFixed(2)} (${least.toFixed(2)}–${most.toFixed(2)})`;
      }),
    );
    return [step.title, ...cells, ...ratios];
  });
  const rule = head.map(() => '---');
  return [head, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}
