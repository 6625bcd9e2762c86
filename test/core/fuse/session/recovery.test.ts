import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type Backend,
  type BackendMethod,
  type FsStatistics,
  type IoctlResult,
  wrapEach,
} from '../../../../core/backend/index.js';
import { recoverRequests, restoreSession, Session } from '../../../../core/fuse/index.js';
import { operations } from '../../../../core/fuse/operations/table.js';
import { Opcode } from '../../../../core/fuse/wire/abi.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import {
  Journal,
  NO_SLOT,
  type NodeIdHigh,
  type NodeIdLow,
  recoverExport,
  replay,
} from '../../../../core/state/index.js';
import { MemoryLog } from '../../../support/engine.js';
import {
  FuseClient,
  type FuseTransport,
  RequestBytes,
  ROOT,
  rejectsWith,
} from '../../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { asynchronous, TinyBackend, type TinyFile, type TinyNode } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 16_384;

/** Where a process is killed that carries out a request. */
const STAGES = ['taken', 'before the change', 'after the change', 'answered, not published'] as const;
type Stage = (typeof STAGES)[number];

interface Case {
  /** The backend's method that carries it out; none where the engine does. */
  readonly method?: BackendMethod;
  prepare?(client: FuseClient): Promise<Known>;
  request(client: FuseClient, known: Known): Promise<unknown>;
  /** What the guest sees in the end. */
  check(client: FuseClient, tiny: TinyBackend, known: Known, session: Session): Promise<void> | void;
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

const contentOf = (tiny: TinyBackend): string => Buffer.from(tiny.root.children.get('file')!.data).toString();

/** What is asked for by a client that has no method of its own for it. */
const call = (
  client: FuseClient,
  opcode: number,
  nodeid: bigint,
  args: RequestBytes,
  room = 0,
): Promise<Uint8Array> => client.call(opcode, nodeid, args.bytes(), room);

/** A directory with three files, one of which was listed. */
const directory = async (client: FuseClient): Promise<Known> => {
  for (const name of ['a', 'b', 'file']) await closed(name)(client);
  const { fh } = await client.opendir(ROOT);
  return { nodeid: ROOT, fh };
};

/** Two lookups of a file beside that by which it was made. */
const known = async (client: FuseClient): Promise<Known> => {
  const made = await file()(client);
  for (let i = 0; i < 2; i++) await client.lookup(ROOT, 'file');
  return made;
};

async function attributed(client: FuseClient): Promise<Known> {
  const made = await file()(client);
  await client.setxattr(made.nodeid, 'user.a', Buffer.from('1'));
  return made;
}

/** How often the guest has looked a node up. */
const lookups = ({ nodes, counts }: Session, nodeid: bigint): number => {
  const halves = [nodeid & 0xffffffffn, nodeid >> 32n].map((half) => Number(half) | 0);
  const slot = nodes.find(halves[0] as NodeIdLow, halves[1] as NodeIdHigh);
  return slot === NO_SLOT ? 0 : counts.of(slot);
};

const WHOLE = { start: 0n, end: 9n, type: 1, pid: 1 };
const UNLOCK = 2;

/** A file with a lock that the guest's second owner wants. */
const locked = async (client: FuseClient): Promise<Known> => {
  const made = await file()(client);
  await client.setlk(made.nodeid, made.fh, 1n, WHOLE);
  return made;
};

const names = (tiny: TinyBackend): string =>
  [...tiny.root.children.keys()]
    .filter((name) => name !== BESIDE)
    .sort()
    .join(' ');

/** Methods that {@link TinyBackend} does without. */
class WholeBackend extends TinyBackend {
  flags = 0;

  flush(): void {
    this.flags |= 0;
  }

  fsync(): void {
    this.flags |= 0;
  }

  fsyncdir(): void {
    this.flags |= 0;
  }

  syncfs(): void {
    this.flags |= 0;
  }

  override statfs(): FsStatistics {
    return { blocks: 1000, blocksFree: 500, files: 10 };
  }

  ioctl(_node: TinyNode, _file: TinyFile, command: number, input: Uint8Array): IoctlResult {
    this.flags = input[0]!;
    return { result: command, output: input };
  }

  override fallocate(node: TinyNode, file: TinyFile, mode: number, offset: number, length: number): void {
    if (mode !== COLLAPSE_RANGE) {
      super.fallocate(node, file, mode, offset, length);
      return;
    }
    node.data = Uint8Array.from([...node.data.subarray(0, offset), ...node.data.subarray(offset + length)]);
  }
}

/** fallocate(2). */
const COLLAPSE_RANGE = 8;

/** Every request that must not be carried out twice. */
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
  RENAME2: {
    method: 'rename',
    prepare: file(),
    request: (client) => client.rename(ROOT, 'file', ROOT, 'new', 1),
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
    prepare: attributed,
    request: (client, { nodeid }) => client.removexattr(nodeid, 'user.a'),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 0),
  },
  'WRITE at the end': {
    method: 'write',
    prepare: file(0o2002),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old new '),
  },
  'FALLOCATE that moves what follows': {
    method: 'fallocate',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.fallocate(nodeid, fh, COLLAPSE_RANGE, 0, 1),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'ld '),
  },
};

/** Requests that may be carried out again, and what they leave. */
const repeatable: Readonly<Record<string, Case>> = {
  LOOKUP: {
    method: 'lookup',
    prepare: file(),
    request: (client) => client.lookup(ROOT, 'file'),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  FORGET: {
    prepare: known,
    request: (client, { nodeid }) => client.forget(nodeid),
    check: (_, __, { nodeid }, session) => assert.equal(lookups(session, nodeid), 2),
  },
  BATCH_FORGET: {
    prepare: known,
    request: (client, { nodeid }) => client.batchForget([[nodeid, 2n]]),
    check: (_, __, { nodeid }, session) => assert.equal(lookups(session, nodeid), 1),
  },
  GETATTR: {
    method: 'getattr',
    prepare: file(),
    request: (client, { nodeid }) => client.getattr(nodeid),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  STATX: {
    method: 'getattr',
    prepare: file(),
    request: (client, { nodeid }) =>
      call(client, Opcode.STATX, nodeid, new RequestBytes().u32(0).u32(0).u64(0).u32(0).u32(0x7ff), 288),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  SETATTR: {
    method: 'setattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setattr(nodeid, { mode: 0o100600 }),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.mode & 0o777, 0o600),
  },
  'SETATTR of a size': {
    method: 'setattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setattr(nodeid, { size: 2 }),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 2),
  },
  READLINK: {
    method: 'readlink',
    async prepare(client) {
      return { nodeid: (await client.symlink(ROOT, 'link', 'target')).nodeid, fh: 0n };
    },
    request: (client, { nodeid }) => client.readlink(nodeid),
    check: async (client, _, { nodeid }) => assert.equal(await client.readlink(nodeid), 'target'),
  },
  OPEN: {
    method: 'open',
    prepare: file(),
    request: (client, { nodeid }) => client.open(nodeid, 2),
    check: async (client, _, { nodeid, fh }) =>
      assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 9)).toString(), 'old '),
  },
  TMPFILE: {
    method: 'tmpfile',
    request: (client) =>
      call(client, Opcode.TMPFILE, ROOT, new RequestBytes().u32(2).u32(0o600).u32(0).u32(0).name('/'), 144),
    check: (_, tiny) => assert.equal(names(tiny), ''),
  },
  READ: {
    method: 'read',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.read(nodeid, fh, 0, 9),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old '),
  },
  'WRITE at an offset': {
    method: 'write',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.write(nodeid, fh, 4, Buffer.from('new ')),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old new '),
  },
  STATFS: {
    method: 'statfs',
    request: (client) => client.statfs(),
    check: async (client) => assert.equal((await client.statfs()).blocks, 1000),
  },
  RELEASE: {
    method: 'release',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.release(nodeid, fh),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.read(nodeid, fh, 0, 9), 9),
  },
  FSYNC: {
    method: 'fsync',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.fsync(nodeid, fh),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old '),
  },
  FLUSH: {
    method: 'flush',
    prepare: locked,
    request: (client, { nodeid, fh }) => client.flush(nodeid, fh, 1n),
    check: (client, _, { nodeid, fh }) => client.setlk(nodeid, fh, 2n, WHOLE),
  },
  SYNCFS: {
    method: 'syncfs',
    prepare: file(),
    request: (client) => call(client, Opcode.SYNCFS, ROOT, new RequestBytes().u64(0)),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old '),
  },
  SETXATTR: {
    method: 'setxattr',
    prepare: file(),
    request: (client, { nodeid }) => client.setxattr(nodeid, 'user.a', Buffer.from('1')),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 1),
  },
  GETXATTR: {
    method: 'getxattr',
    prepare: attributed,
    request: (client, { nodeid }) => client.getxattr(nodeid, 'user.a'),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 1),
  },
  LISTXATTR: {
    method: 'listxattr',
    prepare: attributed,
    request: (client, { nodeid }) => client.listxattr(nodeid),
    check: (_, tiny) => assert.equal(tiny.root.children.get('file')!.xattrs.size, 1),
  },
  OPENDIR: {
    prepare: directory,
    request: (client) => client.opendir(ROOT),
    check: goesOnListing,
  },
  READDIR: {
    method: 'readdir',
    prepare: directory,
    request: (client, { fh }) => client.readdir(ROOT, fh, 0n, 60),
    check: goesOnListing,
  },
  READDIRPLUS: {
    method: 'readdir',
    prepare: directory,
    request: (client, { fh }) => client.readdirplus(ROOT, fh, 0n, 400),
    check: goesOnListing,
  },
  RELEASEDIR: {
    prepare: directory,
    request: (client, { fh }) => client.releasedir(ROOT, fh),
    check: (client, _, { fh }) => rejectsWith(client.readdir(ROOT, fh), 9),
  },
  FSYNCDIR: {
    method: 'fsyncdir',
    prepare: directory,
    request: (client, { fh }) =>
      call(client, Opcode.FSYNCDIR, ROOT, new RequestBytes().u64(fh).u32(0).u32(0)),
    check: goesOnListing,
  },
  GETLK: {
    prepare: locked,
    request: (client, { nodeid, fh }) => client.getlk(nodeid, fh, 2n, WHOLE),
    check: async (client, _, { nodeid, fh }) =>
      assert.equal((await client.getlk(nodeid, fh, 2n, WHOLE)).type, WHOLE.type),
  },
  SETLK: {
    prepare: file(),
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, WHOLE),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.setlk(nodeid, fh, 2n, WHOLE), 11),
  },
  'SETLK that unlocks': {
    prepare: locked,
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, { ...WHOLE, type: UNLOCK }),
    check: (client, _, { nodeid, fh }) => client.setlk(nodeid, fh, 2n, WHOLE),
  },
  SETLKW: {
    prepare: file(),
    request: (client, { nodeid, fh }) => client.setlk(nodeid, fh, 1n, WHOLE, true),
    check: (client, _, { nodeid, fh }) => rejectsWith(client.setlk(nodeid, fh, 2n, WHOLE), 11),
  },
  INTERRUPT: {
    prepare: file(),
    request: (client) => client.interrupt(2n),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  INIT: {
    request: (client) => client.init(),
    check: async (client) => assert.equal((await client.getattr(ROOT)).mode & 0o777, 0o755),
  },
  DESTROY: {
    prepare: file(),
    request: (client) => client.destroy(),
    check: async (client, _, { nodeid }) => {
      await client.init();
      await rejectsWith(client.getattr(nodeid), 116);
    },
  },
  IOCTL: {
    method: 'ioctl',
    prepare: file(),
    request: (client, { nodeid, fh }) =>
      call(
        client,
        Opcode.IOCTL,
        nodeid,
        new RequestBytes()
          .u64(fh)
          .u32(0)
          .u32(7)
          .u64(0)
          .u32(1)
          .u32(1)
          .raw(Buffer.from([5])),
        17,
      ),
    check: (_, tiny) => assert.equal((tiny as WholeBackend).flags, 5),
  },
  FALLOCATE: {
    method: 'fallocate',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.fallocate(nodeid, fh, 0, 4, 4),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 8),
  },
  LSEEK: {
    method: 'lseek',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.lseek(nodeid, fh, 0, 4),
    check: (client, _, { nodeid }) => hasSize(client, nodeid, 4),
  },
  COPY_FILE_RANGE: {
    method: 'copyFileRange',
    prepare: file(),
    request: (client, { nodeid, fh }) => client.copyFileRange([nodeid, fh, 0], [nodeid, fh, 4], 4),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old old '),
  },
  COPY_FILE_RANGE_64: {
    method: 'copyFileRange',
    prepare: file(),
    request: (client, { nodeid, fh }) =>
      call(
        client,
        Opcode.COPY_FILE_RANGE_64,
        nodeid,
        new RequestBytes().u64(fh).u64(0).u64(nodeid).u64(fh).u64(4).u64(4).u64(0),
        8,
      ),
    check: (_, tiny) => assert.equal(contentOf(tiny), 'old old '),
  },
};

/** Opcodes that are refused, or whose request means nothing. */
const WITHOUT_EFFECT = ['ACCESS', 'BMAP', 'POLL', 'NOTIFY_REPLY', 'SETUPMAPPING', 'REMOVEMAPPING'];

async function hasSize(client: FuseClient, nodeid: bigint, size: number): Promise<void> {
  assert.equal((await client.getattr(nodeid)).size, size);
}

async function goesOnListing(client: FuseClient, _: TinyBackend, { fh }: Known): Promise<void> {
  const seen: string[] = [];
  for (let offset = 0n; ;) {
    const entries = await client.readdir(ROOT, fh, offset, 60);
    if (entries.length === 0) break;
    seen.push(...entries.map(({ name }) => name));
    offset = entries.at(-1)!.off;
  }
  const listed = seen.filter((name) => name !== '.' && name !== '..' && name !== BESIDE);
  assert.deepEqual(listed.sort(), ['a', 'b', 'file']);
}

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
  /** The reply to that, if it is there. */
  reply: Uint8Array | undefined;
  isDead = false;

  constructor(loopback: Loopback) {
    this.#loopback = loopback;
  }

  async request(queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    this.last = [queue, input.slice(), outSize];
    this.reply = undefined;
    if (this.isDead) throw new Killed();
    const reply = await this.#loopback.request(queue, input, outSize);
    this.reply = reply;
    return reply;
  }
}

/** A backend that counts how often a method has made its change, and tells of it. */
function watched(
  inner: Backend,
  method: BackendMethod | undefined,
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
  const tiny = new WholeBackend();
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
  const tried = recorder.last;
  requests.push(tried);
  const answer = stage === 'answered, not published' ? recorder.reply : undefined;
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
    // What has no reply has no room for one.
    if (sent![2] === 0) continue;
    const errno = new DataView(reply.buffer, reply.byteOffset).getInt32(4, true);
    assert.equal(errno, 0, 'the reply');
    if (sent === tried && answer !== undefined) assert.deepEqual(reply, answer, 'the same reply');
  }
  assert.equal(tiny.root.children.has(BESIDE), held !== undefined || isOvertaken);
  // The new client's requests have other ids than those that come again.
  const second = new FuseClient(new Loopback(next!));
  next!.recovered = undefined;
  await check(second, tiny, known, next!);
  await next!.close();
  held?.letGo();
  await beside?.catch(() => undefined);
  await session.close();
  return made() - before;
}

/** Requests of the guest as a whole: nothing of it is under way beside them. */
const ALONE = new Set(['INIT', 'DESTROY']);

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
            for (const beside of ALONE.has(name) ? [{}] : [{}, { passedOnAfter: 1 }])
              await survive(one, stage, isAsynchronous, kills, beside);
        });
  });
}

describe('two requests of two queues are carried out once each', () => {
  for (const [name, one] of Object.entries({ ...cases, ...repeatable })) {
    if (ALONE.has(name)) continue;
    for (const other of ['before the change', 'after the change'] as const)
      for (const stage of STAGES)
        test(`${name}, ${stage}, and MKNOD, ${other}`, async () => {
          for (const kills of [1, 2]) {
            const made = await survive(one, stage, true, kills, { other });
            if (name in cases) assert.equal(made, 1);
          }
        });
  }
});

test('there is a row for each opcode', () => {
  const rows = [...Object.keys(cases), ...Object.keys(repeatable), ...WITHOUT_EFFECT];
  const tried = new Set(rows.map((row) => row.split(' ')[0]));
  assert.deepEqual([...tried].sort(), Object.keys(Opcode).sort());
  for (const name of WITHOUT_EFFECT) {
    const { start } = operations[Opcode[name as keyof typeof Opcode]]!;
    assert.equal(start.length, 0, `${name} looks at its request`);
  }
});
