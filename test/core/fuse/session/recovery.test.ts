import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Backend, type BackendMethod, wrapEach } from '../../../../core/backend/index.js';
import { recoverRequests, restoreSession, Session } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { Journal, recoverExport, replay } from '../../../../core/state/index.js';
import { MemoryLog } from '../../../support/engine.js';
import { FuseClient, type FuseTransport, ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { asynchronous, TinyBackend } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 16_384;

/** Where a process is killed that carries out a request. */
const STAGES = ['taken', 'before the change', 'after the change', 'answered, not published'] as const;
type Stage = (typeof STAGES)[number];

interface Case {
  /** The backend's method that makes the change. */
  readonly method: BackendMethod;
  prepare?(client: FuseClient): Promise<Known>;
  request(client: FuseClient, known: Known): Promise<unknown>;
  /** What the guest sees in the end. */
  check(client: FuseClient, tiny: TinyBackend, known: Known): Promise<void> | void;
}

interface Known {
  readonly nodeid: bigint;
  readonly fh: bigint;
}

const file =
  (flags = 2) =>
  async (client: FuseClient): Promise<Known> => {
    const { entry, open } = await client.create(ROOT, 'file', 0o644, flags);
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('old '));
    return { nodeid: entry.nodeid, fh: open.fh };
  };

const closed =
  (name: string) =>
  async (client: FuseClient): Promise<Known> => {
    const { entry, open } = await client.create(ROOT, name, 0o644, 2);
    await client.release(entry.nodeid, open.fh);
    return { nodeid: entry.nodeid, fh: open.fh };
  };

/** What is made by a request that is in flight beside the one that is tried. */
const BESIDE = 'beside';

const names = (tiny: TinyBackend): string =>
  [...tiny.root.children.keys()]
    .filter((name) => name !== BESIDE)
    .sort()
    .join(' ');

/** Every opcode that must not be carried out twice, and some that may. */
const cases: Readonly<Record<string, Case>> = {
  MKDIR: {
    method: 'mkdir',
    request: (client) => client.mkdir(ROOT, 'new'),
    check: (_, tiny) => assert.equal(names(tiny), 'new'),
  },
  MKNOD: {
    method: 'mknod',
    request: (client) => client.mknod(ROOT, 'new', 0o010600),
    check: (_, tiny) => assert.equal(names(tiny), 'new'),
  },
  SYMLINK: {
    method: 'symlink',
    request: (client) => client.symlink(ROOT, 'new', 'target'),
    check: (_, tiny) => assert.equal(tiny.root.children.get('new')!.target, 'target'),
  },
  CREATE: {
    method: 'create',
    request: (client) => client.create(ROOT, 'new', 0o644, 0o302),
    async check(client, tiny) {
      assert.equal(names(tiny), 'new');
      await rejectsWith(client.create(ROOT, 'new', 0o644, 0o302), 17);
    },
  },
  LINK: {
    method: 'link',
    prepare: file(),
    request: (client, { nodeid }) => client.link(nodeid, ROOT, 'new'),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.nlink, 2),
  },
  UNLINK: {
    method: 'unlink',
    prepare: file(),
    request: (client) => client.unlink(ROOT, 'file'),
    check: (_, tiny) => assert.equal(names(tiny), ''),
  },
  'UNLINK of a closed file': {
    method: 'unlink',
    prepare: closed('file'),
    request: (client) => client.unlink(ROOT, 'file'),
    check: (_, tiny) => assert.equal(names(tiny), ''),
  },
  RMDIR: {
    method: 'rmdir',
    async prepare(client) {
      return { nodeid: (await client.mkdir(ROOT, 'directory')).nodeid, fh: 0n };
    },
    request: (client) => client.rmdir(ROOT, 'directory'),
    check: (_, tiny) => assert.equal(names(tiny), ''),
  },
  RENAME: {
    method: 'rename',
    prepare: file(),
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new'),
    check: (_, tiny) => assert.equal(names(tiny), 'new'),
  },
  'RENAME over another': {
    method: 'rename',
    async prepare(client) {
      await closed('new')(client);
      return closed('file')(client);
    },
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new'),
    async check(client, tiny, { nodeid }) {
      assert.equal(names(tiny), 'new');
      assert.equal((await client.lookup(ROOT, 'new')).nodeid, nodeid);
    },
  },
  'SETXATTR with XATTR_CREATE': {
    method: 'setxattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setxattr(nodeid, 'user.a', Buffer.from('1'), 1),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 1),
  },
  REMOVEXATTR: {
    method: 'removexattr',
    async prepare(client) {
      const known = await file()(client);
      await client.setxattr(known.nodeid, 'user.a', Buffer.from('1'));
      return known;
    },
    request: (client, { nodeid }) => client.removexattr(nodeid, 'user.a'),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 0),
  },
  'WRITE at the end': {
    method: 'write',
    prepare: file(0o2002),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, tiny) =>
      assert.equal(Buffer.from(tiny.root.children.get('file')!.data).toString(), 'old new '),
  },
};

/** Requests that may be carried out again, and what they leave. */
const repeatable: Readonly<Record<string, Case>> = {
  LOOKUP: {
    method: 'lookup',
    prepare: file(),
    request: (client) => client.lookup(ROOT, 'file'),
    check: async (client, _, { nodeid }) => assert.equal((await client.getattr(nodeid)).size, 4),
  },
  OPEN: {
    method: 'open',
    prepare: file(),
    request: (client, { nodeid }) => client.open(nodeid, 2),
    check: async (client, _, { nodeid, fh }) =>
      assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 9)).toString(), 'old '),
  },
  'WRITE at an offset': {
    method: 'write',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, tiny) =>
      assert.equal(Buffer.from(tiny.root.children.get('file')!.data).toString(), 'old new '),
  },
  SETATTR: {
    method: 'setattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setattr(nodeid, { mode: 0o100600 }),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.mode & 0o777, 0o600),
  },
  RELEASE: {
    method: 'release',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.release(nodeid, fh),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.read(nodeid, fh, 0, 9), 9),
  },
};

/** What the guest does beside the request that is tried. */
interface Beside {
  /** Where a request of another queue is when the process is killed. */
  readonly other?: 'before the change' | 'after the change';
  /**
   * A queue thread has passed the request on, and has not published the answer. So many others were
   * passed on and answered after it.
   */
  readonly passedOnAfter?: number;
  /** The guest has looked the names up before, as Linux does. */
  readonly looks?: boolean;
}

/** Where the queue thread has a request. */
const PLACE = 5;

/** So many that the journal is gathered anew meanwhile. */
const MANY = 5000;

/** Carries requests, unless it is dead, and keeps the last one. */
class Recorder implements FuseTransport {
  readonly #loopback: Loopback;
  last: readonly [queue: number, input: Uint8Array, outSize: number] | undefined;
  isDead = false;

  constructor(loopback: Loopback) {
    this.#loopback = loopback;
  }

  request(queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    this.last = [queue, input.slice(), outSize];
    return this.isDead ? Promise.reject(new Killed()) : this.#loopback.request(queue, input, outSize);
  }
}

/** A backend that counts how often a method has made its change, and tells of it. */
function watched(
  inner: Backend,
  method: BackendMethod,
  on: (stage: Stage) => void,
): { backend: Backend; made(): number } {
  let made = 0;
  const backend = wrapEach(inner, (name, next, args) => {
    if (name !== method || args[1] === BESIDE) return next();
    on('before the change');
    const result = next();
    const after = (value: unknown): unknown => {
      made += 1;
      on('after the change');
      return value;
    };
    return result instanceof Promise ? result.then(after) : after(result);
  });
  return { backend, made: () => made };
}

/** A backend that makes {@link BESIDE} at first no further than that until it is let go. */
function heldBeside(inner: Backend, stage: Beside['other']) {
  let reach = (): void => undefined;
  let letGo = (): void => undefined;
  const reached = new Promise<void>((resolve) => (reach = resolve));
  const released = new Promise<void>((resolve) => (letGo = resolve));
  let isFirst = true;
  const backend = wrapEach(inner, async (name, next, args) => {
    if (!isFirst || name !== 'mknod' || args[1] !== BESIDE) return next();
    isFirst = false;
    const made = stage === 'after the change' ? await next() : undefined;
    reach();
    await released;
    return made ?? next();
  });
  return { backend, reached, letGo: () => letGo() };
}

/** Thrown where a process would be killed: what follows in it is of no account. */
class Killed extends Error {}

async function survive(
  { method, prepare, request, check }: Case,
  stage: Stage,
  isAsynchronous: boolean,
  kills: number,
  { other, passedOnAfter, looks }: Beside = {},
): Promise<number> {
  const tiny = new TinyBackend();
  const memory = new PlainMemory(passedOnAfter === MANY ? 8 * WORDS : WORDS);
  let left: Int32Array | undefined;
  let isArmed = false;
  const on = (reached: Stage): void => {
    if (!isArmed || reached !== stage || left !== undefined) return;
    left = memory.words.slice();
    if (reached === 'before the change') throw new Killed();
  };
  const plain = isAsynchronous ? asynchronous(tiny) : tiny;
  const held = other === undefined ? undefined : heldBeside(plain, other);
  const inner = held?.backend ?? plain;
  const { backend, made } = watched(inner, method, on);
  const running = await journaled(backend, memory);
  const { session, loopback } = running.kept();
  const recorder = new Recorder(loopback);
  const client = new FuseClient(recorder);
  await client.init();
  const known = (await prepare?.(client)) ?? { nodeid: 0n, fh: 0n };
  const usual = looks === true ? ['new', 'file', 'directory'] : [];
  for (const name of usual) await client.lookup(ROOT, name).catch(() => undefined);
  const requests: Recorder['last'][] = [];
  const beside = held === undefined ? undefined : client.mknod(ROOT, BESIDE, 0o010600);
  if (beside !== undefined) requests.push(recorder.last);
  await held?.reached;
  const before = made();
  isArmed = true;
  recorder.isDead = stage === 'taken';
  if (passedOnAfter !== undefined) loopback.place = PLACE;
  await request(client, known).catch(() => undefined);
  requests.push(recorder.last);
  const isOvertaken = passedOnAfter !== undefined && stage === 'answered, not published';
  if (isOvertaken) {
    loopback.place = PLACE + 1;
    await client.mknod(ROOT, BESIDE, 0o010600);
    const orders = new Set<number>();
    for (let i = 0; i < passedOnAfter; i++) {
      await client.lookup(ROOT, BESIDE);
      session.submit();
      orders.add(memory.words[2]!);
    }
    assert.equal(orders.size > 1, passedOnAfter === MANY, 'whether the journal was gathered anew');
  }
  // The last store before the reply is published is the journal's.
  left ??= memory.words.slice();

  const log = new MemoryLog();
  let words = left;
  let next: Session | undefined;
  for (let kill = 0; kill < kills; kill++) {
    const found = replay({ words, discard: () => undefined })!;
    const restored = await recoverExport(backend, found, { log, createBuffer: hostBuffer });
    next = await restoreSession(restored, restored.sessions[0]!);
    await recoverRequests(restored, found, [next]);
    const again = new PlainMemory(WORDS);
    const holder = { hold: () => 1, drop: () => undefined };
    const journal = new Journal(restored.export, { memory: again, holder, log });
    const kept = journal.register(next, { connection: 0, socket: 0 });
    next.journal = kept;
    for (const [unique, verdict] of next.recovered ?? [])
      kept.keep(unique | 0, Math.floor(unique / 2 ** 32) | 0, verdict);
    journal.begin();
    journal.boundary();
    restored.finish();
    words = again.words;
  }
  for (const sent of requests.toReversed()) {
    const reply = await new Loopback(next!).request(...sent!);
    const errno = new DataView(reply.buffer, reply.byteOffset).getInt32(4, true);
    assert.equal(errno, 0, 'the reply');
  }
  assert.equal(tiny.root.children.has(BESIDE), held !== undefined || isOvertaken);
  // The new client's requests have other ids than those that come again.
  const second = new FuseClient(new Loopback(next!));
  next!.recovered = undefined;
  await check(second, tiny, known);
  await next!.close();
  held?.letGo();
  await beside?.catch(() => undefined);
  await session.close();
  return made() - before;
}

for (const isAsynchronous of [false, true]) {
  const kind = isAsynchronous ? 'an asynchronous backend' : 'a synchronous backend';
  describe(`on ${kind}, a request is carried out once whenever its process is killed`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2]) assert.equal(await survive(one, stage, isAsynchronous, kills), 1);
        });
  });
  describe(`on ${kind}, so is one whose names the guest has looked up`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2])
            assert.equal(await survive(one, stage, isAsynchronous, kills, { looks: true }), 1);
        });
  });
  describe(`on ${kind}, so is one that a queue thread has passed on`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          const beside = { passedOnAfter: 1 };
          for (const kills of [1, 2])
            assert.equal(await survive(one, stage, isAsynchronous, kills, beside), 1);
        });
    test('CREATE, and the journal was gathered anew', async () => {
      const [create, stage] = [cases['CREATE']!, STAGES[3]];
      assert.equal(await survive(create, stage, isAsynchronous, 2, { passedOnAfter: MANY }), 1);
    });
  });
  describe(`on ${kind}, a request that may be repeated leaves the same`, () => {
    for (const [name, one] of Object.entries(repeatable))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2])
            for (const beside of [{}, { passedOnAfter: 1 }])
              await survive(one, stage, isAsynchronous, kills, beside);
        });
  });
}

describe('two requests of two queues are carried out once each', () => {
  for (const [name, one] of Object.entries(cases))
    for (const other of ['before the change', 'after the change'] as const)
      for (const stage of STAGES)
        test(`${name}, ${stage}, and MKNOD, ${other}`, async () => {
          for (const kills of [1, 2]) assert.equal(await survive(one, stage, true, kills, { other }), 1);
        });
});
