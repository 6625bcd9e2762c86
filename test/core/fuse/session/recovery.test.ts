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

const names = (tiny: TinyBackend): string => [...tiny.root.children.keys()].sort().join(' ');

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
  const backend = wrapEach(inner, (name, next) => {
    if (name !== method) return next();
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

/** Thrown where a process would be killed: what follows in it is of no account. */
class Killed extends Error {}

async function survive(
  { method, prepare, request, check }: Case,
  stage: Stage,
  isAsynchronous: boolean,
  kills: number,
): Promise<number> {
  const tiny = new TinyBackend();
  const memory = new PlainMemory(WORDS);
  let left: Int32Array | undefined;
  let isArmed = false;
  const on = (reached: Stage): void => {
    if (!isArmed || reached !== stage || left !== undefined) return;
    left = memory.words.slice();
    if (reached === 'before the change') throw new Killed();
  };
  const inner = isAsynchronous ? asynchronous(tiny) : tiny;
  const { backend, made } = watched(inner, method, on);
  const running = await journaled(backend, memory);
  const { session, loopback } = running.kept();
  const recorder = new Recorder(loopback);
  const client = new FuseClient(recorder);
  await client.init();
  const known = (await prepare?.(client)) ?? { nodeid: 0n, fh: 0n };
  const before = made();
  isArmed = true;
  recorder.isDead = stage === 'taken';
  await request(client, known).catch(() => undefined);
  // The last store before the reply is published is the journal's.
  left ??= memory.words.slice();
  const sent = recorder.last!;

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
  const reply = await new Loopback(next!).request(...sent);
  const errno = new DataView(reply.buffer, reply.byteOffset).getInt32(4, true);
  assert.equal(errno, 0, 'the reply');
  // The new client's requests have other ids than those that come again.
  const second = new FuseClient(new Loopback(next!));
  next!.recovered = undefined;
  await check(second, tiny, known);
  await next!.close();
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
  describe(`on ${kind}, a request that may be repeated leaves the same`, () => {
    for (const [name, one] of Object.entries(repeatable))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2]) await survive(one, stage, isAsynchronous, kills);
        });
  });
}
