import { setTimeout as sleep } from 'node:timers/promises';
import { wrapEach, FsError } from '../../core/backend/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import memfs from '../../backends/memfs/index.js';
import { keepingLog, MountedExport } from './host-mount.js';

/*
 * A file system on this host that fails as it is told by its parent process:
 * `node faulty-mount.js`, forked. It says where it is mounted, and acknowledges each order.
 */

/** What goes wrong from now on. */
export interface Order {
  /** Methods of the contract that are concerned. */
  readonly methods: readonly string[];
  /** The error that they fail with. */
  readonly code?: string;
  /** They begin so many milliseconds later. */
  readonly delayMs?: number;
  /** They do not end before the next order. */
  readonly hang?: boolean;
  /** Of so many calls one is concerned. Default: 1, all. */
  readonly oneIn?: number;
}

function notMadeOfOthers(): never {
  throw new Error('memfs is not made of others');
}

let order: Order = { methods: [] };
let calls = 0;
let release: () => void = () => {};
let released = Promise.resolve();

const environment = { log: keepingLog(), createBackend: notMadeOfOthers };
const inner = await memfs.create(memfs.options!.parse({ size: '256M' }), environment);
const faulty = wrapEach(inner, (method, next) => {
  if (!order.methods.includes(method) || (calls += 1) % (order.oneIn ?? 1) !== 0) return next();
  if (order.delayMs !== undefined) return sleep(order.delayMs).then(next);
  if (order.hang === true) return released.then(next);
  throw FsError.of(order.code as 'EIO');
});
const mounted = await MountedExport.open(faulty, {
  settings: {
    createBuffer: hostBuffer,
    cache: { entryTimeout: 0, negativeTimeout: 0, attributeTimeout: 0, data: 'never', writeback: false },
  },
});
process.on('message', (given: Order) => {
  order = given;
  calls = 0;
  release();
  released = new Promise((resolve) => (release = resolve));
  process.send!('done');
});
process.on('disconnect', () => {
  release();
  void mounted[Symbol.asyncDispose]().then(() => process.exit(0));
});
process.send!(mounted.directory);
