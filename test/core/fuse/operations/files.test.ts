import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { FsError, OpenFlags, type GuestBuffer } from '../../../../core/backend/index.js';
import { engine, type Engine, type Guest } from '../../../support/engine.js';
import { rejectsWith, ROOT } from '../../../support/fuse-client.js';
import { TinyBackend, type TinyFile, type TinyNode } from '../../../support/tiny-backend.js';

const EIO = 5;

/** Writes when it is told to. */
class Late extends TinyBackend {
  #waiting: (() => void)[] = [];
  failing = false;
  reads = 0;

  override write(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
    const written = new Promise<void>((resolve) => this.#waiting.push(resolve)).then(() => {
      if (this.failing) throw FsError.of('EIO');
      const end = (file.flags & OpenFlags.APPEND) === 0 ? offset : node.data.length;
      return super.write(node, file, buffer, end);
    });
    // The base class writes at once.
    return written as unknown as number;
  }

  override read(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
    this.reads += 1;
    return super.read(node, file, buffer, offset);
  }

  /** Carries out what waits. */
  proceed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

interface Opened extends Guest, Engine {
  readonly backend: Late;
  readonly id: bigint;
  readonly fh: bigint;
}

/** A file of 12,288 bytes, open. */
async function opened(flags: number = OpenFlags.READ_WRITE): Promise<Opened> {
  const backend = new Late();
  const started = await engine(backend);
  const guest = started.guest();
  const { client } = guest;
  await client.init();
  const { entry } = await client.create(ROOT, 'file');
  await client.setattr(entry.nodeid, { size: 12_288 });
  const { fh } = await client.open(entry.nodeid, flags);
  return { ...started, ...guest, backend, id: entry.nodeid, fh };
}

test('what is read after a write has begun has its bytes, and no other read waits', async () => {
  const { client, backend, id, fh } = await opened();
  const writing = client.write(id, fh, 4090, Buffer.from('across a page'));
  const touching = [client.read(id, fh, 0, 4096), client.read(id, fh, 4096, 4096)];
  assert.equal((await client.read(id, fh, 8192, 4096)).length, 4096);
  assert.equal((await client.read(id, fh, 0, 4090)).length, 4090);
  assert.equal(backend.reads, 2);
  backend.proceed();
  const [first, second] = await Promise.all(touching);
  assert.equal(Buffer.from(first!.subarray(4090)).toString(), 'across');
  assert.equal(Buffer.from(second!.subarray(0, 7)).toString(), ' a page');
  assert.equal(await writing, 13);
});

test('what is read after an append has begun has its bytes, wherever they go', async () => {
  const { client, backend, id, fh } = await opened(OpenFlags.READ_WRITE | OpenFlags.APPEND);
  const writing = client.write(id, fh, 0, Buffer.from('end'));
  const reading = client.read(id, fh, 12_288, 4096);
  await setImmediate();
  backend.proceed();
  assert.equal(Buffer.from(await reading).toString(), 'end');
  assert.equal(await writing, 3);
});

test('a read goes on after a write that fails, and others of the file do not wait for it any more', async () => {
  const { client, backend, id, fh } = await opened();
  backend.failing = true;
  const writing = client.write(id, fh, 0, Buffer.from('lost'));
  const reading = client.read(id, fh, 0, 4);
  backend.proceed();
  await rejectsWith(writing, EIO);
  assert.deepEqual([...(await reading)], [0, 0, 0, 0]);
  assert.equal((await client.read(id, fh, 0, 4)).length, 4);
});

test('a guest that starts anew while a read waits for a write gets nothing of it', async () => {
  const { client, backend, session, id, fh } = await opened();
  const writing = client.write(id, fh, 0, Buffer.from('late')).catch(() => undefined);
  const reading = client.read(id, fh, 0, 4).catch(() => undefined);
  await setImmediate();
  const reset = session.reset();
  backend.proceed();
  await Promise.all([reset, writing, reading]);
  assert.equal(backend.reads, 0);
  await client.init();
  const again = await client.open((await client.lookup(ROOT, 'file')).nodeid);
  assert.ok(again.fh !== fh);
});

/** A backend that fails to keep what was written, when a descriptor is closed and afterwards. */
class Draft extends TinyBackend {
  failure: unknown = new Error('no valid JSON');
  flush(): void {
    throw this.failure;
  }
  override release(): void {
    throw this.failure;
  }
}

test('a failure that flush has told of is not told again by release', async () => {
  const draft = new Draft();
  const { guest, log } = await engine(draft);
  const { client } = guest();
  await client.init();
  const { entry, open } = await client.create(ROOT, 'file');
  await rejectsWith(client.flush(entry.nodeid, open.fh), 5);
  await client.release(entry.nodeid, open.fh);
  assert.deepEqual(log.errors, ['FLUSH failed']);

  draft.failure = FsError.of('EINVAL');
  const second = await client.open(entry.nodeid, 2);
  const third = await client.open(entry.nodeid, 2);
  await rejectsWith(client.flush(entry.nodeid, second.fh), 22);
  await client.release(entry.nodeid, second.fh);
  assert.deepEqual(log.errors, ['FLUSH failed']);
  // Of this one nobody has heard.
  await client.release(entry.nodeid, third.fh);
  assert.deepEqual(log.errors, ['FLUSH failed', 'releasing a file failed']);
});
