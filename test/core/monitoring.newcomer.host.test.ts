import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { faultyMount } from '../support/faulty-mounts.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { program } from '../support/program.js';
import { fuseTransport, temporaryFolder } from '../support/vhost-user.js';

/*
 * What somebody sees who knows nothing of a daemon but its control socket: the commands themselves,
 * beside guests in trouble.
 */

const run = promisify(execFile);

interface Looked {
  readonly status: string;
  readonly top: string;
  readonly doctor: string;
}

interface Served {
  readonly connect: () => Promise<FuseClient>;
  /** What the three commands show while guests work. */
  readonly look: () => Promise<Looked>;
}

async function serve(t: TestContext, backend: object): Promise<Served> {
  const folder = temporaryFolder(t);
  const [file, control, socket] = ['config.yaml', 'control', 'socket'].map((name) => join(folder, name));
  writeFileSync(file!, JSON.stringify({ exports: [{ tag: 'data', socket, backend }] }));
  const words = ['serve', '--config', file!, '--control', control!, '--log-level', 'error'];
  const daemon = spawn(process.execPath, [program, ...words], { stdio: 'inherit' });
  t.after(() => daemon.kill('SIGKILL'));
  while (!existsSync(control!)) await sleep(20);
  const shown = async (...of: string[]): Promise<string> => {
    try {
      return (await run(process.execPath, [program, ...of])).stdout;
    } catch (error) {
      const { stdout, stderr } = error as { readonly stdout: string; readonly stderr: string };
      // The doctor's exit code is 1 where something is wrong.
      assert.equal(stderr, '', of.join(' '));
      return stdout;
    }
  };
  return {
    async connect() {
      const frontEnd = await FrontEnd.connect(socket!);
      t.after(() => frontEnd.close());
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      return fuse;
    },
    async look() {
      const [status, top, doctor] = await Promise.all([
        shown('status', control!),
        shown('top', control!, '--interval', '1', '--count', '1'),
        shown('doctor', control!),
      ]);
      if (process.env['SHOW_VIEWS'] === '1') process.stderr.write(`${status}\n${top}\n${doctor}\n`);
      return { status, top, doctor };
    },
  };
}

/** Has a guest work at something until the test has looked. */
async function beside<T>(work: () => Promise<unknown>, look: () => Promise<T>): Promise<T> {
  const over = new AbortController();
  const again = async (): Promise<void> => {
    while (!over.signal.aborted) await work();
  };
  const working = Promise.all(Array.from({ length: 8 }, again));
  try {
    return await look();
  } finally {
    over.abort();
    await working;
  }
}

test('a slow disk is named by status, top and doctor', async (t) => {
  const disk = await faultyMount(t);
  writeFileSync(join(disk.directory, 'file'), 'content');
  const { connect, look } = await serve(t, { type: 'passthrough', sharedDir: disk.directory });
  const guest = await connect();
  const { nodeid } = await guest.lookup(ROOT, 'file');
  const { fh } = await guest.open(nodeid);
  await disk.order({ methods: ['read'], delayMs: 30 });
  const read = (): Promise<unknown> => guest.read(nodeid, fh, 0, 4096);
  // One request in sixteen is timed, and ten of those tell something.
  for (let i = 0; i < 21; i++) await Promise.all(Array.from({ length: 8 }, read));
  const { status, top, doctor } = await beside(read, look);
  await disk.order({ methods: [] });
  assert.match(status, /slow: half of all READ take up to \d+ ms/);
  assert.match(top, /data: half of all READ take up to \d+ ms/);
  assert.match(doctor, /^warning +export data: half of all READ take up to \d+ ms/m);
  assert.match(doctor, /The disk or the network behind it is slow: look at iostat/);
});

test('a lock that does not come is named by status, top and doctor, with who has it', async (t) => {
  const { connect, look } = await serve(t, { type: 'memfs' });
  const [holder, waiter] = [await connect(), await connect()];
  const held = await holder.create(ROOT, 'file');
  const lock = { start: 0n, end: 99n, type: 1, pid: 41 };
  await holder.setlk(held.entry.nodeid, held.open.fh, 1n, lock);
  const { nodeid } = await waiter.lookup(ROOT, 'file');
  const { fh } = await waiter.open(nodeid, 2);
  const waiting = waiter.setlk(nodeid, fh, 7n, { ...lock, pid: 42 }, true);
  await waiter.getattr(nodeid);
  const { status, top, doctor } = await look();
  const words = /guest \d+, process 42 waits for a write lock on inode \d+ .*; guest \d+, process 41 has one/;
  for (const shown of [status, top, doctor]) assert.match(shown, words);
  await holder.setlk(held.entry.nodeid, held.open.fh, 1n, { ...lock, type: 2 });
  await waiting;
});

test('a quota that is used up is named by status, top and doctor', async (t) => {
  const { connect, look } = await serve(t, { type: 'quota', bytes: '1m', of: { type: 'memfs' } });
  const guest = await connect();
  const { entry, open } = await guest.create(ROOT, 'file');
  await guest.write(entry.nodeid, open.fh, 0, new Uint8Array(2 ** 20));
  const write = (): Promise<unknown> =>
    guest.write(entry.nodeid, open.fh, 2 ** 20, new Uint8Array(4096)).catch(() => sleep(5));
  await write();
  const { status, top, doctor } = await beside(write, look);
  assert.match(status, /errors: ENOSPC [\d,]+/);
  assert.match(status, /space: 0 B of 1 MiB free/);
  assert.match(top, /data: 0 B of 1 MiB free/);
  assert.match(doctor, /^problem +export data: guests were told ENOSPC [\d,]+ times, and still are/m);
  assert.match(doctor, /The file system is full, or a limit of the export/);
});
