import { FrontEnd } from '../../core/vhost-user/index.js';
import { Driver } from '../../core/bench/driver.js';
import * as fuse from '../../core/bench/fuse.js';
import type { RequestSlot } from '../../core/bench/request-slot.js';
import type { Prepared, Scenario } from '../../core/bench/scenarios.js';
import type { Node, OpenNode, WorkArea } from '../../core/bench/work-area.js';

const { Opcode } = fuse;
const DEPTH = 32;
/** Data of each read, and bytes of each file. */
const SMALL_BYTES = 4096;

/** Random reads of 4 KiB, from `used` of the `count` files that are open. */
export function openFiles(count: number, used = count): Scenario {
  const key = used === count ? `open-${count}` : `among-open-${count}`;
  const prepare = (area: WorkArea): Prepared => {
    const files = openAll(area, key, count);
    const begin = (slot: RequestSlot) => {
      Object.assign(slot, files[pick(count, used)]!);
      fuse.read(slot, 0, SMALL_BYTES);
    };
    return { load: { begin, next: () => false } };
  };
  const which = used === count ? `${count} open files` : `${used} of ${count} open files`;
  const title = `read 4 KiB, depth ${DEPTH}, through ${which}`;
  return { key, title, depth: DEPTH, dataBytes: SMALL_BYTES, prepare };
}

/** Random GETATTRs, of `used` of the `count` files that the guest knows. */
export function knownNodes(count: number, used = count): Scenario {
  const key = used === count ? `known-${count}` : `among-known-${count}`;
  const prepare = (area: WorkArea): Prepared => {
    const directory = area.subdirectory(key);
    const nodes = area.fill(directory, count, 0);
    area.onClose(() => {
      area.forget(nodes);
      removeAll(area, directory, count);
    });
    const begin = (slot: RequestSlot) => {
      const { node, nodeHigh } = nodes[pick(count, used)]!;
      fuse.getattr(slot, node, nodeHigh);
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

/** A random index below `count`: one of `used` that are spread evenly. */
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
    const driver = new Driver(frontEnd, { wait: 'sleep', thinkBy: 'work', segmentBytes: 4096 });
    const slots = driver.openSlots(1, 0);
    fuse.init(slots[0]!);
    driver.call(slots[0]!);
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
  const nodes = area.fill(directory, count, SMALL_BYTES);
  const files: OpenNode[] = [];
  const slots = area.driver.openSlots(1, 0);
  const slot = slots[0]!;
  for (const { node, nodeHigh } of nodes) {
    fuse.open(slot, node, nodeHigh);
    area.driver.call(slot);
    fuse.keepFile(slot);
    files.push({ node, nodeHigh, file: slot.file, fileHigh: slot.fileHigh });
  }
  area.onClose(() => {
    for (const file of files) {
      Object.assign(slot, file);
      fuse.release(slot, Opcode.RELEASE);
      area.driver.call(slot);
    }
    area.driver.closeSlots(slots);
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
