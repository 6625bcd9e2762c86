import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { passthrough } from '../../../../backends/passthrough/backend.js';
import { options } from '../../../../backends/passthrough/options.js';
import { acceleratorOf, type Completions } from '../../../../core/backend/accelerator.js';
import { type Backend, readOnly } from '../../../../core/backend/index.js';
import { engine, type Guest } from '../../../support/engine.js';
import { ROOT } from '../../../support/fuse-client.js';
import { host } from '../host-calls.js';
import { Lines } from '../harness.js';

const FILE_BYTES = 5 * 2 ** 20 + 12_345;
const content = Buffer.from(Buffer.alloc(FILE_BYTES).map((_, i) => (i * 7 + (i >> 12)) & 0xff));
const READ_ONLY = 0;

interface Share extends Guest {
  readonly path: string;
  readonly completions: Completions;
}

/** A guest of a share with threads for reads, in which there is one file. */
async function share(t: TestContext, where: string, view: (backend: Backend) => Backend = (same) => same) {
  const sharedDir = fs.mkdtempSync(join(where, 'vfk-threads-'));
  const path = join(sharedDir, 'file');
  fs.writeFileSync(path, content);
  const parsed = options.parse({ sharedDir, ioThreads: 2 });
  const backend = view(passthrough(parsed, new Lines()) as Backend);
  const running = await engine(backend);
  const guest = running.guest();
  t.after(async () => {
    await guest.session.close();
    await running.export.close();
    fs.rmSync(sharedDir, { recursive: true });
    assert.deepEqual(running.log.errors, []);
  });
  await guest.client.init();
  const completions = acceleratorOf(backend)?.completions;
  assert.ok(completions !== undefined);
  return { ...guest, path, completions };
}

/** Reads several offsets together until threads have made some of the reads. */
async function readTogether(guest: Share, places: readonly { at: number; size: number }[]): Promise<void> {
  const { client, loopback, completions } = guest;
  const { nodeid } = await client.lookup(ROOT, 'file');
  const deadline = Date.now() + 10_000;
  for (let isSeen = false; !isSeen;) {
    assert.ok(Date.now() < deadline, 'a thread had something to do');
    const { fh } = await client.open(nodeid, READ_ONLY);
    loopback.announce(places.length + 1);
    const reading = Promise.all(places.map(({ at, size }) => client.read(nodeid, fh, at, size)));
    isSeen = completions.pending > 0;
    // While they are under way: the file is closed when the last one has ended.
    const released = client.release(nodeid, fh);
    loopback.submit();
    const answers = await reading;
    await released;
    for (const [i, { at, size }] of places.entries()) {
      assert.ok(content.subarray(at, at + size).equals(answers[i]!), `${size} bytes at ${at}`);
    }
  }
}

const places = [
  { at: 0, size: 2 ** 20 },
  { at: 2 ** 20, size: 128 * 1024 },
  { at: 100, size: 100_000 },
  { at: 3 * 2 ** 20 + 1, size: 2 ** 20 },
  { at: 5000, size: 10 },
  { at: 8192, size: 32 * 1024 },
  // The file ends there, and before.
  { at: FILE_BYTES - 50_000, size: 128 * 1024 },
  { at: FILE_BYTES, size: 64 * 1024 },
  { at: FILE_BYTES + 4096, size: 64 * 1024 },
  { at: 4096, size: 128 * 1024 },
];

for (const where of [tmpdir(), '/var/tmp', '/dev/shm']) {
  test(`reads on threads are of their places, and end where the file does (${where})`, async (t) => {
    const guest = await share(t, where);
    await readTogether(guest, places);
    await readTogether(guest, places);
  });

  test(`reads on threads go on where pages are not in memory (${where})`, async (t) => {
    const guest = await share(t, where);
    for (let round = 0; round < 3; round++) {
      const fd = fs.openSync(guest.path, 'r+');
      fs.fsyncSync(fd);
      host.dropPages(fd);
      fs.readSync(fd, Buffer.alloc(4096), 0, 4096, 65_536 * (round + 1));
      fs.closeSync(fd);
      await readTogether(guest, places);
    }
  });
}

test('a share that is read-only reads on threads', async (t) => {
  await readTogether(await share(t, tmpdir(), readOnly), places);
});

test('what a thread reads may be written meanwhile', async (t) => {
  const guest = await share(t, tmpdir());
  const { client, loopback } = guest;
  const { nodeid } = await client.lookup(ROOT, 'file');
  const { fh } = await client.open(nodeid, 2);
  const block = 64 * 1024;
  for (let round = 0; round < 50; round++) {
    const fill = Buffer.alloc(block, round);
    const results = await loopback.together<unknown>([
      () => client.read(nodeid, fh, 0, 8 * block),
      () => client.write(nodeid, fh, 3 * block, fill),
      () => client.read(nodeid, fh, 0, 8 * block),
      () => client.write(nodeid, fh, 5 * block, fill),
    ]);
    for (const result of results) assert.equal(result.status, 'fulfilled');
    const after = Buffer.from(await client.read(nodeid, fh, 3 * block, 3 * block));
    assert.ok(fill.equals(after.subarray(0, block)) && fill.equals(after.subarray(2 * block)));
  }
  await client.release(nodeid, fh);
});

test('a descriptor is not closed while a look at it waits to be made', async (t) => {
  const guest = await share(t, tmpdir());
  const { client, loopback, completions, path } = guest;
  const { nodeid } = await client.lookup(ROOT, 'file');
  // Threads take a moment to start.
  const deadline = Date.now() + 30_000;
  for (let round = 0, seen = 0; seen < 10; round++) {
    assert.ok(Date.now() < deadline, 'threads read some');
    const directory = `directory${round}`;
    fs.mkdirSync(join(path, '..', directory));
    fs.writeFileSync(join(path, '..', directory, 'x'), '');
    const found = await client.lookup(ROOT, directory);
    const { fh } = await client.open(nodeid, READ_ONLY);
    loopback.announce(12);
    const reading = client.read(nodeid, fh, 0, 2 ** 20);
    if (completions.pending > 0) seen += 1;
    const others: Promise<unknown>[] = [reading, client.release(nodeid, fh)];
    const looking = client.getattr(nodeid);
    for (const end = Date.now() + 200; completions.pending > 0 && !completions.ready && Date.now() < end;);
    for (let i = 0; i < 4; i++) others.push(client.getattr(nodeid));
    // Takes the descriptor's number, if it is free.
    others.push(client.lookup(found.nodeid, 'x'));
    loopback.submit();
    assert.equal(Number((await looking).size), FILE_BYTES);
    await Promise.all(others);
  }
});
