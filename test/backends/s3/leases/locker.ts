/**
 * Counts and writes a log under a lock until it is killed or told to end, and prints each step as a
 * line of JSON: when it begins, and when it ends. See `check-histories.ts`.
 */
import { FsError } from '../../../../core/backend/index.js';
import { LockType } from '../../../../core/state/index.js';
import { TestBucket } from '../support.js';
import { LockingMount } from './locking-mount.js';

const [name = '', endpoint = '', cacheDir = '', worker = '', term = '1'] = process.argv.slice(2);
const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);
const state = { isEnding: false };
process.stdin.on('end', () => (state.isEnding = true)).resume();

const options = {
  cacheDir,
  leaseTerm: Number(term),
  writebackDelay: 600,
  operationTimeout: 20,
  requestTimeout: 5,
};
const locking = await LockingMount.open(TestBucket.open(name, endpoint), options);
const { mount } = locking;

async function counted(mark: string): Promise<number> {
  const counter = await mount.openFile('counter');
  const value = Number(await mount.read(counter, 0, 20)) + 1;
  await mount.write(counter, 0, String(value));
  await mount.release(counter);
  // To another file than the one that is locked.
  const log = await mount.openFile('log', 0o2002);
  await mount.write(log, 0, `${mark}\n`);
  await mount.release(log);
  return value;
}

for (let i = 0; !state.isEnding; i++) {
  const mark = `${worker}.${process.pid}.${i}`;
  say({ mark, began: Date.now() });
  let value: number | undefined;
  let isDone = false;
  try {
    await locking.lock('counter', LockType.WRITE);
    try {
      value = await counted(mark);
    } finally {
      await locking.unlock('counter');
    }
    isDone = true;
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
  }
  say({ mark, ended: Date.now(), value, isDone });
}
await locking.close();
process.exit();
