import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, ROOT } from '../../core/contract/client.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { MemoryLog } from '../support/engine.js';
import { FuseClient } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';

/*
 * Shows how long single requests hold the engine's thread, and with it all guests: those that may
 * be long, on what a guest can make. Time in which other programs had the processor is left out.
 *
 *   node dist/test/bench/holds.js memfs|passthrough|overlay [COUNT]
 */

const [type = 'memfs', counted = '200000'] = process.argv.slice(2);
const count = Number(counted);
const folder = mkdtempSync(join(tmpdir(), 'vfk-holds-'));

function options(): { readonly type: string } {
  for (const name of ['shared', 'lower', 'upper']) mkdirSync(join(folder, name));
  const layer = (name: string) => ({ type: 'passthrough', sharedDir: join(folder, name) });
  if (type === 'passthrough') return layer('shared');
  if (type !== 'overlay') return { type };
  return { type, lowers: [layer('lower')], upper: { type: 'memfs' } } as { readonly type: string };
}

const shared = await openExport(
  options(),
  { readOnly: false, locks: 'shared', cache: {}, limits: {} },
  { registry: new BackendRegistry(), log: new MemoryLog() },
);
const session = new Session(shared);
const client = new Client(session);
await client.init();

/** A clock in milliseconds that stands while the thread waits for a processor. */
function clock(): number {
  const [, waited] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ');
  return performance.now() - Number(waited) / 1e6;
}

let worstMs = 0;
let last = clock();
let isWatching = true;
/** Measures how long no turn of the event loop begins. */
function watch(): void {
  const now = clock();
  worstMs = Math.max(worstMs, now - last);
  last = now;
  if (isWatching) setImmediate(watch);
}
watch();

/** Shows how long `action` held the thread at most, and how long it took. */
async function hold(name: string, action: () => Promise<unknown>): Promise<void> {
  await new Promise(setImmediate);
  worstMs = 0;
  last = clock();
  const start = last;
  let outcome = '';
  try {
    await action();
  } catch (error) {
    outcome = ` (${(error as Error).message})`;
  }
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  const total = clock() - start;
  console.log(`${worstMs.toFixed(1).padStart(8)} ms of ${total.toFixed(0)} ms: ${name}${outcome}`);
}

const TIB = 2 ** 40;
const { file } = await client.create(ROOT, 'file', 0o644, 2);
const { file: other } = await client.create(ROOT, 'other', 0o644, 2);

await hold('fallocate of 10 GiB', () => client.fallocate(file, 0, 0, 10 * 2 ** 30));
await hold('fallocate of 10 GiB again', () => client.fallocate(file, 0, 0, 10 * 2 ** 30));
await hold('ZERO_RANGE of 10 GiB', () => client.fallocate(file, 0x10, 0, 10 * 2 ** 30));
await hold('LSEEK for data over 10 GiB', () => client.lseek(file, 4096, 'data'));
await hold('LSEEK for a hole over 10 GiB', () => client.lseek(file, 4096, 'hole'));
await hold('COPY_FILE_RANGE of 10 GiB', () => client.copyRange(file, 0, other, 0, 10 * 2 ** 30));
await hold('PUNCH_HOLE of 10 GiB', () => client.fallocate(file, 3, 0, 10 * 2 ** 30));
await client.fallocate(file, 0, 0, 10 * 2 ** 30);
await hold('COLLAPSE_RANGE of 9 GiB', () => client.fallocate(file, 8, 0, 9 * 2 ** 30));
await hold('truncation of 10 GiB to 1', () => client.change(file.id, { size: 1 }));

const chunks = Math.min(count, 200_000);
for (let i = 0; i < chunks; i++) {
  try {
    await client.write(file, i * 2 ** 23, Uint8Array.of(1));
  } catch {
    break;
  }
}
await hold('LSEEK for the last data of a sparse file', () => client.lseek(file, TIB - 1, 'data'));
await hold('LSEEK for a hole in a sparse file', () => client.lseek(file, 0, 'hole'));
await hold('COPY_FILE_RANGE of 4 GiB with holes', () => client.copyRange(file, 1, other, 0, 2 ** 32 - 4096));
await hold('COPY_FILE_RANGE of 4 GiB with holes, aligned', () =>
  client.copyRange(file, 0, other, 0, 2 ** 32 - 131072),
);
await hold('READ of 1 MiB', () => client.read(file, 0, 2 ** 20));
await hold('PUNCH_HOLE over a sparse file', () => client.fallocate(file, 3, 4096, 2 * TIB));
for (let i = 0; i < chunks; i++) {
  try {
    await client.write(file, i * 2 ** 23, Uint8Array.of(1));
  } catch {
    break;
  }
}
await hold('truncation of a sparse file', () => client.change(file.id, { size: 5000 }));

const { id: directory } = await client.mkdir(ROOT, 'directory');
let slowest = 0;
let made = 0;
for (; made < count; made++) {
  const start = clock();
  try {
    await client.mknod(directory, `name-${made}`, 0o100644);
  } catch {
    break;
  }
  slowest = Math.max(slowest, clock() - start);
}
console.log(`${slowest.toFixed(1).padStart(8)} ms: the slowest of ${made} MKNODs in one directory`);
await hold('OPENDIR and the first part', async () => {
  const opened = await client.opendir(directory);
  await client.readdir(opened, 0n, 131_072);
  await client.closedir(opened);
});
const opened = await client.opendir(directory);
await hold('the last part of a listing, at once', () => client.readdir(opened, BigInt(made), 131_072));
let slowestPart = 0;
for (let cookie = 0n; ;) {
  const start = clock();
  const entries = await client.readdir(opened, cookie, 131_072);
  slowestPart = Math.max(slowestPart, clock() - start);
  if (entries.length === 0) break;
  cookie = entries.at(-1)!.cookie;
}
console.log(`${slowestPart.toFixed(1).padStart(8)} ms: the slowest part of a listing`);
await hold('rewind of a listing', () => client.readdir(opened, 0n, 131_072));
await hold('RELEASEDIR', () => client.closedir(opened));
await hold('RENAME of the directory', () => client.rename(ROOT, 'directory', ROOT, 'renamed'));

let deep = ROOT;
for (let i = 0; i < 20_000; i++) {
  try {
    deep = (await client.mkdir(deep, 'd')).id;
  } catch {
    break;
  }
}
await hold('MKDIR 20,000 levels deep', () => client.mkdir(deep, 'last'));
await hold('RENAME into the depth', () => client.rename(ROOT, 'other', deep, 'other'));
await hold('RENAME of a directory into the depth', async () => {
  await client.rename(ROOT, 'renamed', deep, 'renamed');
  await client.rename(deep, 'renamed', ROOT, 'renamed');
});

const { id: marked } = await client.mknod(ROOT, 'marked', 0o100644);
let marks = 0;
for (; marks < count; marks++) {
  try {
    await client.setxattr(marked, `user.${'x'.repeat(200)}${marks}`, Uint8Array.of(1));
  } catch {
    break;
  }
}
await hold(`LISTXATTR of ${marks}`, () => client.listxattr(marked));
await hold('UNLINK of it', () => client.unlink(ROOT, 'marked'));

/** A guest of its own, with nothing yet. */
async function newGuest(): Promise<{ readonly session: Session; readonly guest: FuseClient }> {
  const ownSession = new Session(shared);
  const guest = new FuseClient(new Loopback(ownSession));
  await guest.init();
  return { session: ownSession, guest };
}

/** Has a guest look all files up that were made. @returns their node ids. */
async function knowAll(guest: FuseClient): Promise<bigint[]> {
  const { nodeid } = await guest.walk('/renamed');
  const known: bigint[] = [];
  for (let i = 0; i < made; i++) known.push((await guest.lookup(nodeid, `name-${i}`)).nodeid);
  return known;
}

/** Takes as many as it gets, up to `most`. @returns how many. */
async function takeAll(most: number, take: (i: number) => Promise<unknown>): Promise<number> {
  for (let i = 0; i < most; i++) {
    try {
      await take(i);
    } catch {
      return i;
    }
  }
  return most;
}

await client.forgetAll();
{
  const { session: own, guest } = await newGuest();
  const known = await knowAll(guest);
  const some = known.slice(0, 131_072).map((id) => [id, 1n] as const);
  await hold(`BATCH_FORGET of ${some.length} nodes`, () => guest.batchForget(some));
  await hold('the end of its session', () => own.close());
}
{
  const { guest } = await newGuest();
  await knowAll(guest);
  await hold(`a second INIT of a session that knows ${made} nodes`, () => guest.init());
}
{
  const { session: own, guest } = await newGuest();
  await knowAll(guest);
  await hold(`the end of a session that knows ${made} nodes`, () => own.close());
}
{
  const { session: own, guest } = await newGuest();
  const opens = await takeAll(count, () => guest.opendir(ROOT));
  await hold(`the end of a session that has ${opens} directories open`, () => own.close());
}
{
  const { session: own, guest } = await newGuest();
  const { entry, open } = await guest.create(ROOT, 'opened', 0o644);
  const opens = await takeAll(count, () => guest.open(entry.nodeid, 2));
  await guest.setlk(entry.nodeid, open.fh, 1n, { start: 0n, end: 9n, type: 1, pid: 1 });
  await hold(`the end of a session that has one file open ${opens} times`, () => own.close());
}
{
  const { session: own, guest } = await newGuest();
  const { entry, open } = await guest.create(ROOT, 'locked', 0o644);
  const all = { start: 0n, end: BigInt(Number.MAX_SAFE_INTEGER), pid: 1 };
  const lock = (i: number) => ({ start: BigInt(i) * 4n, end: BigInt(i) * 4n, type: 1, pid: 1 });
  const lockAll = () => takeAll(count, (i) => guest.setlk(entry.nodeid, open.fh, 1n, lock(i)));
  const locks = await lockAll();
  await hold(`one more lock of ${locks}`, () => guest.setlk(entry.nodeid, open.fh, 1n, lock(0)));
  await hold(`a lock before ${locks}`, () =>
    guest.setlk(entry.nodeid, open.fh, 1n, { start: 1n, end: 1n, type: 1, pid: 1 }),
  );
  await hold('GETLK of all by another owner', () =>
    guest.getlk(entry.nodeid, open.fh, 2n, { ...all, type: 1 }),
  );
  await hold('a refused lock of all', () => guest.setlk(entry.nodeid, open.fh, 2n, { ...all, type: 1 }));
  await hold('one lock in the place of all', () =>
    guest.setlk(entry.nodeid, open.fh, 1n, { ...all, type: 0 }),
  );
  await guest.setlk(entry.nodeid, open.fh, 1n, { ...all, type: 2 });
  await lockAll();
  await hold('unlocking all', () => guest.setlk(entry.nodeid, open.fh, 1n, { ...all, type: 2 }));
  await lockAll();
  await hold('FLUSH of the owner of all', () => guest.flush(entry.nodeid, open.fh, 1n));
  await lockAll();
  await hold('RELEASE of the file with all', () => guest.release(entry.nodeid, open.fh));
  const again = await guest.open(entry.nodeid, 2);
  for (let i = 0; i < count; i++)
    await guest.setlk(entry.nodeid, again.fh, BigInt(i), { ...all, type: 0 }).catch(() => undefined);
  await hold('a refused lock of what as many owners share', () =>
    guest.setlk(entry.nodeid, again.fh, 1n << 40n, { ...all, type: 1 }),
  );
  await hold('the end of a session with as many locks', () => own.close());
}
{
  const { session: own, guest } = await newGuest();
  const { nodeid } = await guest.mkdir(ROOT, 'unlinked');
  const kept = await takeAll(count, async (i) => {
    await guest.create(nodeid, `file-${i}`, 0o644);
    await guest.unlink(nodeid, `file-${i}`);
  });
  await hold(`the end of a session with ${kept} removed files open`, () => own.close());
}
await hold('the end of the export', () => shared.close());
isWatching = false;
// Deeper than fs.rm can follow.
spawnSync('rm', ['-rf', folder]);
process.exit(0);
