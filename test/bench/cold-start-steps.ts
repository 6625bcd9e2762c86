import { ProcessTree } from '../../core/bench/cpu.js';
import { BenchError, Driver, type Load } from '../../core/bench/driver.js';
import { figuresOf, medianFigures, type Figures } from '../../core/bench/figures.js';
import * as fuse from '../../core/bench/fuse.js';
import type { RequestSlot } from '../../core/bench/request-slot.js';
import { connect, type Target } from '../../core/bench/target.js';
import { PREFIX, scanEntries, WorkArea, type Cookie, type Node } from '../../core/bench/work-area.js';

const { Opcode } = fuse;
/** Bytes of each file, and of each READDIRPLUS. */
const SMALL_BYTES = 4096;

/** One kind of operation that is measured. */
export interface ColdStartStep {
  /** For JSON. */
  readonly key: string;
  readonly title: string;
}

interface Step extends ColdStartStep {
  /** @param files as the steps before have left them. */
  load(files: FileSet): Load;
  /** One operation lists all files. The other steps have an operation for each file. */
  readonly isListing?: boolean;
}

/** The files of one pass through the steps. */
interface FileSet {
  readonly directory: Node;
  /** One for each file that was created. */
  readonly nodes: Node[];
  readonly count: number;
  /** Number of the next file. */
  position: number;
}

/**
 * What a guest does with new files, in this order. A step needs only what the steps before it have
 * made, so that no other request has warmed the daemon up for it.
 */
const steps: readonly Step[] = [
  {
    key: 'create',
    title: 'CREATE + WRITE 4 KiB + RELEASE',
    load: (files) => ({
      begin(slot) {
        slot.step = 0;
        fuse.create(slot, files.directory.node, files.directory.nodeHigh, PREFIX, files.position++);
      },
      next(slot) {
        slot.step += 1;
        if (slot.step === 1) {
          fuse.keepNode(slot);
          fuse.keepFile(slot, fuse.ENTRY_OUT);
          files.nodes.push({ node: slot.node, nodeHigh: slot.nodeHigh });
          fuse.write(slot, 0, SMALL_BYTES);
        } else if (slot.step === 2) fuse.release(slot, Opcode.RELEASE);
        return slot.step < 3;
      },
    }),
  },
  {
    key: 'getattr',
    title: 'GETATTR',
    load: (files) => ({
      begin(slot) {
        const { node, nodeHigh } = files.nodes[files.position++]!;
        fuse.getattr(slot, node, nodeHigh);
      },
      next: () => false,
    }),
  },
  {
    key: 'lookup',
    title: 'LOOKUP',
    load: (files) => ({
      begin: (slot) =>
        fuse.lookup(slot, files.directory.node, files.directory.nodeHigh, PREFIX, files.position++),
      next: () => false,
    }),
  },
  {
    key: 'read',
    title: 'OPEN + READ 4 KiB + RELEASE',
    load: (files) => ({
      begin(slot) {
        Object.assign(slot, files.nodes[files.position++]!);
        slot.step = 0;
        fuse.open(slot, slot.node, slot.nodeHigh);
      },
      next(slot) {
        slot.step += 1;
        if (slot.step === 1) {
          fuse.keepFile(slot);
          fuse.read(slot, 0, SMALL_BYTES);
        } else if (slot.step === 2) fuse.release(slot, Opcode.RELEASE);
        return slot.step < 3;
      },
    }),
  },
  { key: 'readdirplus', title: 'READDIRPLUS, per entry', isListing: true, load: listing },
  {
    key: 'rename',
    title: 'RENAME',
    load: (files) => ({
      begin(slot) {
        const number = files.position++;
        const { node, nodeHigh } = files.directory;
        fuse.rename(slot, node, nodeHigh, PREFIX, number, files.count + number);
      },
      next: () => false,
    }),
  },
  {
    key: 'unlink',
    title: 'UNLINK + FORGET',
    load: (files) => ({
      begin(slot) {
        slot.step = 0;
        slot.number = files.position++;
        const { node, nodeHigh } = files.directory;
        fuse.remove(slot, Opcode.UNLINK, node, nodeHigh, PREFIX, files.count + slot.number);
      },
      next(slot) {
        slot.step += 1;
        const { node, nodeHigh } = files.nodes[slot.number]!;
        // The guest has got the node three times: by CREATE, LOOKUP and READDIRPLUS.
        if (slot.step === 1) fuse.forget(slot, node, nodeHigh, 3);
        return slot.step === 1;
      },
    }),
  },
];

/** What is measured, in this order. */
export const coldStartSteps: readonly ColdStartStep[] = steps;

/** Lists the directory once. @throws BenchError if an entry is missing. */
function listing(files: FileSet): Load {
  const cookie: Cookie = { low: 0, high: 0 };
  const { directory } = files;
  let entries = 0;
  return {
    begin(slot) {
      slot.step = 0;
      fuse.opendir(slot, directory.node, directory.nodeHigh);
    },
    next(slot) {
      if (slot.step === 2) {
        if (entries !== files.count)
          throw new BenchError(`${entries} entries are listed, not ${files.count}`);
        return false;
      }
      if (slot.step === 0) {
        Object.assign(slot, directory);
        fuse.keepFile(slot);
        slot.step = 1;
      } else if (
        !scanEntries(slot, cookie, (node, nodeHigh) => {
          if (node !== 0 || nodeHigh !== 0) entries += 1;
        })
      ) {
        slot.step = 2;
        fuse.release(slot, Opcode.RELEASEDIR);
        return true;
      }
      fuse.readdirplus(slot, cookie.low, cookie.high, SMALL_BYTES);
      return true;
    },
  };
}

/** How a cold start is measured. */
export interface ColdStartOptions {
  /** Files of each pass, and so operations of each step. Default 1000. */
  readonly files?: number | undefined;
  /** How long the daemon works before it counts as hot. Default 3. */
  readonly warmUpSeconds?: number | undefined;
  /** Passes that are measured then; a hot figure is their median. Default 3. */
  readonly hotPasses?: number | undefined;
}

/** Figures of each step, in the order of {@link coldStartSteps}. */
export interface ColdStartFigures {
  /** Of the first pass. */
  readonly cold: readonly Figures[];
  /** Of later passes: medians. */
  readonly hot: readonly Figures[];
}

/**
 * Measures the first operations of each kind that a daemon serves, and the same operations when it
 * has served them for a while. They come one at a time, from a front-end that sleeps. Each pass has
 * a directory of its own.
 * @param target a daemon that has just been started, and has had no front-end yet.
 * @throws BenchError if it can't be measured, RangeError if its process is not there.
 */
export async function measureColdStart(
  target: Target,
  options: ColdStartOptions = {},
): Promise<ColdStartFigures> {
  const { files: count = 1000, warmUpSeconds = 3, hotPasses = 3 } = options;
  const { frontEnd, tree } = await connect(target);
  const driver = new Driver(frontEnd, { wait: 'sleep', thinkBy: 'work', segmentBytes: 4096 });
  const area = new WorkArea(driver, `virtiofs-kit-cold-start-${process.pid}`);
  const slots = driver.openSlots(1, SMALL_BYTES);
  let number = 0;
  const pass = (): Figures[] => {
    const directory = area.subdirectory(`pass${number++}`);
    const files: FileSet = { directory, nodes: [], count, position: 0 };
    return steps.map((step) => measureStep(step, files, driver, slots, tree));
  };
  try {
    const cold = pass();
    for (const until = performance.now() + warmUpSeconds * 1000; performance.now() < until;) pass();
    const hot = Array.from({ length: hotPasses }, pass);
    area.close();
    return { cold, hot: steps.map((_, i) => medianFigures(hot.map((figures) => figures[i]!))) };
  } finally {
    driver.close();
    frontEnd.close();
  }
}

function measureStep(
  step: Step,
  files: FileSet,
  driver: Driver,
  slots: readonly RequestSlot[],
  tree: ProcessTree | undefined,
): Figures {
  files.position = 0;
  const before = tree?.cpuSeconds() ?? Number.NaN;
  const sample = driver.run(step.load(files), slots, {
    operations: step.isListing === true ? 1 : files.count,
  });
  const cpuSeconds = (tree?.cpuSeconds() ?? Number.NaN) - before;
  return figuresOf({ ...sample, cpuSeconds, operations: files.count });
}
