import { FrontEnd } from '../vhost-user/index.js';
import { Driver } from './driver.js';
import * as fuse from './fuse.js';
import type { Lane } from './lane.js';
import type { Prepared, Scenario } from './scenarios.js';
import type { Node, OpenNode, WorkArea } from './work-area.js';

const { Opcode } = fuse;
const DEPTH = 32;
const SMALL = 4096;

/** 4 KiB reads at random from `used` of the `count` files that are open. */
export function openFiles(count: number, used = count): Scenario {
  const key = used === count ? `open-${count}` : `among-open-${count}`;
  const prepare = (area: WorkArea): Prepared => {
    const files = openAll(area, key, count);
    const begin = (lane: Lane) => {
      Object.assign(lane, files[pick(count, used)]!);
      fuse.read(lane, 0, SMALL);
    };
    return { load: { begin, next: () => false } };
  };
  const which = used === count ? `${count} open files` : `${used} of ${count} open files`;
  const title = `read 4 KiB, depth ${DEPTH}, through ${which}`;
  return { key, title, depth: DEPTH, dataBytes: SMALL, prepare };
}

/** GETATTR at random of `used` of the `count` files that the guest knows. */
export function knownNodes(count: number, used = count): Scenario {
  const key = used === count ? `known-${count}` : `among-known-${count}`;
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    const nodes = area.fill(directory, count, 0);
    area.onClose(() => {
      area.forget(nodes);
      removeAll(area, directory, count);
    });
    const begin = (lane: Lane) => {
      const { node, nodeHigh } = nodes[pick(count, used)]!;
      fuse.getattr(lane, node, nodeHigh);
    };
    return { load: { begin, next: () => false } };
  };
  return {
    key,
    title: `GETATTR, depth ${DEPTH}, of ${used === count ? count : `${used} among ${count}`} known files`,
    depth: DEPTH,
    dataBytes: 0,
    prepare,
  };
}

/** A random index: one of `used` that are spread evenly below `count`. */
function pick(count: number, used: number): number {
  return Math.floor((Math.floor(Math.random() * used) * count) / used);
}

/**
 * Connects guests that mount and stay idle while something else is measured.
 * @param sockets one for each guest.
 * @returns a function that ends them.
 */
export async function guestsBeside(sockets: readonly string[]): Promise<() => void> {
  const ends: (() => void)[] = [];
  for (const socket of sockets) {
    const frontEnd = await FrontEnd.connect(socket, {
      requestQueues: 1,
      queueSize: 64,
      indirect: 8,
      memory: 2 ** 20,
    });
    const driver = new Driver(frontEnd, { wait: 'sleep', think: 'work', segment: SMALL });
    const lanes = driver.openLanes(1, 0);
    fuse.init(lanes[0]!);
    driver.call(lanes[0]!);
    ends.push(() => {
      driver.close();
      frontEnd.close();
    });
  }
  return () => {
    for (const end of ends) end();
  };
}

function openAll(area: WorkArea, name: string, count: number): OpenNode[] {
  const directory = area.subdirectory(name);
  const nodes = area.fill(directory, count, SMALL);
  const files: OpenNode[] = [];
  const lanes = area.driver.openLanes(1, 0);
  const lane = lanes[0]!;
  for (const { node, nodeHigh } of nodes) {
    fuse.open(lane, node, nodeHigh);
    area.driver.call(lane);
    fuse.keepFile(lane);
    files.push({ node, nodeHigh, file: lane.file, fileHigh: lane.fileHigh });
  }
  area.onClose(() => {
    for (const file of files) {
      Object.assign(lane, file);
      fuse.release(lane, Opcode.RELEASE);
      area.driver.call(lane);
    }
    area.driver.closeLanes(lanes);
    area.forget(nodes);
    removeAll(area, directory, count);
  });
  return files;
}

function removeAll(area: WorkArea, directory: Node, count: number): void {
  area.remove(
    directory,
    Array.from({ length: count }, (_, i) => i),
  );
}
