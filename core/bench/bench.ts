import type { ProcessTree } from './cpu.js';
import { BenchError, Driver, type DriverOptions } from './driver.js';
import { figuresOf, type Figures, type Sample } from './figures.js';
import type { RequestSlot } from './request-slot.js';
import type { Prepared, Scenario } from './scenarios.js';
import { connect, type Target } from './target.js';
import { WorkArea } from './work-area.js';

/** How daemons are measured. */
export interface BenchOptions extends Partial<DriverOptions> {
  /** How long each scenario runs in each round. Default 0.5. */
  readonly seconds?: number | undefined;
  /**
   * How long a daemon works on a scenario before it is first measured, so that its caches are warm
   * and its code is compiled. Default 1.
   */
  readonly warmUpSeconds?: number | undefined;
  /** How often each scenario is measured. Default 1. */
  readonly rounds?: number | undefined;
  /** Time between a reply and the next request, in all rows. Default: each row's own. */
  readonly thinkTimeUs?: number | undefined;
  /** Called with a line of text about the progress. */
  onProgress?(text: string): void;
}

/** A daemon's figures in one scenario. */
export interface Measurement {
  readonly target: Target;
  /** One for each round, in order. */
  readonly rounds: readonly Figures[];
}

/** A scenario and what it showed: a row of the table. */
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
  /** Resident memory in the end; null where the process is not known. */
  readonly residentBytes: number | null;
}

/** Everything that was measured, for {@link toTable}, {@link toJson} and {@link plot}. */
export interface BenchResult {
  /** In the order of the scenarios. */
  readonly rows: readonly Row[];
  /** In the order of the targets. */
  readonly targets: readonly TargetSummary[];
}

/**
 * How long a daemon warms up before later rounds, as a share of a round's time. In between, the
 * other daemons have used the processor's caches.
 */
const LATER_WARM_UP_SHARE = 0.2;

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

  measure(scenario: Scenario, seconds: number, firstWarmUpSeconds: number, thinkTimeUs: number): Figures {
    const isFirst = !this.#prepared.has(scenario);
    const prepared = this.#prepared.get(scenario) ?? scenario.prepare(this.area);
    this.#prepared.set(scenario, prepared);
    const slots = this.driver.openSlots(scenario.depth, scenario.dataBytes);
    try {
      const warmUpSeconds = isFirst ? firstWarmUpSeconds : seconds * LATER_WARM_UP_SHARE;
      for (let spent = 0; spent < warmUpSeconds;)
        spent += Math.max(this.#run(prepared, slots, warmUpSeconds - spent, thinkTimeUs).seconds, 0.01);
      const sample = this.#run(prepared, slots, seconds, thinkTimeUs);
      const units = scenario.units?.count ?? 1;
      return figuresOf({ ...sample, operations: sample.operations * units });
    } finally {
      this.driver.closeSlots(slots);
    }
  }

  #run(prepared: Prepared, slots: readonly RequestSlot[], seconds: number, thinkTimeUs: number): Sample {
    try {
      prepared.before?.();
      const before = this.#tree?.cpuSeconds() ?? Number.NaN;
      const limits = { seconds, thinkTimeUs, operations: prepared.limit ?? Number.POSITIVE_INFINITY };
      const sample = this.driver.run(prepared.load, slots, limits);
      const cpuSeconds = (this.#tree?.cpuSeconds() ?? Number.NaN) - before;
      prepared.after?.();
      return { ...sample, cpuSeconds };
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
    const residentBytes = this.#tree?.residentBytes() ?? null;
    return { target, requestQueues: driver.requestQueues, residentBytes };
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
  const { seconds = 0.5, warmUpSeconds = 1, rounds = 1, thinkTimeUs } = options;
  const { wait = 'sleep', thinkBy = 'work', segmentBytes = 4096 } = options;
  const subjects: Subject[] = [];
  try {
    for (const target of targets)
      subjects.push(await Subject.connect(target, { wait, thinkBy, segmentBytes }));
    const figures = new Map(chosen.map((scenario) => [scenario, subjects.map((): Figures[] => [])]));
    for (let round = 0; round < rounds; round++) {
      // Each daemon is the first one in half of the rounds.
      const order = round % 2 === 0 ? subjects : subjects.toReversed();
      // Large reads take up to a tenth more or less time by where a file's pages lie in memory. The
      // file that was made last has the better pages. So each daemon has it in half of the rounds.
      if (round > 0) {
        for (const { area } of order) area.dropFile();
        for (const { area } of order) area.renewFile();
      }
      for (const scenario of chosen) {
        options.onProgress?.(`round ${round + 1} of ${rounds}: ${scenario.title}`);
        for (const subject of order) {
          const measured = subject.measure(
            scenario,
            seconds,
            warmUpSeconds,
            thinkTimeUs ?? scenario.thinkTimeUs ?? 0,
          );
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
    // The removal of files may fail because of the first error, which says more.
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
