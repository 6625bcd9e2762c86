import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { FsError, wrapEach } from '../../../../core/backend/index.js';
import {
  type HandleIndex,
  IntentKind,
  Journal,
  NO_PLACE,
  type NodeIdHigh,
  type NodeIdLow,
  replay,
  type Slot,
} from '../../../../core/state/index.js';
import type { Guest } from '../../../support/engine.js';
import { ROOT } from '../../../support/fuse-client.js';
import { journaled, leftState, livingState, PlainMemory } from '../../../support/journaled.js';
import { Random, repetitions, withSeed } from '../../../support/random.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

/** Words of a journal that is compacted now and then. */
const WORDS = 1 << 18;

const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

/** One random change of what guests have. */
async function act({ client, session }: Guest, random: Random, state: GuestState): Promise<void> {
  const { files, listings, known, directory } = state;
  const name = `n${random.below(12)}`;
  switch (random.below(9)) {
    case 0:
      await client.mkdir(directory, name).catch(ignore);
      break;
    case 1: {
      const made = files.length > 8 ? undefined : await client.create(directory, `f${name}`).catch(ignore);
      if (made !== undefined) files.push([made.entry.nodeid, made.open.fh]);
      break;
    }
    case 2: {
      const [file] = files.splice(random.below(Math.max(files.length, 1)), 1);
      if (file !== undefined) await client.release(...file);
      break;
    }
    case 3: {
      if (listings.length < 8) listings.push((await client.opendir(directory)).fh);
      break;
    }
    case 4: {
      const listing = listings[random.below(Math.max(listings.length, 1))];
      if (listing === undefined) break;
      if (random.once(2)) await client.readdir(directory, listing, 0n, 200);
      else await client.releasedir(directory, listings.splice(listings.indexOf(listing), 1)[0]!);
      break;
    }
    case 5: {
      const file = files[random.below(Math.max(files.length, 1))];
      const range = { ...LOCK, start: BigInt(random.below(20)), end: BigInt(20 + random.below(20)) };
      if (file !== undefined)
        await client.setlk(...file, 1n, { ...range, type: random.below(3) }).catch(ignore);
      break;
    }
    case 6: {
      const node = random.once(2) ? known.pop() : undefined;
      if (node !== undefined) await client.forget(node, 1n);
      else known.push((await client.lookup(directory, name).catch(ignore))?.nodeid ?? 0n);
      break;
    }
    case 7: {
      const [file] = files;
      if (file !== undefined && random.once(4))
        session.loseLock(Number(file[1] & 0xffff_ffffn) as HandleIndex);
      // What something else than a request has changed is committed with the next one.
      await client.getattr(directory);
      break;
    }
    default:
      await client.rmdir(directory, name).catch(ignore);
  }
  session.submit();
}

interface GuestState {
  readonly directory: bigint;
  readonly files: [nodeid: bigint, fh: bigint][];
  readonly listings: bigint[];
  readonly known: bigint[];
}

const ignore = (): undefined => undefined;

describe('a session journal', () => {
  test('says what guests have after each request, over several compactions', async (t) => {
    await withSeed(t, 1, async (seed) => {
      const random = new Random(seed);
      const memory = new PlainMemory(WORDS);
      const running = await journaled(new TinyBackend(), memory);
      const guests = [running.kept(), running.kept()];
      const states: GuestState[] = [];
      for (const [index, { client }] of guests.entries()) {
        await client.init();
        const { nodeid } = await client.mkdir(ROOT, `d${index}`);
        states.push({ directory: nodeid, files: [], listings: [], known: [] });
      }
      const orders = new Set<number>();
      for (let i = 0; i < repetitions(12_000) || orders.size < 4; i++) {
        const which = random.below(guests.length);
        await act(guests[which]!, random, states[which]!);
        const isNew = !orders.has(memory.words[2]!);
        orders.add(memory.words[2]!);
        if (i % 200 === 0 || isNew) {
          const sessions = guests.map(({ session }) => session);
          assert.equal(leftState(replay(memory)!), livingState(running, sessions), `after request ${i}`);
        }
      }
      // Each of the four orders of the two parts was there.
      assert.deepEqual([...orders].sort(), [0, 1, 2, 3]);
      for (const { session } of guests) await session.close();
      assert.equal(replay(memory)!.saved.sessions.length, 0);
    });
  });

  test('says what was committed if its process ends at any store', async () => {
    const plain = new PlainMemory(WORDS);
    const texts: string[] = [];
    let stores = 0;
    let isAfterOrder = false;
    const words = new Proxy(plain.words, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
      set(target, name, value) {
        // All around a change of the parts' order, and some of the others.
        const isOrder = name === '2';
        stores += 1;
        if (isOrder || isAfterOrder || stores % 401 === 0) texts.push(leftState(replay(plain)!));
        isAfterOrder = isOrder;
        return Reflect.set(target, name, value, target);
      },
    });
    const running = await journaled(new TinyBackend(), {
      words,
      discard: (from, to) => plain.discard(from, to),
    });
    const { session, client } = running.kept();
    await client.init();
    const { nodeid } = await client.mkdir(ROOT, 'd');
    for (let i = 0; i < 20; i++) await client.create(nodeid, `f${i}`);
    const listing = await client.opendir(nodeid);
    await client.readdir(nodeid, listing.fh);
    const random = new Random(7);
    const state: GuestState = { directory: nodeid, files: [], listings: [], known: [] };
    const live = () => livingState(running, [session]);
    const orders = new Set<number>();
    let checked = 0;
    let old = live();
    texts.length = 0;
    for (let i = 0; orders.size < 4 || checked <= 100; i++) {
      await act({ session, client } as Guest, random, state);
      const now = live();
      let isDone = false;
      for (const text of texts) {
        isDone ||= text !== old;
        assert.equal(text, isDone ? now : old, `request ${i}`);
      }
      if (texts.length > 0) assert.equal(leftState(replay(plain)!), now, `after request ${i}`);
      checked += texts.length;
      texts.length = 0;
      old = now;
      orders.add(plain.words[2]!);
    }
    await session.close();
  });

  test('has what a request was about to do until it is answered, over a compaction', async () => {
    const memory = new PlainMemory(WORDS);
    const running = await journaled(new TinyBackend(), memory);
    const { session, client } = running.kept();
    await client.init();
    const journal = session.journal!;
    journal.intend(77, 1, IntentKind.CREATION, running.export.nodes.find(1 as never, 0 as never), 'name');
    const intents = () => replay(memory)!.sessions[0]!.intents;
    assert.deepEqual(
      intents().map(({ unique, kind, name, node }) => ({ unique, kind, name, node })),
      [{ unique: [77, 1], kind: IntentKind.CREATION, name: 'name', node: 0 }],
    );
    const order = memory.words[2];
    for (let i = 0; memory.words[2] !== ((order! + 2) & 3); i++) {
      const { fh } = await client.opendir(ROOT);
      await client.releasedir(ROOT, fh);
      session.submit();
      if (i % 500 === 0) assert.equal(intents().length, 1);
    }
    assert.equal(intents()[0]!.name, 'name');
    journal.answered(77, 1, -17, undefined, 0, NO_PLACE);
    assert.deepEqual(intents(), []);
    await session.close();
  });

  test('ends with one line in the log when it is full, and leaves nothing', async () => {
    const memory = new PlainMemory(1024 + 2 * 2000);
    const running = await journaled(new TinyBackend(), memory);
    const { session, client } = running.kept();
    await client.init();
    assert.ok(replay(memory) !== undefined);
    for (let i = 0; i < 300; i++) await client.mkdir(ROOT, `d${i}`);
    session.submit();
    assert.equal(replay(memory), undefined);
    assert.equal(running.log.errors.length, 1);
    assert.equal((await client.lookup(ROOT, 'd299')).attr.mode & 0o777, 0o755);
    await session.close();
  });

  test('knows a node whose key cannot be told any more, and leaves out one whose key never could', async () => {
    const memory = new PlainMemory(WORDS);
    const tiny = new TinyBackend();
    const running = await journaled(tiny, memory);
    const { session, client } = running.kept();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'gone');
    await client.setlk(entry.nodeid, open.fh, 1n, LOCK);
    const { key } = tiny;
    const gone = tiny.lookup(tiny.root, 'gone')!.node;
    tiny.key = (node) => {
      if (node === gone) throw FsError.of('ESTALE');
      return key.call(tiny, node);
    };
    const order = memory.words[2];
    while (memory.words[2] !== ((order! + 2) & 3)) {
      const { fh } = await client.opendir(ROOT);
      await client.releasedir(ROOT, fh);
      session.submit();
    }
    const known = replay(memory)!.saved;
    assert.deepEqual(known.sessions[0]!.lookups, [[1, 1]]);
    assert.equal(known.sessions[0]!.handles.length, 1);
    assert.equal(known.locks.locks.length, 1);

    const other = new PlainMemory(WORDS);
    const holder = { hold: () => 1, drop: () => undefined };
    const begun = new Journal(running.export, { memory: other, holder, log: running.log });
    begun.register(session, { connection: 0, socket: 0 });
    begun.begin();
    const { saved } = replay(other)!;
    assert.deepEqual(saved.sessions[0]!.lookups, []);
    assert.deepEqual(saved.sessions[0]!.handles, []);
    assert.deepEqual(saved.locks.locks, []);
    await session.close();
  });

  test('knows which request has given a lookup, where one waits while others are answered', async () => {
    const memory = new PlainMemory(WORDS);
    const tiny = new TinyBackend();
    let letGo = (): void => undefined;
    const held = new Promise<void>((resolve) => (letGo = resolve));
    let isListing = false;
    const backend = wrapEach(tiny, (name, next, args) =>
      isListing && name === 'lookup' && args[1] === 'b' ? held.then(() => next()) : next(),
    );
    const running = await journaled(backend, memory);
    const { session, client } = running.kept();
    await client.init();
    for (const name of ['a', 'b', 'c']) await client.forget((await client.mkdir(ROOT, name)).nodeid, 1n);
    const { fh } = await client.opendir(ROOT);
    isListing = true;
    const listed = client.readdirplus(ROOT, fh, 0n, 4096);
    await client.lookup(ROOT, 'c');
    const given = () => {
      const { saved, sessions } = replay(memory)!;
      return sessions[0]!.verdicts.map(({ verdict }) => {
        assert.equal(verdict.kind, 'gave');
        const pairs = (verdict as Extract<typeof verdict, { kind: 'gave' }>).lookups;
        return pairs.map(([node, count]) => [nameOf(tiny, saved.nodes[node]!.key), count]).sort();
      });
    };
    assert.deepEqual(given(), [[['a', 1]], [['c', 1]]]);
    letGo();
    await listed;
    assert.deepEqual(given(), [
      [
        ['a', 1],
        ['b', 1],
        ['c', 1],
      ],
    ]);
    await session.close();
  });

  test('tells once that removed files cannot be handed over, and again after some could be', async () => {
    const running = await journaled(new TinyBackend(), new PlainMemory(WORDS));
    const { session, client } = running.kept();
    let isFull = true;
    const holder = { hold: () => (isFull ? 0 : 1), drop: () => undefined };
    const { log } = running;
    const { nodes, locks, backend } = running.export;
    const memory = new PlainMemory(WORDS);
    const accelerator = { descriptor: () => 5 };
    const journal = new Journal({ nodes, locks, backend, accelerator }, { memory, holder, log });
    await client.init();
    const slots: Slot[] = [];
    for (let i = 0; i < 6; i++) {
      const { nodeid } = await client.mkdir(ROOT, `d${i}`);
      const [low, high] = [Number(BigInt.asIntN(32, nodeid)), Number(nodeid >> 32n) | 0];
      slots.push(nodes.find(low as NodeIdLow, high as NodeIdHigh));
    }
    const warnings = () => log.lines.filter(({ level }) => level === 'warn').length;
    for (const slot of slots.slice(0, 3)) journal.hold(slot);
    assert.equal(warnings(), 1);
    isFull = false;
    journal.hold(slots[3]!);
    isFull = true;
    for (const slot of slots.slice(4)) journal.hold(slot);
    assert.equal(warnings(), 2);
    await session.close();
  });
});

function nameOf(tiny: TinyBackend, key: object): string | undefined {
  const { s } = key as { s: string };
  return [...tiny.root.children].find(([, node]) => tiny.key(node) === s)?.[0];
}

test('a listing that is read from behind any end has no entry, and harms no journal', async () => {
  const { client } = (await journaled(new TinyBackend(), new PlainMemory(WORDS))).kept();
  await client.init();
  const { fh } = await client.opendir(ROOT);
  assert.deepEqual(await client.readdir(ROOT, fh, 2n ** 40n), []);
  assert.ok((await client.readdir(ROOT, fh)).length > 0);
});
