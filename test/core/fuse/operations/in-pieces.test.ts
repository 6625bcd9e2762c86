import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError, wrap, type Backend } from '../../../../core/backend/index.js';
import { Client, ROOT, type OpenFile } from '../../../../core/contract/client.js';
import { Session } from '../../../../core/fuse/index.js';
import { hostBuffer, type Message } from '../../../../core/memory/index.js';
import { Export } from '../../../../core/state/index.js';
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import { outcome } from '../../../backends/passthrough/harness.js';
import { MemoryLog } from '../../../support/engine.js';
import { checkProperty } from '../../../support/random.js';

const MIB = 2 ** 20;
const PIECE = 64 * 1024;

const memfs = () => new MemfsVolume().backend;

/** Guests of one export on one thread, which the test says to be wanted. */
class Guests {
  /** Whether a request that asks is to make room. */
  isWanted = (): boolean => true;
  isShared = true;
  /** What goes on when others had their turn. */
  readonly later: (() => void)[] = [];
  readonly clients: Client[] = [];
  readonly sessions: Session[] = [];

  static async of(backend: Backend, count = 2): Promise<Guests> {
    const guests = new Guests();
    const shared = await Export.open(backend, { log: new MemoryLog(), createBuffer: hostBuffer });
    for (let i = 0; i < count; i++) {
      const session = new Session(shared);
      const client = new Client({
        dispatch: (message, following) => session.dispatch(guests.#shared(message), following),
        submit: () => session.submit(),
      });
      await client.init();
      guests.sessions.push(session);
      guests.clients.push(client);
    }
    return guests;
  }

  /** The thread serves what has made room. */
  goOn(): void {
    for (const goOn of this.later.splice(0)) goOn();
  }

  #shared(message: Message): Message {
    return Object.assign(message, {
      isThreadShared: this.isShared,
      isThreadWanted: () => this.isWanted(),
      goOnLater: (goOn: () => void) => this.later.push(goOn),
    });
  }
}

/** A file of 1 MiB that both guests have open. */
async function oneFile(backend: Backend = memfs()) {
  const guests = await Guests.of(backend);
  const [first, second] = guests.clients as [Client, Client];
  const { id } = await first.mknod(ROOT, 'file', 0o100644);
  const found = await second.lookup(ROOT, 'file');
  const file = await first.open(id, 2);
  const same = await second.open(found.id, 2);
  return { guests, first, second, id, file, same };
}

/** Whether a promise is settled after all microtasks that are due. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(
    () => (settled = true),
    () => (settled = true),
  );
  await new Promise((resolve) => setImmediate(resolve));
  return settled;
}

const filled = (letter: string, length = MIB): Buffer => Buffer.alloc(length, letter);

test('a long write or read makes room for another guest after each piece', async () => {
  const { guests, first, second, id, file } = await oneFile();
  const writing = first.write(file, 0, filled('a'));
  assert.equal(await isSettled(writing), false);
  // Another guest is served meanwhile, and so is the same one.
  await second.mkdir(ROOT, 'made');
  await first.mkdir(ROOT, 'made too');
  for (let i = 1; i < MIB / PIECE - 1; i++) {
    guests.goOn();
    assert.equal(await isSettled(writing), false);
  }
  guests.goOn();
  assert.equal(await writing, MIB);
  const reading = first.read(file, 0, MIB);
  assert.equal(await isSettled(reading), false);
  guests.isWanted = () => false;
  guests.goOn();
  assert.deepEqual(Buffer.from(await reading), filled('a'));
  assert.equal(Number((await first.stat(id)).size), MIB);
});

test('nobody sees or changes half of a long write', async () => {
  const { guests, first, second, id, file, same } = await oneFile();
  await Promise.all([first.write(file, 0, filled('a')), first.fsync(file, false)]);
  const looks: ((client: Client, open: OpenFile) => Promise<unknown>)[] = [
    (client, open) => client.read(open, MIB - 10, 10),
    (client) => client.stat(id),
    (client, open) => client.write(open, MIB - PIECE - 5, Buffer.from('0123456789')),
    (client) => client.change(id, { size: 3 }),
    (client, open) => client.fsync(open, false),
    (client, open) => client.copyRange(open, 0, open, MIB, 5),
  ];
  for (const look of looks) {
    for (const [client, open] of [
      [first, file],
      [second, same],
    ] as const) {
      await first.change(id, { size: 0 });
      const writing = first.write(file, 0, filled('b'));
      assert.equal(await isSettled(writing), false);
      const looking = look(client, open);
      assert.equal(await isSettled(writing), true);
      assert.equal(await writing, MIB);
      await looking;
    }
  }
  guests.goOn();
});

test('a long read is of one moment: what changes the file comes after it', async () => {
  const { guests, first, second, id, file, same } = await oneFile();
  guests.isWanted = () => false;
  await first.write(file, 0, filled('a'));
  for (const change of [
    () => second.change(id, { size: 0 }),
    () => second.write(same, 0, filled('b')),
    () => first.fallocate(file, 3, 0, MIB),
    () => first.closeFile(file),
  ]) {
    guests.isWanted = () => false;
    await first.write(file, 0, filled('a'));
    guests.isWanted = () => true;
    const reading = first.read(file, 0, MIB);
    assert.equal(await isSettled(reading), false);
    const other = second.read(same, 0, 10);
    assert.equal(await isSettled(other), true);
    assert.equal(await isSettled(reading), false);
    const changing = change();
    assert.deepEqual(Buffer.from(await reading), filled('a'));
    guests.isWanted = () => false;
    guests.goOn();
    await changing;
  }
});

test('what is unfinished is finished before its guest ends, starts anew or is handed over', async () => {
  for (const end of ['drain', 'quiesce', 'reset'] as const) {
    const { guests, first, second, file, same } = await oneFile();
    const writing = first.write(file, 0, filled('a'));
    assert.equal(await isSettled(writing), false);
    await guests.sessions[0]![end]();
    assert.equal(await writing, MIB);
    guests.isWanted = () => false;
    assert.deepEqual(Buffer.from(await second.read(same, 0, MIB)), filled('a'));
    guests.goOn();
  }
});

test('an append is one call, and so is everything where the thread serves nobody else', async () => {
  const calls: number[] = [];
  const counted = wrap(memfs(), {
    write(next, node, file, buffer, ...rest) {
      calls.push(buffer.length);
      return next(node, file, buffer, ...rest);
    },
  });
  const { guests, first, id, file } = await oneFile(counted);
  await first.write(await first.open(id, 0o2002), 0, filled('a'));
  assert.deepEqual(calls, [MIB]);
  const written = first.write(file, 0, filled('a'));
  assert.equal(calls[1], PIECE);
  guests.isWanted = () => false;
  guests.goOn();
  assert.equal(await written, MIB);
  calls.length = 0;
  guests.isShared = false;
  assert.equal(await first.write(file, 0, filled('a')), MIB);
  assert.deepEqual(calls, [MIB]);
});

test('a piece that fails or is short makes a write short and a read fail or short', async () => {
  const fails = { at: Infinity, error: FsError.of('EIO') as Error | undefined };
  const isAsync = { now: false };
  const faulty = wrap(memfs(), {
    write(next, node, file, buffer, offset, ...rest) {
      if (offset + buffer.length > fails.at) {
        if (fails.error !== undefined) throw fails.error;
        return next(node, file, buffer.slice(0, fails.at - offset), offset, ...rest);
      }
      const written = next(node, file, buffer, offset, ...rest);
      return isAsync.now ? Promise.resolve(written) : written;
    },
    read(next, node, file, buffer, offset, context) {
      if (offset + buffer.length > fails.at && fails.error !== undefined) throw fails.error;
      const count = next(node, file, buffer, offset, context);
      return isAsync.now ? Promise.resolve(count) : count;
    },
  });
  const { guests, first, file } = await oneFile(faulty);
  for (const now of [false, true]) {
    for (const wanted of [false, true]) {
      isAsync.now = now;
      guests.isWanted = () => wanted;
      const all = async <T>(result: Promise<T>): Promise<T> => {
        while (!(await isSettled(result))) guests.goOn();
        return result;
      };
      fails.at = Infinity;
      assert.equal(await all(first.write(file, 0, filled('a'))), MIB);
      fails.at = 3 * PIECE + 10;
      fails.error = FsError.of('EIO');
      // What a backend refuses as one call, the first piece or the rest, is not written.
      const isRest = now ? PIECE : 3 * PIECE;
      assert.equal(await all(first.write(file, 0, filled('b'))), isRest);
      assert.equal(await all(outcome(() => first.read(file, 0, MIB))), 'EIO');
      fails.at = PIECE - 1;
      assert.equal(await all(outcome(() => first.write(file, 0, filled('b')))), 'EIO');
      fails.error = undefined;
      fails.at = 3 * PIECE + 10;
      assert.equal(await all(first.write(file, 0, filled('c'))), 3 * PIECE + 10);
      assert.equal((await all(first.read(file, MIB - 5, MIB))).length, 5);
      fails.at = Infinity;
      assert.equal((await all(first.read(file, 2 * PIECE + 7, MIB))).length, MIB - 2 * PIECE - 7);
    }
  }
});

test('a listing that makes room is shorter, and goes on where it ended', async () => {
  const guests = await Guests.of(memfs());
  const [client] = guests.clients as [Client];
  const names = Array.from({ length: 200 }, (_, i) => `file-${i}`);
  for (const name of names) await client.mknod(ROOT, name, 0o100644);
  const directory = await client.opendir(ROOT);
  const found: string[] = [];
  let requests = 0;
  for (let cookie = 0n; ;) {
    const entries = await client.readdir(directory, cookie, 65_536);
    if (entries.length === 0) break;
    requests += 1;
    found.push(...entries.map(({ name }) => name));
    cookie = entries.at(-1)!.cookie;
  }
  assert.deepEqual(new Set(found), new Set(['.', '..', ...names]));
  assert.equal(found.length, 202);
  assert.equal(requests, Math.ceil(202 / 16));
});

type Step =
  | { readonly kind: 'write' | 'read'; readonly file: number; readonly at: number; readonly size: number }
  | { readonly kind: 'cut'; readonly file: number; readonly size: number }
  | { readonly kind: 'copy'; readonly at: number; readonly size: number }
  | { readonly kind: 'turn' };

test('requests of several guests have the results that they have one after the other', async (t) => {
  const place = fc.integer({ min: 0, max: 12 }).map((n) => n * 100_000);
  const size = fc.integer({ min: 1, max: 8 }).map((n) => n * 131_000);
  const file = fc.integer({ min: 0, max: 1 });
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ kind: fc.constantFrom('write', 'read'), file, at: place, size }),
    fc.record({ kind: fc.constantFrom('cut'), file, size: place }),
    // No more than memfs copies in one request: what it copies is as much as it can.
    fc.record({ kind: fc.constantFrom('copy'), at: place, size: fc.constantFrom(131_000, 262_000) }),
    fc.record({ kind: fc.constantFrom('turn') }),
  );
  const steps = fc.array(fc.record({ guest: file, step }), { maxLength: 30 });
  await checkProperty(
    t,
    fc.asyncProperty(steps, fc.infiniteStream(fc.boolean()), async (all, wanted) => {
      const guests = await Guests.of(memfs());
      guests.isWanted = () => wanted.next().value === true;
      const [maker] = guests.clients as [Client];
      for (const name of ['0', '1']) await maker.mknod(ROOT, name, 0o100644);
      const open = await Promise.all(
        guests.clients.map((client) =>
          Promise.all(['0', '1'].map(async (name) => client.open((await client.lookup(ROOT, name)).id, 2))),
        ),
      );
      const contents = [Buffer.alloc(0), Buffer.alloc(0)];
      const grown = (index: number, length: number): Buffer => {
        const old = contents[index]!;
        contents[index] =
          old.length >= length ? old : Buffer.concat([old, Buffer.alloc(length - old.length)]);
        return contents[index]!;
      };
      const checks: Promise<void>[] = [];
      const check = (result: Promise<unknown>, expected: unknown): void => {
        checks.push(result.then((value) => assert.deepEqual(value, expected)));
      };
      for (const [i, { guest, step: now }] of all.entries()) {
        const client = guests.clients[guest]!;
        const files = open[guest]!;
        if (now.kind === 'turn') guests.goOn();
        else if (now.kind === 'write') {
          const data = Buffer.alloc(now.size, i + 1);
          data.copy(grown(now.file, now.at + now.size), now.at);
          check(client.write(files[now.file]!, now.at, data), now.size);
        } else if (now.kind === 'read') {
          const expected = Buffer.from(contents[now.file]!.subarray(now.at, now.at + now.size));
          check(client.read(files[now.file]!, now.at, now.size).then(Buffer.from), expected);
        } else if (now.kind === 'cut') {
          const old = grown(now.file, now.size);
          contents[now.file] = Buffer.from(old.subarray(0, now.size));
          check(
            client.change(files[now.file]!.id, { size: now.size }).then((stat) => Number(stat.size)),
            now.size,
          );
        } else {
          const bytes = Buffer.from(contents[0]!.subarray(now.at, now.at + now.size));
          const copied = client.copyRange(files[0]!, now.at, files[1]!, 0, now.size);
          if (bytes.length > 0) bytes.copy(grown(1, bytes.length));
          check(copied, bytes.length);
          // A copy may take turns of the event loop; what follows is to come after it.
          await copied;
        }
      }
      guests.isWanted = () => false;
      guests.goOn();
      await Promise.all(checks);
    }),
    { numRuns: 60 },
  );
});
