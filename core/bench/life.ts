import { ProcessTree } from './cpu.js';
import { BenchError, Driver, type Load } from './driver.js';
import { figuresOf, medianFigures, type Figures } from './figures.js';
import * as fuse from './fuse.js';
import type { Lane } from './lane.js';
import { connect, type Target } from './target.js';
import { PREFIX, scanEntries, WorkArea, type Cookie, type Node } from './work-area.js';

const { Opcode } = fuse;
const SMALL = 4096;

/** One kind of work in a life. */
export interface LifeStep {
  readonly key: string;
  readonly title: string;
}

interface Step extends LifeStep {
  /** @param life what the steps before have left. */
  load(life: Life): Load;
  /** Operations, where they are not as many as files; and units that each stands for. */
  readonly isListing?: boolean;
}

/** The files that steps hand on to each other. */
interface Life {
  readonly directory: Node;
  readonly nodes: Node[];
  readonly count: number;
  /** Number of the next file. */
  position: number;
}

/**
 * What a guest does with new files, in this order: nothing is asked of the daemon before that would
 * warm a step up, but for what the steps before it ask.
 */
const steps: readonly Step[] = [
  {
    key: 'create',
    title: 'CREATE + WRITE 4 KiB + RELEASE',
    load: (life) => ({
      begin(lane) {
        lane.step = 0;
        fuse.create(lane, life.directory.node, life.directory.nodeHigh, PREFIX, life.position++);
      },
      next(lane) {
        lane.step += 1;
        if (lane.step === 1) {
          fuse.keepNode(lane);
          fuse.keepFile(lane, fuse.ENTRY_OUT);
          life.nodes.push({ node: lane.node, nodeHigh: lane.nodeHigh });
          fuse.write(lane, 0, SMALL);
        } else if (lane.step === 2) fuse.release(lane, Opcode.RELEASE);
        return lane.step < 3;
      },
    }),
  },
  {
    key: 'getattr',
    title: 'GETATTR',
    load: (life) => ({
      begin(lane) {
        const { node, nodeHigh } = life.nodes[life.position++]!;
        fuse.getattr(lane, node, nodeHigh);
      },
      next: () => false,
    }),
  },
  {
    key: 'lookup',
    title: 'LOOKUP',
    load: (life) => ({
      begin: (lane) =>
        fuse.lookup(lane, life.directory.node, life.directory.nodeHigh, PREFIX, life.position++),
      next: () => false,
    }),
  },
  {
    key: 'read',
    title: 'OPEN + READ 4 KiB + RELEASE',
    load: (life) => ({
      begin(lane) {
        Object.assign(lane, life.nodes[life.position++]!);
        lane.step = 0;
        fuse.open(lane, lane.node, lane.nodeHigh);
      },
      next(lane) {
        lane.step += 1;
        if (lane.step === 1) {
          fuse.keepFile(lane);
          fuse.read(lane, 0, SMALL);
        } else if (lane.step === 2) fuse.release(lane, Opcode.RELEASE);
        return lane.step < 3;
      },
    }),
  },
  { key: 'readdirplus', title: 'READDIRPLUS, per entry', isListing: true, load: listing },
  {
    key: 'rename',
    title: 'RENAME',
    load: (life) => ({
      begin(lane) {
        const number = life.position++;
        const { node, nodeHigh } = life.directory;
        fuse.rename(lane, node, nodeHigh, PREFIX, number, life.count + number);
      },
      next: () => false,
    }),
  },
  {
    key: 'unlink',
    title: 'UNLINK + FORGET',
    load: (life) => ({
      begin(lane) {
        lane.step = 0;
        lane.number = life.position++;
        const { node, nodeHigh } = life.directory;
        fuse.remove(lane, Opcode.UNLINK, node, nodeHigh, PREFIX, life.count + lane.number);
      },
      next(lane) {
        lane.step += 1;
        const { node, nodeHigh } = life.nodes[lane.number]!;
        // Created, looked up, and listed.
        if (lane.step === 1) fuse.forget(lane, node, nodeHigh, 3);
        return lane.step === 1;
      },
    }),
  },
];

/** The steps of a life, in order. */
export const lifeSteps: readonly LifeStep[] = steps;

function listing(life: Life): Load {
  const cookie: Cookie = { low: 0, high: 0 };
  const { directory } = life;
  let entries = 0;
  return {
    begin(lane) {
      lane.step = 0;
      fuse.opendir(lane, directory.node, directory.nodeHigh);
    },
    next(lane) {
      if (lane.step === 2) {
        if (entries !== life.count) throw new BenchError(`${entries} entries are listed, not ${life.count}`);
        return false;
      }
      if (lane.step === 0) {
        Object.assign(lane, directory);
        fuse.keepFile(lane);
        lane.step = 1;
      } else if (
        !scanEntries(lane, cookie, (node, nodeHigh) => {
          if (node !== 0 || nodeHigh !== 0) entries += 1;
        })
      ) {
        lane.step = 2;
        fuse.release(lane, Opcode.RELEASEDIR);
        return true;
      }
      fuse.readdirplus(lane, cookie.low, cookie.high, SMALL);
      return true;
    },
  };
}

/** How a life is measured. */
export interface LifeOptions {
  /** Files of a life: operations of each step. Default 1000. */
  readonly files?: number | undefined;
  /** Seconds of further lives before the hot one. Default 3. */
  readonly warmUp?: number | undefined;
  /** Lives whose median is the hot figure. Default 3. */
  readonly hotLives?: number | undefined;
}

/** Figures of each step, in the order of {@link lifeSteps}. */
export interface LifeFigures {
  /** Of the first life. */
  readonly cold: readonly Figures[];
  /** Of later ones. */
  readonly hot: readonly Figures[];
}

/**
 * Measures the first operations of each kind that a daemon is asked for, one at a time by a
 * front-end that sleeps, and the same when it has done them for a while.
 * @param target a daemon that has just been started, and has had no front-end yet.
 * @throws BenchError if it can't be measured, RangeError if its process is not there.
 */
export async function measureLife(target: Target, options: LifeOptions = {}): Promise<LifeFigures> {
  const { files = 1000, warmUp = 3, hotLives = 3 } = options;
  const { frontEnd, tree } = await connect(target);
  const driver = new Driver(frontEnd, { wait: 'sleep', think: 'work', segment: 4096 });
  const area = new WorkArea(driver, `virtiofs-kit-life-${process.pid}`);
  const lanes = driver.openLanes(1, SMALL);
  let number = 0;
  const live = (): Figures[] => {
    const directory = area.subdirectory(`life${number++}`);
    const life: Life = { directory, nodes: [], count: files, position: 0 };
    return steps.map((step) => measureStep(step, life, driver, lanes, tree));
  };
  try {
    const cold = live();
    for (const until = performance.now() + warmUp * 1000; performance.now() < until;) live();
    const hot = Array.from({ length: hotLives }, live);
    area.close();
    return { cold, hot: steps.map((_, i) => medianFigures(hot.map((figures) => figures[i]!))) };
  } finally {
    driver.close();
    frontEnd.close();
  }
}

function measureStep(
  step: Step,
  life: Life,
  driver: Driver,
  lanes: readonly Lane[],
  tree: ProcessTree | undefined,
): Figures {
  life.position = 0;
  const before = tree?.cpu() ?? Number.NaN;
  const sample = driver.run(step.load(life), lanes, { operations: step.isListing === true ? 1 : life.count });
  const cpu = (tree?.cpu() ?? Number.NaN) - before;
  return figuresOf({ ...sample, cpu, operations: life.count });
}
