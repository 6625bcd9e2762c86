import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Turns, type CallLength } from '../../core/backend/pool-turns.js';
import { Intents } from '../../backends/s3/journal/intents.js';
import { JournalFile } from '../../backends/s3/journal/journal-file.js';
import { DAEMON } from '../../core/backend/index.js';
import { Client, ROOT } from '../../core/contract/client.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { outcome } from '../backends/passthrough/harness.js';
import { MemoryLog } from '../support/engine.js';

const TMPFS_MAGIC = 0x01021994;
const MIB = 2 ** 20;

/** Requests of a flood. */
const MANY = 200;

/** A guest that asks for calls, which end when they are told to. */
class Guests {
  readonly turns: Turns;
  /** Calls that run, in the order in which they began. */
  readonly running: string[] = [];
  readonly #ends = new Map<string, () => void>();
  readonly #guests = new Map<string, object>();

  constructor(threads: number) {
    this.turns = new Turns(threads);
  }

  /** Asks for a call of guest `name[0]`. */
  ask(name: string, length: CallLength, signal: AbortSignal = DAEMON.signal): Promise<void> {
    const key = name[0]!;
    if (!this.#guests.has(key)) this.#guests.set(key, {});
    const context = { ...DAEMON, signal, guest: this.#guests.get(key)! };
    return this.turns.run(context, length, () => {
      this.running.push(name);
      return new Promise<void>((resolve) => this.#ends.set(name, resolve));
    });
  }

  /** Ends a call that runs. @returns what runs then. */
  async end(name: string): Promise<readonly string[]> {
    this.running.splice(this.running.indexOf(name), 1);
    this.#ends.get(name)!();
    return this.now();
  }

  async now(): Promise<readonly string[]> {
    await new Promise((resolve) => setImmediate(resolve));
    return [...this.running];
  }
}

test('one guest has half of the threads, the next half of the rest, and each at least one', async () => {
  const guests = new Guests(8);
  for (const guest of ['a', 'b', 'c', 'd', 'e'])
    for (let i = 0; i < 9; i++) void guests.ask(`${guest}${i}`, 'short');
  assert.deepEqual(await guests.now(), ['a0', 'a1', 'a2', 'a3', 'b0', 'b1', 'c0', 'd0']);
  // A guest that has no call running is next. Then all have their turn, up to their limit.
  assert.deepEqual((await guests.end('a0')).slice(7), ['e0']);
  assert.deepEqual((await guests.end('c0')).slice(7), ['c1']);
});

test('guests take turns, however many calls one of them asks for', async () => {
  const guests = new Guests(1);
  for (let i = 0; i < 3; i++) void guests.ask(`a${i}`, 'short');
  for (let i = 0; i < 2; i++) void guests.ask(`b${i}`, 'short');
  void guests.ask('c0', 'short');
  const order: string[] = [];
  for (let [name] = await guests.now(); name !== undefined; [name] = await guests.end(name)) order.push(name);
  assert.deepEqual(order, ['a0', 'a1', 'b0', 'c0', 'a2', 'b1']);
});

test('a guest copies one piece at a time, and short calls do not wait behind copies', async () => {
  const guests = new Guests(4);
  for (let i = 0; i < 8; i++) void guests.ask(`a${i}`, 'long');
  for (let i = 0; i < 2; i++) void guests.ask(`b${i}`, 'long');
  void guests.ask('c0', 'long');
  assert.deepEqual(await guests.now(), ['a0', 'b0']);
  void guests.ask('d0', 'short');
  void guests.ask('e0', 'short');
  assert.deepEqual(await guests.now(), ['a0', 'b0', 'd0', 'e0']);
  for (let i = 0; i < 3; i++) void guests.ask(`f${i}`, 'short');
  // One long call still runs. The short calls that wait go before another long one.
  assert.deepEqual(await guests.end('a0'), ['b0', 'd0', 'e0', 'f0']);
  assert.deepEqual(await guests.end('b0'), ['d0', 'e0', 'f0', 'a1']);
});

test('a call that fails gives its turn on; one that was given up does not begin', async () => {
  const guests = new Guests(1);
  const context = { ...DAEMON, guest: {} };
  const failing = guests.turns.run(context, 'short', () => Promise.reject(new Error('it failed')));
  const controller = new AbortController();
  const aborted = outcome(() => guests.ask('a0', 'short', controller.signal));
  controller.abort();
  void guests.ask('b0', 'short');
  await assert.rejects(failing, /it failed/);
  assert.equal(await aborted, 'EINTR');
  assert.deepEqual(await guests.now(), ['b0']);
});

/** On a disk, where fsync waits; `memory` is a tmpfs. */
const folder = mkdtempSync(join(tmpdir(), 'vfk-turns-'));
const directory = join(folder, 'memory');
const clients: Client[] = [];

async function connect(sharedDir: string): Promise<Client[]> {
  const shared = await openExport(
    { type: 'passthrough', sharedDir },
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log: new MemoryLog() },
  );
  return Promise.all(
    Array.from({ length: 2 }, async () => {
      const client = new Client(new Session(shared));
      await client.init();
      return client;
    }),
  );
}

before(async () => {
  mkdirSync(directory);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1200m', 'tmpfs', directory]);
  assert.equal(mounted.status, 0);
  clients.push(...(await connect(directory)));
});

after(() => {
  spawnSync('umount', ['-l', directory]);
  rmSync(folder, { recursive: true });
});

test('a guest that syncs and copies is served among the many syncs and copies of another', async (t) => {
  if (statfsSync(folder).type === TMPFS_MAGIC) {
    t.skip('the folder for temporary files is in memory, where fsync waits for nothing');
    return;
  }
  const both = await connect(folder);
  const [greedy, other] = both as [Client, Client];
  writeFileSync(join(folder, 'synced'), 'x');
  writeFileSync(join(directory, 'data'), Buffer.alloc(2 ** 22, 'x'));
  const files = async (client: Client) => {
    const synced = await client.lookup(ROOT, 'synced');
    const memory = await client.lookup(ROOT, 'memory');
    const { id } = await client.lookup(memory.id, 'data');
    const copy = await client.mknod(memory.id, `copy-${both.indexOf(client)}`, 0o100644);
    return {
      synced: await client.open(synced.id, 2),
      from: await client.open(id, 2),
      to: await client.open(copy.id, 2),
    };
  };
  const [theirs, own] = [await files(greedy), await files(other)];
  const order: string[] = [];
  const flood: Promise<unknown>[] = [];
  for (let i = 0; i < 300; i++) {
    flood.push(greedy.fsync(theirs.synced, false).then(() => order.push('fsync')));
    flood.push(greedy.copyRange(theirs.from, 0, theirs.to, 0, 2 ** 22).then(() => order.push('copy')));
  }
  await Promise.all([
    ...flood,
    other.fsync(own.synced, false).then(() => order.push('own fsync')),
    other.copyRange(own.from, 0, own.to, 0, 2 ** 22).then(() => order.push('own copy')),
  ]);
  for (const kind of ['fsync', 'copy']) {
    const before = order.slice(0, order.indexOf(`own ${kind}`)).filter((name) => name === kind);
    assert.ok(before.length < 150, `${before.length} of 300 calls of ${kind} came before`);
  }
});

/** What many requests of S3 have threads do, for a mount whose folder this is. */
const ofS3: readonly (readonly [string, (mount: string) => (i: number) => Promise<unknown>])[] = [
  [
    'write into journals',
    (mount) => {
      const journal = JournalFile.create(join(mount, 'staging', 'one'));
      return (i) => journal.write([Buffer.alloc(MIB)], i * MIB, MIB);
    },
  ],
  [
    'remove of journals',
    (mount) => {
      const journals = Array.from({ length: MANY }, (_, i) =>
        JournalFile.create(join(mount, 'staging', `journal-${i}`)),
      );
      return (i) => journals[i]!.remove(MIB);
    },
  ],
  [
    'note of what it is about to do',
    (mount) => {
      const intents = new Intents(join(mount, 'intents'));
      return async () => intents.end(await intents.begin({ type: 'hidden', key: 'key' }));
    },
  ],
];

for (const [what, prepare] of ofS3) {
  test(`an fsync is not behind what many requests of S3 ${what}`, async () => {
    const [client] = await connect(folder);
    writeFileSync(join(folder, 'waiting'), 'x');
    const waiting = await client!.open((await client!.lookup(ROOT, 'waiting')).id, 2);
    const mount = mkdtempSync(join(folder, 'mount-'));
    for (const name of ['staging', 'intents']) mkdirSync(join(mount, name));
    const order: string[] = [];
    const act = prepare(mount);
    const flood = Array.from({ length: MANY }, async (_, i) => {
      await act(i);
      order.push('flood');
    });
    await Promise.all([...flood, client!.fsync(waiting, false).then(() => order.push('fsync'))]);
    assert.ok(order.indexOf('fsync') < MANY / 2, `${order.indexOf('fsync')} of ${MANY} came before`);
  });
}

test('an allocation of more than is free is refused as a whole, while another guest syncs and copies', async () => {
  const [greedy, other] = clients as [Client, Client];
  writeFileSync(join(directory, 'kept'), Buffer.alloc(2 ** 22, 'k'));
  const { id } = await greedy.mknod(ROOT, 'too-large', 0o100644);
  const tooLarge = await greedy.open(id, 2);
  const from = await other.open((await other.lookup(ROOT, 'kept')).id, 2);
  const to = await other.open((await other.mknod(ROOT, 'kept-copy', 0o100644)).id, 2);
  const { bfree } = await greedy.statfs(ROOT);
  const refusals = Array.from({ length: 8 }, () => outcome(() => greedy.fallocate(tooLarge, 0, 0, 2 ** 32)));
  await other.fsync(from, false);
  assert.equal(await other.copyRange(from, 0, to, 0, 2 ** 22), 2 ** 22);
  assert.deepEqual(new Set(await Promise.all(refusals)), new Set(['ENOSPC']));
  assert.equal(statSync(join(directory, 'too-large')).size, 0);
  // The copy took what is missing.
  assert.equal((await greedy.statfs(ROOT)).bfree, bfree - 2 ** 22 / 4096);
  await other.closeFile(from);
});

test('a large file is cut and removed beside what other guests do', async () => {
  const [client, other] = clients as [Client, Client];
  const { id } = await client.mknod(ROOT, 'large', 0o100644);
  const file = await client.open(id, 2);
  const { bfree } = await client.statfs(ROOT);
  for (const handle of [file, undefined]) {
    await client.fallocate(file, 0, 0, 2 ** 29);
    let isOver = false;
    const cut = client.change(id, { size: 5, ...(handle !== undefined && { file: handle }) });
    void cut.finally(() => (isOver = true));
    await other.stat(ROOT);
    assert.equal(isOver, false);
    assert.equal(Number((await cut).size), 5);
    assert.equal((await client.statfs(ROOT)).bfree, bfree - 1);
  }
  await client.fallocate(file, 0, 0, 2 ** 29);
  await client.closeFile(file);
  await client.unlink(ROOT, 'large');
  assert.equal(await client.find(ROOT, 'large'), undefined);
  await client.forgetAll();
  while ((await other.statfs(ROOT)).bfree < bfree) await new Promise((resolve) => setTimeout(resolve, 5));
});

test('the room of a large file that is open is freed beside other guests, however it loses its content', async () => {
  const [client, other] = clients as [Client, Client];
  const { bfree } = await other.statfs(ROOT);
  const isFreed = async (): Promise<void> => {
    while ((await other.statfs(ROOT)).bfree < bfree) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  const { id } = await client.mknod(ROOT, 'truncated', 0o100644);
  const written = await client.open(id, 2);
  // An open that truncates; a creation of a name that is there.
  for (const again of [
    () => client.open(id, 0o1002),
    async () => (await client.create(ROOT, 'truncated', 0o644, 0o1002)).file,
  ]) {
    await client.fallocate(written, 0, 0, 2 ** 29);
    let isOver = false;
    const opening = again().finally(() => (isOver = true));
    await other.stat(ROOT);
    assert.equal(isOver, false);
    const opened = await opening;
    assert.equal(Number((await client.stat(id)).size), 0);
    await client.write(opened, 0, Buffer.from('new'));
    assert.equal(Number((await client.stat(id)).size), 3);
    await client.closeFile(opened);
    await client.change(id, { size: 0 });
  }
  // Replaced, and removed, while it is open: its descriptors are closed one after the other.
  const replaced = await client.mknod(ROOT, 'replaced', 0o100644);
  const open = [await client.open(replaced.id, 2), written];
  for (const file of open) await client.fallocate(file, 0, 0, 2 ** 29);
  await client.mknod(ROOT, 'small', 0o100644);
  await client.rename(ROOT, 'small', ROOT, 'replaced', 0);
  await client.unlink(ROOT, 'truncated');
  assert.equal((await client.statfs(ROOT)).bfree, bfree - 2 ** 30 / 4096);
  for (const file of open) await client.closeFile(file);
  await client.forgetAll();
  await isFreed();
});

test('an allocation in pieces has the size and the room that one call gives', async () => {
  const [client] = clients as [Client];
  const path = join(directory, 'allocated');
  const { id } = await client.mknod(ROOT, 'allocated', 0o100644);
  const file = await client.open(id, 2);
  await client.fallocate(file, 0, 4096, 600 * 2 ** 20);
  assert.deepEqual(sizes(path), [4096 + 600 * 2 ** 20, 600 * 2 ** 20]);
  await client.fallocate(file, 3, 0, 512 * 2 ** 20);
  assert.deepEqual(sizes(path), [4096 + 600 * 2 ** 20, 88 * 2 ** 20 + 4096]);
  truncateSync(path, 0);
  await client.fallocate(file, 1, 0, 300 * 2 ** 20);
  assert.equal(sizes(path)[0], 0);
  truncateSync(path, 0);
  // There is not that much room: no blocks are taken, and the size stays.
  assert.equal(await outcome(() => client.fallocate(file, 0, 0, 2 ** 40)), 'ENOSPC');
  assert.deepEqual(sizes(path), [0, 0]);
});

/** A file's size and the bytes that it takes. */
function sizes(path: string): number[] {
  const { size, blocks } = statSync(path);
  return [size, blocks * 512];
}
