import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  linkSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { BackendRegistry, Daemon } from '../../../core/plugins/index.js';
import { FrontEndError } from '../../../core/vhost-user/index.js';
import { MemoryLog } from '../../support/engine.js';
import { Random } from '../../support/random.js';
import { FuseClient, FuseError, Op, ROOT, type FuseTransport } from '../../support/fuse-client.js';
import { by, memoryOf, OwnRing, ThreadedServer } from '../../support/threaded-server.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';

/** Queues of the front-end that connects first. */
const ENGINE = 1;
const THREAD = 2;

const Errno = { ENOENT: 2, EBADF: 9, EAGAIN: 11, EINVAL: 22, ESTALE: 116 };
const O_WRONLY = 1;
const O_RDWR = 2;
const MiB = 2 ** 20;

/** The errno with which a request is answered, or 0. */
async function errnoOf(call: Promise<unknown>): Promise<number> {
  try {
    await call;
    return 0;
  } catch (error) {
    if (error instanceof FuseError) return error.errno;
    throw error;
  }
}

/** A reply as it came. */
interface Recorded {
  readonly opcode: number;
  readonly reply: Uint8Array;
}

/** Keeps every reply, in the order of the requests. */
class Recorder implements FuseTransport {
  readonly #sent: Promise<Recorded>[] = [];
  readonly #counts = new Map<number, number>();
  readonly #transport: FuseTransport;

  constructor(transport: FuseTransport) {
    this.#transport = transport;
  }

  request(queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    const replying = this.#transport.request(queue, input, outSize);
    const opcode = new DataView(input.buffer, input.byteOffset).getUint32(4, true);
    this.#counts.set(opcode, this.count(opcode) + 1);
    this.#sent.push(replying.then((reply) => ({ opcode, reply: reply.slice() })));
    return replying;
  }

  /** Requests sent, of one opcode. */
  count(opcode: number): number {
    return this.#counts.get(opcode) ?? 0;
  }

  replies(): Promise<Recorded[]> {
    return Promise.all(this.#sent);
  }
}

/**
 * Replies without what differs from one directory to another. Ids and generations become ordinals;
 * times and blocks are left out.
 */
function comparable(replies: readonly Recorded[]): string[] {
  const ids = new Map<bigint, number>();
  const ordinal = (view: DataView, at: number): void => {
    const id = view.getBigUint64(at, true);
    if (!ids.has(id)) ids.set(id, ids.size + 1000);
    view.setBigUint64(at, BigInt(ids.get(id)!), true);
  };
  const maskAttributes = (view: DataView, at: number): void => {
    ordinal(view, at);
    for (let i = 16; i < 60; i++) view.setUint8(at + i, 0);
  };
  const maskEntry = (view: DataView, at: number): void => {
    ordinal(view, at);
    // The generation is the file's own.
    ordinal(view, at + 8);
    maskAttributes(view, at + 40);
  };
  return replies.map(({ opcode, reply }) => {
    const bytes = Buffer.from(reply);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length > 16) {
      if (opcode === Op.LOOKUP || opcode === Op.CREATE || opcode === Op.MKDIR || opcode === Op.LINK)
        maskEntry(view, 16);
      if (opcode === Op.GETATTR || opcode === Op.SETATTR) maskAttributes(view, 32);
      if (opcode === Op.READDIRPLUS) {
        for (let at = 16; at < bytes.length;) {
          if (view.getBigUint64(at, true) !== 0n) maskEntry(view, at);
          ordinal(view, at + 128);
          at += 128 + ((24 + view.getUint32(at + 144, true) + 7) & ~7);
        }
      }
    }
    const text = bytes.length < 2000 ? bytes.toString('hex') : createHash('sha1').update(bytes).digest('hex');
    return `${opcode}: ${text}`;
  });
}

/** Sends requests of every kind, most of them by one queue. */
async function everything(fuse: FuseClient, queue: number, other: number): Promise<void> {
  const random = new Random(7);
  fuse.caller = { ...fuse.caller, queue };
  await fuse.init();
  await errnoOf(fuse.lookup(ROOT, 'file'));
  const { entry, open } = await fuse.create(ROOT, 'file', 0o640);
  const { nodeid } = entry;
  const { fh } = open;
  for (let i = 0; i < 3; i++) await fuse.lookup(ROOT, 'file');
  for (const size of [1, 4096, 16_384, 16_385, 100_000, MiB])
    assert.equal(await fuse.write(nodeid, fh, 3 * size, random.bytes(size)), size);
  const end = 4 * MiB;
  for (const [offset, size] of [
    [0, 1],
    [0, 4096],
    [4095, 16_384],
    [12_345, 16_385],
    [0, MiB],
    [end - MiB, MiB],
    [end - 100, 4096],
    [end - MiB + 5, MiB],
    [end, 4096],
    [end + 4096, 16_385],
    [0, 0],
  ] as const) {
    await fuse.read(nodeid, fh, offset, size);
  }
  for (let i = 0; i < 3; i++) await fuse.getattr(nodeid);
  for (let i = 0; i < 2; i++) await fuse.getattr(nodeid, fh);
  await fuse.setattr(nodeid, { size: 70_001, fh });
  await fuse.getattr(nodeid);
  await fuse.read(nodeid, fh, 65_536, 65_536);
  await fuse.setattr(nodeid, { mode: 0o600 });
  await fuse.getattr(nodeid);
  await fuse.write(nodeid, fh, 70_000, Buffer.alloc(0));
  await fuse.setxattr(nodeid, 'user.one', Buffer.from('value'));
  await fuse.getxattr(nodeid, 'user.one');
  await fuse.listxattr(nodeid);
  await fuse.removexattr(nodeid, 'user.one');
  await errnoOf(fuse.getxattr(nodeid, 'user.one'));

  const lock = { start: 0n, end: 99n, type: 1, pid: 7 };
  await fuse.setlk(nodeid, fh, 1n, lock);
  assert.equal(await errnoOf(fuse.setlk(nodeid, fh, 2n, lock)), Errno.EAGAIN);
  await fuse.getlk(nodeid, fh, 2n, lock);
  const waiting = fuse.setlk(nodeid, fh, 2n, lock, true);
  await fuse.getattr(nodeid);
  await by(fuse, other, (one) => one.setlk(nodeid, fh, 1n, { ...lock, type: 2 }));
  await waiting;
  fuse.caller = { ...fuse.caller, queue };
  await fuse.setlk(nodeid, fh, 2n, { ...lock, type: 2 });

  const directory = await fuse.mkdir(ROOT, 'directory');
  await fuse.rename(ROOT, 'file', directory.nodeid, 'moved');
  for (const [parent, name] of [
    [ROOT, 'file'],
    [ROOT, 'file'],
    [directory.nodeid, 'moved'],
    [directory.nodeid, 'moved'],
    [nodeid, 'moved'],
    [ROOT, 'x'.repeat(255)],
    [ROOT, 'x'.repeat(256)],
    [ROOT, '.'],
    [ROOT, 'a/b'],
    [ROOT, ''],
  ] as const) {
    await errnoOf(fuse.lookup(parent, name));
  }
  await fuse.link(nodeid, ROOT, 'link');
  await fuse.lookup(ROOT, 'link');
  await fuse.getattr(nodeid);
  const stream = await fuse.opendir(ROOT);
  for (let offset = 0n; ;) {
    const entries = await fuse.readdirplus(ROOT, stream.fh, offset);
    if (entries.length === 0) break;
    offset = entries.at(-1)!.off;
  }
  await fuse.releasedir(ROOT, stream.fh);
  await fuse.unlink(ROOT, 'link');
  await fuse.unlink(directory.nodeid, 'moved');
  assert.equal(await errnoOf(fuse.lookup(directory.nodeid, 'moved')), Errno.ENOENT);
  await fuse.read(nodeid, fh, 0, 100);
  await fuse.getattr(nodeid, fh);
  await fuse.flush(nodeid, fh, 2n);
  await fuse.release(nodeid, fh);
  assert.equal(await errnoOf(fuse.read(nodeid, fh, 0, 100)), Errno.EBADF);
  assert.equal(await errnoOf(fuse.write(nodeid, fh, 0, Buffer.from('x'))), Errno.EBADF);
  await fuse.forget(nodeid, 1000n);
  assert.equal(await errnoOf(fuse.getattr(nodeid)), Errno.ESTALE);
  assert.equal(await errnoOf(fuse.lookup(nodeid, 'x')), Errno.ESTALE);
  await fuse.rmdir(ROOT, 'directory');
  for (const opcode of [Op.READ, Op.WRITE, Op.GETATTR, Op.LOOKUP])
    await errnoOf(fuse.call(opcode, ROOT, new Uint8Array(3), 200));
  await fuse.getattr(ROOT);
}

test('a thread answers everything as the engine does, and the most of it by itself', async (t) => {
  const recorded: string[][] = [];
  for (const [queue, other] of [
    [ENGINE, THREAD],
    [THREAD, ENGINE],
  ] as const) {
    const server = await ThreadedServer.start(t);
    const frontEnd = await FrontEnd.connect(server.socket, { requestQueues: 2 });
    t.after(() => frontEnd.close());
    const recorder = new Recorder(fuseTransport(frontEnd));
    await everything(new FuseClient(recorder), queue, other);
    recorded.push(comparable(await recorder.replies()));
    const { reads, writes, getattrs, lookups } = server.counts();
    const { requests } = server.session.counters;
    const served = { reads, writes, getattrs, lookups };
    if (queue === ENGINE) assert.deepEqual(served, { reads: 0, writes: 0, getattrs: 0, lookups: 0 });
    else for (const [name, count] of Object.entries(served)) assert.ok(count > 2, `${count} ${name}`);
    assert.deepEqual(served, {
      reads: recorder.count(Op.READ) - requests[Op.READ]!,
      writes: recorder.count(Op.WRITE) - requests[Op.WRITE]!,
      getattrs: recorder.count(Op.GETATTR) - requests[Op.GETATTR]!,
      lookups: recorder.count(Op.LOOKUP) - requests[Op.LOOKUP]!,
    });
    assert.deepEqual(server.log.complaints, []);
  }
  assert.deepEqual(recorded[1], recorded[0]);
});

for (const segment of [13, 16, 40, 4096, 8191]) {
  test(`replies are the same to the byte where segments have ${segment} bytes`, async (t) => {
    const server = await ThreadedServer.start(t);
    const { frontEnd, fuse } = await server.connect(t, { queueSize: 1024 });
    const data = new Random(segment).bytes(2 * MiB);
    writeFileSync(server.path('file'), data);
    const ring = new OwnRing(t, frontEnd, THREAD, memoryOf(frontEnd, 2 * MiB), segment);
    const direct = fuseTransport(frontEnd);
    const twice = new FuseClient({
      async request(_queue, input, outSize) {
        const expected = await direct.request(ENGINE, input, outSize);
        for (let i = 0; i < 3; i++) {
          const reply = await ring.request(THREAD, input, outSize);
          assert.ok(Buffer.from(expected).equals(reply), `opcode ${input[4]}, time ${i}`);
        }
        return expected;
      },
    });
    const { nodeid } = await twice.lookup(ROOT, 'file');
    const { fh } = await fuse.open(nodeid, O_RDWR);
    const most = Math.min(MiB, 900 * segment);
    for (const size of [1, 12, 13, 4096, most]) {
      const offset = 1000 + size;
      const read = await twice.read(nodeid, fh, offset, size);
      assert.ok(data.subarray(offset, offset + size).equals(read));
    }
    assert.equal((await twice.read(nodeid, fh, data.length - 10, Math.min(most, 4096))).length, 10);
    await twice.getattr(nodeid);
    await twice.getattr(nodeid, fh);
    await errnoOf(twice.lookup(ROOT, 'none'));
    const written = new Random(1).bytes(most);
    assert.equal(await twice.write(nodeid, fh, 77, written), most);
    assert.ok(
      readFileSync(server.path('file'))
        .subarray(77, 77 + most)
        .equals(written),
    );
    const { reads, writes, getattrs, lookups } = server.counts();
    assert.deepEqual({ reads, writes, getattrs, lookups }, { reads: 17, writes: 3, getattrs: 5, lookups: 5 });
  });
}

for (const seed of [1, 2, 3]) {
  test(`mixed requests by both queues at once leave what a model of them has, seed ${seed}`, async (t) => {
    const server = await ThreadedServer.start(t);
    const { fuse } = await server.connect(t);
    const random = new Random(seed);
    const BLOCK_BYTES = 1024;
    const BLOCKS = 256;
    const files = await Promise.all(
      Array.from({ length: 6 }, async (_, index) => {
        const name = `file-${index}`;
        const model = random.bytes(BLOCK_BYTES * BLOCKS);
        writeFileSync(server.path(name), model);
        const { nodeid } = await fuse.lookup(ROOT, name);
        const { fh } = await fuse.open(nodeid, O_RDWR);
        return { name, model, nodeid, fh, lookups: 1n, busy: new Set<number>() };
      }),
    );
    const step = async (): Promise<void> => {
      const file = files[random.below(files.length)]!;
      const { name, model, nodeid, fh, busy } = file;
      const queue = 1 + random.below(2);
      const kind = random.below(20);
      if (kind === 0) {
        file.lookups += 1n;
        assert.equal((await by(fuse, queue, (one) => one.lookup(ROOT, name))).nodeid, nodeid);
        return;
      }
      if (kind === 1) {
        assert.equal((await by(fuse, queue, (one) => one.getattr(nodeid))).size, model.length);
        return;
      }
      const first = random.below(BLOCKS);
      const count = Math.min(1 + random.below(40), BLOCKS - first);
      const blocks = Array.from({ length: count }, (_, i) => first + i);
      if (blocks.some((block) => busy.has(block))) return;
      for (const block of blocks) busy.add(block);
      const start = first * BLOCK_BYTES + random.below(BLOCK_BYTES);
      const end = (first + count) * BLOCK_BYTES - random.below(BLOCK_BYTES);
      const size = Math.max(end - start, 1);
      if (kind < 10) {
        const data = random.bytes(size);
        data.copy(model, start);
        assert.equal(await by(fuse, queue, (one) => one.write(nodeid, fh, start, data)), size);
      } else if (kind < 18) {
        const data = await by(fuse, queue, (one) => one.read(nodeid, fh, start, size));
        assert.ok(model.subarray(start, start + size).equals(data), `${name} from ${start}, ${size} bytes`);
      } else {
        const opened = await by(fuse, queue, (one) => one.open(nodeid, O_RDWR));
        const data = await by(fuse, 3 - queue, (one) => one.read(nodeid, opened.fh, start, size));
        assert.ok(
          model.subarray(start, start + size).equals(data),
          `${name} anew from ${start}, ${size} bytes`,
        );
        await by(fuse, queue, (one) => one.release(nodeid, opened.fh));
      }
      for (const block of blocks) busy.delete(block);
    };
    const run = async (): Promise<void> => {
      for (let i = 0; i < 60; i++) await step();
    };
    await Promise.all(Array.from({ length: 32 }, run));
    for (const { name, model, nodeid, fh, lookups } of files) {
      assert.ok(readFileSync(server.path(name)).equals(model), name);
      await fuse.release(nodeid, fh);
      // Every lookup is counted, whichever thread has answered it.
      if (lookups > 1n) await fuse.forget(nodeid, lookups - 1n);
      assert.equal(await errnoOf(by(fuse, ENGINE, (one) => one.getattr(nodeid))), 0);
      await fuse.forget(nodeid);
      for (const queue of [THREAD, ENGINE])
        assert.equal(await errnoOf(by(fuse, queue, (one) => one.getattr(nodeid))), Errno.ESTALE);
    }
    const { reads, writes, getattrs, lookups, failures } = server.counts();
    for (const count of [reads, writes, getattrs, lookups]) assert.ok(count > 0);
    assert.equal(failures, 0);
    assert.deepEqual(server.log.complaints, []);
  });
}

test('mistakes of the guest are answered as by the engine', async (t) => {
  const server = await ThreadedServer.start(t);
  const { fuse } = await server.connect(t);
  writeFileSync(server.path('file'), 'content');
  const { nodeid } = await fuse.lookup(ROOT, 'file');
  const reading = await fuse.open(nodeid);
  const writing = await fuse.open(nodeid, O_WRONLY);
  const both = async (call: (one: FuseClient) => Promise<unknown>): Promise<number> => {
    const expected = await errnoOf(by(fuse, ENGINE, call));
    for (let i = 0; i < 3; i++) assert.equal(await errnoOf(by(fuse, THREAD, call)), expected);
    return expected;
  };
  assert.equal(await both((one) => one.read(nodeid, reading.fh, 0, 10)), 0);
  assert.equal(await both((one) => one.write(nodeid, reading.fh, 0, Buffer.from('x'))), Errno.EBADF);
  assert.equal(await both((one) => one.write(nodeid, writing.fh, 0, Buffer.from('C'))), 0);
  assert.equal(await both((one) => one.read(ROOT, reading.fh, 0, 10)), Errno.EBADF);
  assert.equal(await both((one) => one.read(nodeid, reading.fh + 1000n, 0, 10)), Errno.EBADF);
  assert.equal(await both((one) => one.read(nodeid, reading.fh | (1n << 40n), 0, 10)), Errno.EBADF);
  await both((one) => one.read(nodeid, writing.fh, 0, 10));
  await both((one) => one.read(nodeid, reading.fh, 2 ** 53, 10));
  await both((one) => one.write(nodeid, writing.fh, 2 ** 53, Buffer.from('x')));
  assert.equal(await both((one) => one.getattr(nodeid, reading.fh)), 0);
  await both((one) => one.getattr(nodeid, 12_345n));
  assert.equal(await both((one) => one.lookup(nodeid, 'x')), 20);
  for (const { fh } of [reading, writing]) await fuse.release(nodeid, fh);
  assert.equal(await both((one) => one.read(nodeid, reading.fh, 0, 10)), Errno.EBADF);
  assert.equal(await both((one) => one.write(nodeid, writing.fh, 0, Buffer.from('x'))), Errno.EBADF);
  assert.equal(await both((one) => one.getattr(nodeid)), 0);
  await fuse.forget(nodeid);
  assert.equal(await both((one) => one.getattr(nodeid)), Errno.ESTALE);
  assert.equal(await both((one) => one.lookup(99_999n, 'x')), Errno.ESTALE);
  assert.equal(readFileSync(server.path('file')).toString(), 'Content');
});

test('while somebody looks on, every request is seen, and afterwards threads serve again', async (t) => {
  const server = await ThreadedServer.start(t);
  const { fuse } = await server.connect(t);
  fuse.caller = { ...fuse.caller, queue: THREAD };
  writeFileSync(server.path('file'), 'content');
  const { nodeid } = await fuse.lookup(ROOT, 'file');
  const { fh } = await fuse.open(nodeid, O_RDWR);
  const round = async (): Promise<void> => {
    for (let i = 0; i < 5; i++) {
      await fuse.lookup(ROOT, 'file');
      await fuse.getattr(nodeid);
      await fuse.read(nodeid, fh, 0, 100);
      await fuse.write(nodeid, fh, 0, Buffer.from('written'));
    }
  };
  await round();
  const before = server.counts();
  assert.ok(before.reads > 2 && before.writes > 2 && before.getattrs > 2 && before.lookups > 2);
  let seen = 0;
  server.observed.observer = { began: () => ({ ended: () => void (seen += 1) }) };
  await round();
  assert.equal(seen, 20);
  assert.deepEqual(server.counts(), before);
  server.observed.observer = undefined;
  await round();
  assert.equal(seen, 20);
  const after = server.counts();
  assert.ok(after.reads >= before.reads + 5 && after.getattrs >= before.getattrs + 5);
  assert.ok(after.writes >= before.writes + 5 && after.lookups >= before.lookups + 5);
});

test('what the host does to a name is seen by the next look-up', async (t) => {
  const server = await ThreadedServer.start(t);
  const { fuse } = await server.connect(t);
  fuse.caller = { ...fuse.caller, queue: THREAD };
  writeFileSync(server.path('file'), 'first');
  const first = await fuse.lookup(ROOT, 'file');
  const { fh } = await fuse.open(first.nodeid);
  for (let i = 0; i < 3; i++) assert.equal((await fuse.lookup(ROOT, 'file')).nodeid, first.nodeid);
  const read = async () => Buffer.from(await fuse.read(first.nodeid, fh, 0, 100)).toString();
  for (let i = 0; i < 3; i++) assert.equal(await read(), 'first');

  truncateSync(server.path('file'), 3);
  assert.equal((await fuse.lookup(ROOT, 'file')).attr.size, 3);
  assert.equal((await fuse.getattr(first.nodeid)).size, 3);
  assert.equal(await read(), 'fir');

  linkSync(server.path('file'), server.path('link'));
  for (let i = 0; i < 3; i++) {
    const link = await fuse.lookup(ROOT, 'link');
    assert.equal(link.nodeid, first.nodeid);
    assert.equal(link.attr.nlink, 2);
  }
  unlinkSync(server.path('link'));

  writeFileSync(server.path('other'), 'the second');
  renameSync(server.path('other'), server.path('file'));
  for (let i = 0; i < 3; i++) {
    const second = await fuse.lookup(ROOT, 'file');
    assert.notEqual(second.nodeid, first.nodeid);
    assert.equal(second.attr.size, 10);
    assert.equal(second.attr.ino, BigInt(statSync(server.path('file')).ino));
  }
  for (let i = 0; i < 3; i++) {
    assert.equal(await read(), 'fir');
    assert.equal((await fuse.getattr(first.nodeid, fh)).nlink, 0);
  }

  unlinkSync(server.path('file'));
  for (let i = 0; i < 3; i++) assert.equal(await errnoOf(fuse.lookup(ROOT, 'file')), Errno.ENOENT);
  // The next file may get the inode number of the removed one.
  for (let i = 0; i < 50; i++) {
    writeFileSync(server.path('file'), `number ${i}`);
    const { nodeid, attr } = await fuse.lookup(ROOT, 'file');
    assert.equal(attr.size, `number ${i}`.length);
    const opened = await fuse.open(nodeid);
    assert.equal(Buffer.from(await fuse.read(nodeid, opened.fh, 0, 100)).toString(), `number ${i}`);
    await fuse.release(nodeid, opened.fh);
    unlinkSync(server.path('file'));
    await fuse.forget(nodeid);
  }
  assert.equal(await read(), 'fir');
  const { reads, getattrs, lookups } = server.counts();
  for (const count of [reads, getattrs, lookups]) assert.ok(count > 0);
});

test('descriptors that are opened and closed all the time are never read for another file', async (t) => {
  const server = await ThreadedServer.start(t);
  const { fuse } = await server.connect(t);
  const COUNT = 200;
  const contents = Array.from({ length: COUNT }, (_, i) => Buffer.from(`file ${i}, `.repeat(700)));
  const nodes: bigint[] = [];
  for (const [i, content] of contents.entries()) {
    writeFileSync(server.path(`${i}`), content);
    nodes.push((await fuse.lookup(ROOT, `${i}`)).nodeid);
  }
  const end = performance.now() + 2000;
  let late = 0;
  const loop = async (queue: number, seed: number): Promise<void> => {
    const random = new Random(seed);
    while (performance.now() < end) {
      const index = random.below(COUNT);
      const nodeid = nodes[index]!;
      const content = contents[index]!;
      const { fh } = await by(fuse, queue, (one) => one.open(nodeid));
      for (let i = 0; i < 4; i++) {
        const offset = random.below(content.length);
        const data = await by(fuse, queue, (one) => one.read(nodeid, fh, offset, 5000));
        assert.ok(content.subarray(offset, offset + 5000).equals(data), `file ${index} from ${offset}`);
      }
      // No honest guest reads a file that it is releasing. If one does, it gets an error, or the
      // file's data.
      const [read, release] = await Promise.allSettled([
        by(fuse, THREAD, (one) => one.read(nodeid, fh, 0, content.length)),
        by(fuse, ENGINE, (one) => one.release(nodeid, fh)),
      ]);
      assert.equal(release.status, 'fulfilled');
      if (read.status === 'fulfilled') assert.ok(content.equals(read.value), `file ${index} being released`);
      else {
        assert.equal(await errnoOf(Promise.reject(read.reason)), Errno.EBADF);
        late += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: 16 }, (_, i) => loop(1 + (i % 2), i)));
  const { reads, failures } = server.counts();
  assert.ok(reads > 0);
  assert.equal(failures, 0, `of which ${late} were too late`);
  assert.deepEqual(server.log.complaints, []);
});

test('two guests are served at once: where one has the engine for a queue, the other has a thread', async (t) => {
  const server = await ThreadedServer.start(t);
  const guests = [await server.connect(t), await server.connect(t)];
  const step = async (fuse: FuseClient, guest: number, number: number): Promise<void> => {
    const name = `${guest}-${number}`;
    const data = new Random(number).bytes(3000);
    const queue = 1 + (number % 2);
    const { entry, open } = await by(fuse, queue, (one) => one.create(ROOT, name));
    await by(fuse, queue, (one) => one.write(entry.nodeid, open.fh, 0, data));
    for (let i = 0; i < 3; i++) {
      const read = await by(fuse, queue, (one) => one.read(entry.nodeid, open.fh, 0, 4000));
      assert.ok(data.equals(read));
    }
    await by(fuse, queue, (one) => one.release(entry.nodeid, open.fh));
    const { fuse: other } = guests[1 - guest]!;
    assert.equal((await by(other, queue, (one) => one.lookup(ROOT, name))).attr.size, 3000);
  };
  await Promise.all(
    guests.flatMap(({ fuse }, guest) => Array.from({ length: 100 }, (_, i) => step(fuse, guest, i))),
  );
  const [first, second] = server.sessions.map((session) => session.counters.requests.slice());
  const [ofFirst, ofSecond] = server.sessions.map((session) => server.counts(session));
  assert.ok(ofFirst!.reads > 0 && ofSecond!.reads > 0);
  assert.equal(first![Op.READ]! + ofFirst!.reads, 300);
  assert.equal(second![Op.READ]! + ofSecond!.reads, 300);
  assert.ok(first![Op.READ]! >= 150 && second![Op.READ]! >= 150, "each has a queue that is the engine's");

  // A lock of the first guest makes the second wait. Both ask by the queue of a thread.
  const [one, two] = guests;
  const lock = { start: 0n, end: 9n, type: 1, pid: 1 };
  const opened = await Promise.all(
    guests.map(async ({ fuse }) => {
      const { nodeid } = await fuse.lookup(ROOT, '0-0');
      return { nodeid, fh: (await fuse.open(nodeid, O_RDWR)).fh };
    }),
  );
  await by(one!.fuse, 2, (fuse) => fuse.setlk(opened[0]!.nodeid, opened[0]!.fh, 1n, lock));
  const waiting = by(two!.fuse, 1, (fuse) => fuse.setlk(opened[1]!.nodeid, opened[1]!.fh, 1n, lock, true));
  await by(two!.fuse, 1, (fuse) => fuse.getattr(ROOT));
  await by(one!.fuse, 2, (fuse) => fuse.setlk(opened[0]!.nodeid, opened[0]!.fh, 1n, { ...lock, type: 2 }));
  await waiting;
});

/** A daemon of the plugins room, with a queue thread. */
async function daemon(t: TestContext, backend: { type: string; sharedDir?: string }, log: MemoryLog) {
  const socket = join(temporaryFolder(t), 'socket');
  const exports = [{ tag: 'test', socket, backend, queueThreads: 1 }];
  const running = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  t.after(() => running.close());
  const frontEnd = await FrontEnd.connect(socket, { requestQueues: 2 });
  t.after(() => frontEnd.close());
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();
  return { running, fuse, frontEnd };
}

test('a backend without files of the host is served without threads, with a warning', async (t) => {
  const log = new MemoryLog();
  const { fuse } = await daemon(t, { type: 'memfs' }, log);
  const warnings = log.lines.filter(({ level }) => level === 'warn').map(({ message }) => message);
  assert.deepEqual(warnings, [
    'no queue threads: they serve files of this host, which the backend does not have',
  ]);
  fuse.caller = { ...fuse.caller, queue: THREAD };
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
  for (let i = 0; i < 3; i++)
    assert.equal(Buffer.from(await fuse.read(entry.nodeid, open.fh, 0, 100)).toString(), 'content');
});

test('a daemon that is closed while it is busy ends, and what it had confirmed is there', async (t) => {
  const log = new MemoryLog();
  const directory = temporaryFolder(t);
  const { running, fuse } = await daemon(t, { type: 'passthrough', sharedDir: directory }, log);
  const { entry, open } = await fuse.create(ROOT, 'file');
  const confirmed: number[] = [];
  const write = async (queue: number, first: number): Promise<void> => {
    for (let block = first; ; block += 32) {
      const data = Buffer.alloc(100, block % 251);
      await by(fuse, queue, (one) => one.write(entry.nodeid, open.fh, block * 100, data));
      confirmed.push(block);
      if (confirmed.length === 2000) void running.close();
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: 32 }, (_, i) => write(1 + (i % 2), i)));
  for (const one of ended) {
    assert.equal(one.status, 'rejected');
    assert.ok(one.reason instanceof FrontEndError, String(one.reason));
  }
  await running.close();
  const data = readFileSync(join(directory, 'file'));
  for (const block of confirmed)
    assert.ok(Buffer.alloc(100, block % 251).equals(data.subarray(block * 100, block * 100 + 100)));
  assert.deepEqual(log.errors, []);
});
