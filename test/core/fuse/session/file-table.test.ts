import assert from 'node:assert/strict';
import { describe, it, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { accelerate, type Backing, type StatIdentity } from '../../../../core/backend/accelerator.js';
import { wrap, type Attributes, type Backend, type Entry } from '../../../../core/backend/index.js';
import {
  hashOfName,
  type Session,
  saveSession,
  type FileTable,
  type EntryName,
  type EntryNode,
  type FileTableOwner,
  type Slot,
  type Validities,
} from '../../../../core/fuse/index.js';
import { DescriptorUse, SharedDescriptors } from '../../../../core/system/index.js';
import { SharedFileTable, FileTableView } from '../../../../core/queue-threads/shared-file-table.js';
import type { ExportOptions } from '../../../../core/state/index.js';
import { engine, type Engine, type Guest } from '../../../support/engine.js';
import { ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { asynchronous, TinyBackend, type TinyFile, type TinyNode } from '../../../support/tiny-backend.js';
import { FROM, statx } from '../../queue-threads/file-table-reader.js';
import { withPlainNumbers } from '../../../support/plain-numbers.js';
import { Random, repetitions } from '../../../support/random.js';

const ESTALE = 116;
const EBADF = 9;
const ENOENT = 2;
const FOPEN_KEEP_CACHE = 2;
const MOUNT = 30;

/** Lookups with which the recorder publishes an entry. */
const GRANTED = 10;

/** A file system whose nodes and open files have descriptors. Nothing is open under them. */
class BackedBackend extends TinyBackend {
  /** Per node, what differs from the usual backing; undefined for none. */
  readonly odd = new Map<TinyNode, Partial<Backing> | undefined>();

  constructor() {
    super();
    accelerate(this, { backing: (node: TinyNode, file) => this.backing(node, file) });
  }

  backing(node: TinyNode, file: TinyFile | undefined): Backing | undefined {
    if (this.odd.has(node) && this.odd.get(node) === undefined) return undefined;
    const usual = {
      fd: (file === undefined ? 1000 : 2000) + node.id,
      attributes: true,
      readFlags: 0,
      writes: file !== undefined,
      names: file === undefined && node.isDirectory,
    };
    const identity = file === undefined ? identityOf(node) : undefined;
    return { ...usual, identity, ...this.odd.get(node) };
  }

  override lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
    const entry = super.lookup(parent, name);
    return name.startsWith('submount') && entry !== undefined
      ? { ...entry, attributes: { ...entry.attributes, submount: true } }
      : entry;
  }
}

function identityOf(node: TinyNode): StatIdentity {
  return { mount: MOUNT, inoLow: node.id, inoHigh: 0, birth: { seconds: node.id, nanoseconds: 5 } };
}

/** The backend with answers that come later. Only `backing` answers at once. */
function slow(backed: BackedBackend): Backend {
  const later: Backend = wrap(asynchronous(backed), {});
  return accelerate(later, { backing: backed.backing.bind(backed) });
}

interface PublishedEntry {
  readonly name: EntryName;
  readonly node: EntryNode;
  lookups: number;
}

/** Records what is published, and takes lookups as threads do. */
class Recorder implements FileTable {
  readonly memory = new SharedArrayBuffer(0);
  owner!: FileTableOwner;
  validities!: Validities;
  /** Published nodes by node id, files by index, entries by slot. */
  readonly nodes = new Map<bigint, { slot: number; backing: Backing; attributes: Attributes | undefined }>();
  readonly files = new Map<number, { fh: bigint; nodeid: bigint; backing: Backing }>();
  readonly entries = new Map<Slot, PublishedEntry>();
  /** Calls that withdraw something or ask for differences, since {@link calls} was called last. */
  #calls: string[] = [];
  /** How often something was published. */
  publications = 0;

  /** There are no threads. */
  addTo(): void {}
  passAll(): void {}

  calls(): string[] {
    const calls = this.#calls;
    this.#calls = [];
    return calls;
  }

  get isEmpty(): boolean {
    return this.nodes.size + this.files.size + this.entries.size === 0;
  }

  begin(validities: Validities, owner: FileTableOwner): void {
    this.validities = validities;
    this.owner = owner;
  }

  publishNode(
    slot: number,
    low: number,
    high: number,
    backing: Backing,
    attributes: Attributes | undefined,
  ): void {
    this.publications += 1;
    this.nodes.set(wide(low, high), { slot, backing, attributes: attributes && { ...attributes } });
  }

  publishFile(index: number, generation: number, nodeLow: number, nodeHigh: number, backing: Backing): void {
    this.publications += 1;
    this.files.set(index, { fh: wide(index, generation), nodeid: wide(nodeLow, nodeHigh), backing });
  }

  publishEntry(name: EntryName, slot: Slot, node: EntryNode): number {
    this.publications += 1;
    this.#returnLookups(slot);
    this.entries.set(slot, { name, node, lookups: GRANTED });
    return GRANTED;
  }

  reportDifferences(_slot: number, low: number, high: number): void {
    this.#calls.push(`reportDifferences ${wide(low, high)}`);
  }

  withdrawEntry(slot: Slot): void {
    this.#calls.push('withdraw entry');
    this.#returnLookups(slot);
  }

  withdrawNode(low: number, high: number): void {
    this.#calls.push(`withdraw node ${wide(low, high)}`);
    this.nodes.delete(wide(low, high));
  }

  withdrawFile(index: number): void {
    this.#calls.push(`withdraw file ${index}`);
    this.files.delete(index);
  }

  clear(): void {
    this.#calls.push('clear');
    this.nodes.clear();
    this.files.clear();
    for (const slot of this.entries.keys()) this.#returnLookups(slot);
  }

  /** The entry of a node. */
  entryOf(nodeid: bigint): PublishedEntry | undefined {
    for (const entry of this.entries.values())
      if (wide(entry.node.low, entry.node.high) === nodeid) return entry;
    return undefined;
  }

  /** Takes a lookup, as a thread that answers a LOOKUP does. */
  take(nodeid: bigint): void {
    const entry = this.entryOf(nodeid);
    assert.ok(entry !== undefined && entry.lookups > 0);
    entry.lookups -= 1;
  }

  #returnLookups(slot: Slot): void {
    const entry = this.entries.get(slot);
    this.entries.delete(slot);
    if (entry !== undefined) this.owner.returnLookups(slot, entry.lookups);
  }
}

function wide(low: number, high: number): bigint {
  return (BigInt.asUintN(32, BigInt(high)) << 32n) | BigInt.asUintN(32, BigInt(low));
}

function hash(name: string): number {
  const bytes = Buffer.from(name);
  return hashOfName(bytes, 0, bytes.length);
}

interface Mounted extends Guest {
  readonly tiny: BackedBackend;
  readonly fileTable: Recorder;
  readonly engine: Engine;
}

/**
 * A guest that has mounted a file system with `dir/file`. Its requests are marked as passed on by a
 * queue thread.
 */
async function mounted(
  wrap: (backed: BackedBackend) => Backend = (backed) => backed,
  options: Omit<ExportOptions, 'log' | 'createBuffer'> = {},
): Promise<Mounted> {
  const tiny = new BackedBackend();
  const { node } = tiny.mkdir(tiny.root, 'dir', 0o755);
  tiny.mknod(node, 'file', 0o100644);
  tiny.known.clear();
  const running = await engine(wrap(tiny), options);
  const fileTable = new Recorder();
  const guest = running.guest({ fileTable });
  await guest.client.init();
  assert.equal(fileTable.publications, 0);
  fileTable.calls();
  guest.loopback.passedOn = true;
  return { ...guest, tiny, fileTable, engine: running };
}

/** The open file `dir/file`. The guest has looked up each component once. */
async function opened(guest: Guest): Promise<{ dir: bigint; file: bigint; fh: bigint; index: number }> {
  const dir = (await guest.client.lookup(ROOT, 'dir')).nodeid;
  const file = (await guest.client.lookup(dir, 'file')).nodeid;
  const { fh } = await guest.client.open(file, 2);
  return { dir, file, fh, index: Number(BigInt.asUintN(32, fh)) };
}

describe('a session publishes', () => {
  it('nothing of what comes to this thread', async () => {
    const guest = await mounted();
    guest.loopback.passedOn = false;
    const { client, fileTable } = guest;
    const { dir, file, fh } = await opened(guest);
    await client.getattr(ROOT);
    await client.getattr(file, fh);
    await client.setattr(file, { mode: 0o600 });
    await client.write(file, fh, 0, Buffer.from('data'));
    await client.read(file, fh, 0, 4);
    await client.create(dir, 'new');
    const listing = await client.opendir(dir);
    await client.readdirplus(dir, listing.fh);
    assert.equal(fileTable.publications, 0);
  });

  it('a directory in which a name was looked up, whether there was such a name or not', async () => {
    const { client, fileTable, tiny } = await mounted();
    await rejectsWith(client.lookup(ROOT, 'none'), ENOENT);
    assert.deepEqual([...fileTable.nodes.keys()], [ROOT]);
    const { backing, attributes } = fileTable.nodes.get(ROOT)!;
    assert.deepEqual([backing.fd, backing.names, attributes], [1000 + tiny.root.id, true, undefined]);
    assert.equal(fileTable.entries.size, 0);
  });

  it('a node whose attributes were asked for, with the reply', async () => {
    const { client, fileTable, tiny, session } = await mounted();
    const dir = tiny.root.children.get('dir')!;
    const { nodeid } = await client.lookup(ROOT, 'dir');
    assert.equal(fileTable.nodes.has(nodeid), false);
    await client.getattr(nodeid);
    const { slot, backing, attributes } = fileTable.nodes.get(nodeid)!;
    assert.equal(slot, session.nodes.slotOf(dir));
    assert.equal(backing.fd, 1000 + dir.id);
    assert.deepEqual(attributes, tiny.getattr(dir));
    await client.setattr(nodeid, { mtime: { seconds: 1234, nanoseconds: 0 } });
    assert.equal(fileTable.nodes.get(nodeid)!.attributes?.mtime, 1234);
  });

  it('an entry under the name and the directory by which it was looked up', async () => {
    const { client, fileTable, tiny, session } = await mounted();
    const { nodeid, generation } = await client.lookup(ROOT, 'dir');
    const entry = await client.lookup(nodeid, 'file');
    const { name, node } = fileTable.entryOf(entry.nodeid)!;
    assert.equal(wide(name.low, name.high), nodeid);
    assert.equal(name.hash, hash('file'));
    assert.equal(BigInt.asUintN(32, BigInt(node.generation)), entry.generation);
    const dir = fileTable.entryOf(nodeid)!;
    assert.deepEqual([wide(dir.name.low, dir.name.high), dir.name.hash], [ROOT, hash('dir')]);
    assert.equal(BigInt.asUintN(32, BigInt(dir.node.generation)), generation);
    assert.deepEqual(
      [...fileTable.entries.keys()],
      ['dir', 'file'].map((_, i) => session.nodes.slotOf([...tiny.known][i]!)),
    );
  });

  it('names by a hash of their bytes that tells them apart', () => {
    const names = ['', 'a', 'b', 'ab', 'ba', 'aa', 'file', 'file2', 'élan', 'x'.repeat(255), '\0'];
    assert.equal(new Set(names.map(hash)).size, names.length);
    const bytes = Buffer.from('..file..');
    assert.equal(hashOfName(bytes, 2, 6), hash('file'));
    assert.ok(names.every((name) => Number.isInteger(hash(name)) && hash(name) === (hash(name) | 0)));
  });

  it('an open file with its fh and its node, after OPEN, READ and WRITE', async () => {
    const guest = await mounted();
    const { client, fileTable, tiny } = guest;
    const { file, fh, index } = await opened(guest);
    const fd = 2000 + tiny.root.children.get('dir')!.children.get('file')!.id;
    const uses: (() => Promise<unknown>)[] = [
      () => Promise.resolve(),
      () => client.write(file, fh, 0, Buffer.from('data')),
      () => client.read(file, fh, 0, 4),
    ];
    for (const use of uses) {
      await use();
      const { backing, ...ids } = fileTable.files.get(index)!;
      assert.deepEqual(ids, { fh, nodeid: file });
      assert.deepEqual([backing.fd, backing.writes], [fd, true]);
      fileTable.files.clear();
    }
    assert.equal(fileTable.files.size, 0);
  });

  it('nothing where the request fails', async () => {
    const { client, fileTable, tiny } = await mounted();
    await rejectsWith(client.getattr(77n), ESTALE);
    await rejectsWith(client.lookup(77n, 'file'), ESTALE);
    await rejectsWith(client.read(ROOT, 5n, 0, 10), EBADF);
    await rejectsWith(client.open(77n), ESTALE);
    const { nodeid } = await client.lookup(ROOT, 'dir');
    const before = fileTable.publications;
    tiny.getattr = () => {
      throw new Error('no');
    };
    await rejectsWith(client.getattr(nodeid), 5);
    assert.equal(fileTable.publications, before);
  });

  it('nothing that has no descriptor, or whose attributes are not the file’s', async () => {
    const { client, fileTable, tiny } = await mounted();
    for (const odd of [undefined, { fd: -1 }, { attributes: false }]) {
      tiny.odd.set(tiny.root, odd);
      await client.getattr(ROOT);
      await rejectsWith(client.lookup(ROOT, 'none'), ENOENT);
    }
    assert.equal(fileTable.publications, 0);
    const dir = tiny.root.children.get('dir')!;
    tiny.odd.set(dir.children.get('file')!, undefined);
    const { nodeid } = await client.lookup((await client.lookup(ROOT, 'dir')).nodeid, 'file');
    await client.open(nodeid);
    assert.equal(fileTable.files.size, 0);
  });

  it('no entry but of a file with an identity, on the mount of a directory that has names', async () => {
    const { client, fileTable, tiny } = await mounted();
    const dir = tiny.root.children.get('dir')!;
    const forgetting = async (name: string): Promise<void> =>
      client.forget((await client.lookup(ROOT, name)).nodeid);
    const identity = { ...identityOf(dir), mount: MOUNT + 1 };
    for (const odd of [undefined, { identity: undefined }, { identity }]) {
      tiny.odd.set(dir, odd);
      await forgetting('dir');
    }
    tiny.odd.clear();
    for (const odd of [undefined, { names: false }, { identity: undefined }]) {
      tiny.odd.set(tiny.root, odd);
      await forgetting('dir');
    }
    tiny.odd.clear();
    tiny.mkdir(tiny.root, 'submount', 0o755);
    await forgetting('submount');
    const before = fileTable.entries.size;
    assert.equal(before, 0);
    const { nodeid } = await client.lookup(ROOT, 'dir');
    assert.equal(fileTable.entryOf(nodeid)?.lookups, GRANTED);
  });

  it('for how long guests may keep it, from the beginning', async () => {
    const { fileTable } = await mounted(undefined, {
      cache: { entryTimeout: 3.5, negativeTimeout: 2, attributeTimeout: 1 },
    });
    assert.deepEqual(fileTable.validities, {
      entry: { seconds: 3, nanoseconds: 500_000_000 },
      negative: { seconds: 2, nanoseconds: 0 },
      attributes: { seconds: 1, nanoseconds: 0 },
    });
  });
});

describe('a session withdraws', () => {
  it('the entry at each FORGET, the node at the last one', async () => {
    const { client, fileTable, tiny } = await mounted();
    const { nodeid } = await client.lookup(ROOT, 'dir');
    await client.getattr(nodeid);
    await client.lookup(ROOT, 'dir');
    // This thread has given two of them, others three.
    for (let i = 0; i < 3; i++) fileTable.take(nodeid);
    await client.forget(nodeid, 2n);
    assert.equal(fileTable.entryOf(nodeid), undefined);
    assert.equal(fileTable.nodes.has(nodeid), true);
    await client.forget(nodeid, 2n);
    assert.equal(fileTable.nodes.has(nodeid), true);
    assert.equal(tiny.known.size, 1);
    await client.getattr(nodeid);
    await client.forget(nodeid, 1n);
    assert.equal(fileTable.nodes.has(nodeid), false);
    assert.equal(tiny.known.size, 0);
    await rejectsWith(client.getattr(nodeid), ESTALE);
  });

  it('the same at a BATCH_FORGET', async () => {
    const guest = await mounted();
    const { client, fileTable, tiny } = guest;
    const dir = (await client.lookup(ROOT, 'dir')).nodeid;
    const file = (await client.lookup(dir, 'file')).nodeid;
    await client.getattr(file);
    await client.getattr(dir);
    fileTable.take(dir);
    fileTable.take(file);
    await client.batchForget([
      [dir, 1n],
      [12345n, 7n],
      [file, 2n],
    ]);
    assert.deepEqual([...fileTable.nodes.keys()].sort(), [ROOT, dir].sort());
    assert.equal(fileTable.entries.size, 0);
    assert.equal(tiny.forgotten.length, 1);
    await rejectsWith(client.getattr(file), ESTALE);
    await client.batchForget([[dir, 1n]]);
    assert.equal(fileTable.nodes.has(dir), false);
    assert.equal(tiny.known.size, 0);
  });

  it('nothing at the FORGET of what another guest knows', async () => {
    const guest = await mounted();
    const { client, fileTable, tiny } = guest;
    const other = guest.engine.guest({ fileTable: new Recorder() });
    await other.client.init();
    const { nodeid } = await client.lookup(ROOT, 'dir');
    await client.getattr(nodeid);
    fileTable.take(nodeid);
    await other.client.forget(nodeid, 5n);
    assert.equal(fileTable.nodes.has(nodeid), true);
    assert.equal(fileTable.entryOf(nodeid)?.lookups, GRANTED - 1);
    await client.forget(nodeid, 2n);
    assert.equal(tiny.known.size, 0);
  });

  it('an open file at RELEASE', async () => {
    const guest = await mounted();
    const { client, fileTable } = guest;
    const { file, fh, index } = await opened(guest);
    const again = await client.open(file);
    await client.release(file, fh);
    assert.equal(fileTable.files.has(index), false);
    assert.equal(fileTable.files.size, 1);
    await rejectsWith(client.read(file, fh, 0, 1), EBADF);
    assert.equal(fileTable.files.has(index), false);
    await client.release(file, again.fh);
    assert.equal(fileTable.files.size, 0);
  });

  it('an open file at RELEASE though a READ is under way, whose answer comes later', async () => {
    const guest = await mounted(slow);
    const { client, fileTable } = guest;
    const { file, fh, index } = await opened(guest);
    assert.equal(fileTable.files.has(index), true);
    const reading = client.read(file, fh, 0, 10);
    const releasing = client.release(file, fh);
    await reading;
    await releasing;
    assert.equal(fileTable.files.has(index), false);
  });

  it('a node at its last FORGET though a GETATTR or LOOKUP is under way, whose answer comes later', async () => {
    const guest = await mounted(slow);
    const { client, fileTable, tiny } = guest;
    const dir = (await client.lookup(ROOT, 'dir')).nodeid;
    await client.getattr(dir);
    assert.equal(fileTable.nodes.has(dir), true);
    const asking = [client.getattr(dir), client.lookup(dir, 'none').catch(() => undefined)];
    await client.forget(dir);
    await Promise.all(asking);
    assert.equal(tiny.known.size, 0);
    assert.equal(fileTable.nodes.has(dir), false);
    assert.equal(fileTable.entries.size, 0);
  });

  for (const [what, end] of [
    ['DESTROY', (guest: Guest) => guest.client.destroy()],
    ['a second INIT', (guest: Guest) => guest.client.init()],
    ['the end', (guest: Guest) => guest.session.close()],
  ] as const) {
    it(`all at ${what}, and forgets the lookups that threads took, too`, async () => {
      const guest = await mounted();
      const { client, fileTable, tiny, session } = guest;
      const { dir, file } = await opened(guest);
      await client.getattr(file);
      await client.getattr(ROOT);
      fileTable.take(dir);
      fileTable.take(file);
      assert.equal(fileTable.isEmpty, false);
      await end(guest);
      assert.equal(fileTable.isEmpty, true);
      assert.equal(tiny.known.size, 0);
      assert.equal(tiny.openFiles.size, 0);
      assert.equal(session.nodes.size, 1);
      if (what === 'the end') return;
      await client.init();
      const again = await opened(guest);
      assert.deepEqual([fileTable.files.size, fileTable.entries.size], [1, 2]);
      await client.forget(again.dir);
      await client.release(again.file, again.fh);
      await client.forget(again.file);
      assert.equal(tiny.known.size, 0);
    });
  }

  it('nothing that an answer brings which comes after DESTROY', async () => {
    const guest = await mounted(slow);
    const { client, fileTable, tiny } = guest;
    const { dir, file, fh } = await opened(guest);
    const late = [
      client.getattr(dir),
      client.lookup(dir, 'file'),
      client.read(file, fh, 0, 1),
      client.open(file),
    ];
    const settled = Promise.allSettled(late);
    await client.destroy();
    await settled;
    // Files that were opened in vain are closed, too.
    for (let turns = 0; tiny.known.size + tiny.openFiles.size > 0 && turns < 100; turns++)
      await setImmediate();
    assert.equal(fileTable.isEmpty, true);
    assert.equal(tiny.known.size, 0);
    assert.equal(tiny.openFiles.size, 0);
  });

  it('all when it is saved, and saves the guest’s lookups only', async () => {
    const guest = await mounted();
    const { client, fileTable, tiny, session } = guest;
    const { file } = await opened(guest);
    await client.lookup(ROOT, 'dir');
    for (let i = 0; i < 3; i++) fileTable.take(file);
    const saved = saveSession(session, (slot) => slot);
    assert.deepEqual(fileTable.calls().at(-1), 'clear');
    assert.equal(fileTable.isEmpty, true);
    const dir = tiny.root.children.get('dir')!;
    assert.deepEqual(
      new Map(saved.lookups),
      new Map([
        [session.nodes.slotOf(dir), 2],
        [session.nodes.slotOf(dir.children.get('file')!), 1 + 3],
      ]),
    );
    assert.equal(saved.handles.length, 1);
  });
});

describe('a guest that forgets more than it has', () => {
  it('loses the node, and no more than that', async () => {
    const { client, fileTable, tiny } = await mounted();
    const { nodeid } = await client.lookup(ROOT, 'dir');
    await client.getattr(nodeid);
    fileTable.take(nodeid);
    await client.forget(nodeid, 1n << 40n);
    assert.deepEqual([tiny.forgotten.length, tiny.known.size], [1, 0]);
    assert.deepEqual([fileTable.nodes.has(nodeid), fileTable.entries.size], [false, 0]);
    await client.forget(nodeid, 3n);
    await client.batchForget([
      [nodeid, (1n << 64n) - 1n],
      [ROOT, 9n],
    ]);
    assert.equal(tiny.forgotten.length, 1);
    assert.equal((await client.lookup(ROOT, 'dir')).nodeid, nodeid);
    fileTable.take(nodeid);
    await client.forget(nodeid, 1n);
    assert.equal(tiny.known.size, 1);
    await client.forget(nodeid, 1n);
    assert.equal(tiny.known.size, 0);
    await client.getattr(ROOT);
  });
});

describe('an open', () => {
  it('asks first whether threads gave other attributes, and drops cached data if so', async () => {
    const guest = await mounted(undefined, { cache: { data: 'auto' } });
    const { client, fileTable, session, tiny } = guest;
    const { file } = await opened(guest);
    assert.ok(fileTable.calls().includes(`reportDifferences ${file}`));
    const flags = async (): Promise<number> => (await client.open(file)).openFlags & FOPEN_KEEP_CACHE;
    assert.equal(await flags(), FOPEN_KEEP_CACHE);
    fileTable.owner.attributesDiffer(
      session.nodes.slotOf(tiny.root.children.get('dir')!.children.get('file')!),
    );
    assert.equal(await flags(), 0);
    await client.getattr(file);
    assert.equal(await flags(), FOPEN_KEEP_CACHE);
  });

  it('asks nothing where the policy does not depend on it', async () => {
    for (const data of ['always', 'never'] as const) {
      const guest = await mounted(undefined, { cache: { data } });
      await opened(guest);
      assert.deepEqual(
        guest.fileTable.calls().filter((call) => call.startsWith('reportDifferences')),
        [],
      );
    }
  });
});

test('a node is forgotten exactly when the guest has forgotten all its lookups, by this thread and by others', async () => {
  const tiny = new BackedBackend();
  const names = Array.from({ length: 12 }, (_, i) => `file-${i}`);
  const files = names.map((name) => tiny.mknod(tiny.root, name, 0o100644).node);
  tiny.known.clear();
  const descriptors = new SharedDescriptors();
  const user = descriptors.join();
  const fileTable = new SharedFileTable(descriptors);
  const running = await engine(tiny);
  const { client, loopback, session } = running.guest({ fileTable });
  await client.init();
  const view = withPlainNumbers(new FileTableView(fileTable.memory, new DescriptorUse(user)));
  /** Lookups that the guest has and has not forgotten, by file. */
  const held = files.map(() => 0);
  const ids = files.map(() => 0n);
  let taken = 0;

  const random = new Random(4711);

  /** Answers a LOOKUP as a thread does, if the entry is published. */
  function take(which: number): void {
    const node = files[which]!;
    const ino = BigInt(node.id);
    const from = statx(
      { ino, mount: MOUNT, birth: { seconds: node.id, nanoseconds: 5 } },
      tiny.getattr(node),
    );
    const isFound = view.findEntry(Number(ROOT), 0, hash(names[which]!), from, FROM);
    if (!isFound) return;
    assert.ok(view.confirmEntry(from, FROM));
    assert.equal(wide(view.nodeLow, view.nodeHigh), ids[which]);
    held[which]! += 1;
    taken += 1;
  }

  async function check(session: Session): Promise<void> {
    for (const [which, node] of files.entries()) {
      assert.equal(tiny.known.has(node), held[which]! > 0, names[which]);
      if (held[which]! > 0) await client.getattr(ids[which]!);
      else if (ids[which] !== 0n) await rejectsWith(client.getattr(ids[which]!), ESTALE);
    }
    assert.equal(session.nodes.size, 1 + held.filter((count) => count > 0).length);
  }

  for (let step = 0; step < repetitions(6000); step++) {
    const which = random.below(files.length);
    const action = random.below(20);
    loopback.passedOn = random.below(4) > 0;
    if (action < 4) {
      ids[which] = (await client.lookup(ROOT, names[which]!)).nodeid;
      held[which]! += 1;
    } else if (action < 12) for (let i = random.below(40); i >= 0; i--) take(which);
    else if (action < 15) {
      const count = random.below(held[which]! + 1);
      held[which]! -= count;
      await client.forget(ids[which]!, BigInt(count));
    } else if (action === 15) {
      const all = [...new Set([which, random.below(files.length), random.below(files.length)])];
      await client.batchForget(all.map((one) => [ids[one]!, BigInt(held[one]!)]));
      for (const one of all) held[one] = 0;
    } else if (action === 16) {
      held[which] = 0;
      await client.forget(ids[which]!, 1n << 32n);
    } else if (action === 17 && held[which]! > 0) {
      const { fh } = await client.open(ids[which]!);
      await client.release(ids[which]!, fh);
    } else if (action === 18) tiny.setattr(files[which]!, { mtime: { seconds: step, nanoseconds: 0 } });
    if (random.below(50) === 0) await check(session);
  }
  assert.ok(taken > repetitions(1000));
  await check(session);
  for (const [which, count] of held.entries()) await client.forget(ids[which]!, BigInt(count));
  held.fill(0);
  await check(session);
  assert.equal(tiny.known.size, 0);
  assert.deepEqual(running.log.errors, []);
});
