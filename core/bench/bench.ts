import type { ProcessTree } from './cpu.js';
import { BenchError, Driver, type DriverOptions } from './driver.js';
import { figuresOf, type Figures } from './figures.js';
import type { Lane } from './lane.js';
import type { Prepared, Scenario } from './scenarios.js';
import { connect, type Target } from './target.js';
import { WorkArea } from './work-area.js';

/** How it is measured. */
export interface BenchOptions extends Partial<DriverOptions> {
  /** Seconds that each scenario runs in each round. Default 0.5. */
  readonly seconds?: number | undefined;
  /**
   * Seconds that a daemon works on a scenario before it is first measured, so that its caches and
   * compiler are warm. Default 1.
   */
  readonly warmUp?: number | undefined;
  /** How often each is measured; figures are medians. Default 1. */
  readonly rounds?: number | undefined;
  /** Microseconds between an answer and the next request, in all rows. Default: each row's own. */
  readonly thinkTime?: number | undefined;
  /** Hears what is going on. */
  onProgress?(text: string): void;
}

/** A daemon's results in one scenario: the figures of every round. */
export interface Measurement {
  readonly target: Target;
  readonly rounds: readonly Figures[];
}

/** One scenario, measured. */
export interface Row {
  readonly scenario: Scenario;
  /** In the order of the targets. */
  readonly measurements: readonly Measurement[];
}

/** What is known about a daemon apart from its figures. */
export interface TargetSummary {
  readonly target: Target;
  /** Request queues that were used. */
  readonly requestQueues: number;
  /** Resident bytes in the end; null where the process is not known. */
  readonly resident: number | null;
}

export interface BenchResult {
  readonly rows: readonly Row[];
  readonly targets: readonly TargetSummary[];
}

/**
 * How long a daemon warms up before later rounds, as a share of a round's time. The other daemons
 * have used the processor's caches meanwhile.
 */
const WARM_UP = 0.2;

/** A daemon that is connected. */
class Subject {
  readonly target: Target;
  readonly driver: Driver;
  readonly area: WorkArea;
  readonly #tree: ProcessTree | undefined;
  readonly #prepared = new Map<Scenario, Prepared>();

  private constructor(target: Target, driver: Driver, tree: ProcessTree | undefined) {
    this.target = target;
    this.driver = driver;
    this.#tree = tree;
    this.area = new WorkArea(driver, `virtiofs-kit-bench-${process.pid}-${Math.floor(Math.random() * 1e9)}`);
  }

  static async connect(target: Target, options: DriverOptions): Promise<Subject> {
    const { frontEnd, tree } = await connect(target);
    try {
      return new Subject(target, new Driver(frontEnd, options), tree);
    } catch (error) {
      frontEnd.close();
      throw new BenchError(`${target.socket}: ${(error as Error).message}`, { cause: error });
    }
  }

  measure(scenario: Scenario, seconds: number, firstWarmUp: number, think = scenario.think ?? 0): Figures {
    const isFirst = !this.#prepared.has(scenario);
    const prepared = this.#prepared.get(scenario) ?? scenario.prepare(this.area);
    this.#prepared.set(scenario, prepared);
    const lanes = this.driver.openLanes(scenario.depth, scenario.dataBytes);
    try {
      const warm = isFirst ? firstWarmUp : seconds * WARM_UP;
      for (let spent = 0; spent < warm;)
        spent += Math.max(this.#run(prepared, lanes, warm - spent, think).seconds, 0.01);
      const { cpu, ...sample } = this.#run(prepared, lanes, seconds, think);
      const units = scenario.units?.count ?? 1;
      return figuresOf({ ...sample, cpu, operations: sample.operations * units });
    } finally {
      this.driver.closeLanes(lanes);
    }
  }

  #run(prepared: Prepared, lanes: readonly Lane[], seconds: number, think: number) {
    try {
      prepared.before?.();
      const before = this.#tree?.cpu() ?? Number.NaN;
      const limits = { seconds, think, operations: prepared.limit ?? Number.POSITIVE_INFINITY };
      const sample = this.driver.run(prepared.load, lanes, limits);
      const cpu = (this.#tree?.cpu() ?? Number.NaN) - before;
      prepared.after?.();
      return { ...sample, cpu };
    } catch (error) {
      this.#clean(() => prepared.after?.());
      throw error;
    }
  }

  /** Removes files, if the daemon still serves. @returns the error, if there was one. */
  #clean(remove: () => void): unknown {
    try {
      if (this.driver.frontEnd.channel.poll()) remove();
      return undefined;
    } catch (error) {
      return error;
    }
  }

  summary(): TargetSummary {
    const { target, driver } = this;
    return { target, requestQueues: driver.requestQueues, resident: this.#tree?.resident() ?? null };
  }

  /** Removes the files and ends the connection. @returns the error, if there was one. */
  close(): unknown {
    const failure = this.#clean(() => this.area.close());
    this.driver.close();
    this.driver.frontEnd.close();
    return failure;
  }
}

/**
 * Measures scenarios on one daemon, or on several in turns, each over one connection.
 * @throws BenchError if a daemon can't be measured, RangeError if a process is not there.
 */
export async function runBench(
  targets: readonly Target[],
  chosen: readonly Scenario[],
  options: BenchOptions = {},
): Promise<BenchResult> {
  const { seconds = 0.5, warmUp = 1, rounds = 1, thinkTime } = options;
  const { wait = 'sleep', think = 'work', segment = 4096 } = options;
  const subjects: Subject[] = [];
  try {
    for (const target of targets) subjects.push(await Subject.connect(target, { wait, think, segment }));
    const figures = new Map(chosen.map((scenario) => [scenario, subjects.map((): Figures[] => [])]));
    for (let round = 0; round < rounds; round++) {
      // Each daemon is the first one in half of the rounds.
      const order = round % 2 === 0 ? subjects : subjects.toReversed();
      // The place of a file's pages in memory makes a tenth of the time of large reads. The file
      // that was made last has the better pages.
      if (round > 0) {
        for (const { area } of order) area.dropFile();
        for (const { area } of order) area.renewFile();
      }
      for (const scenario of chosen) {
        options.onProgress?.(`round ${round + 1} of ${rounds}: ${scenario.title}`);
        for (const subject of order) {
          const measured = subject.measure(scenario, seconds, warmUp, thinkTime);
          figures.get(scenario)![subjects.indexOf(subject)]!.push(measured);
          await new Promise(setImmediate);
        }
      }
    }
    const rows = chosen.map((scenario) => ({
      scenario,
      measurements: subjects.map(({ target }, i) => ({ target, rounds: figures.get(scenario)![i]! })),
    }));
    const summaries = subjects.map((subject) => subject.summary());
    const failure = close(subjects);
    if (failure !== undefined) throw failure;
    return { rows, targets: summaries };
  } catch (error) {
    // The first error says more than one of the removal of files that follows from it.
    close(subjects);
    throw error;
  }
}

/** Closes all subjects. @returns an error of one of them, if there was any. */
function close(subjects: Subject[]): unknown {
  return subjects
    .splice(0)
    .map((subject) => subject.close())
    .find((failure) => failure !== undefined);
}
