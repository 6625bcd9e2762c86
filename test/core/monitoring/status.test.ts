import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { UsageError, wrap, type Backend, type Health } from '../../../core/backend/index.js';
import {
  statusFromJson,
  statusText,
  topText,
  type DaemonStatus,
  type LockWait,
} from '../../../core/monitoring/index.js';
import {
  askDaemon,
  BackendRegistry,
  ControlSocket,
  createLogger,
  Daemon,
  DAEMON_ITSELF,
} from '../../../core/plugins/index.js';
import { FrontEnd } from '../../support/front-end.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { TinyBackend } from '../../support/tiny-backend.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';

const log = createLogger({ level: 'silent', format: 'json' });
const WRITE_LOCK = { start: 0n, end: 99n, type: 1, pid: 41 };

interface Served {
  readonly control: string;
  readonly look: () => Promise<DaemonStatus>;
  readonly connect: () => Promise<FuseClient>;
}

async function serve(t: TestContext, backend: Backend): Promise<Served> {
  const folder = temporaryFolder(t);
  const registry = new BackendRegistry();
  const socket = join(folder, 'socket');
  const daemon = await Daemon.start({ exports: [{ tag: 'data', socket, backend }], log, registry });
  const control = join(folder, 'control');
  const listening = ControlSocket.listen(control, daemon, registry, log);
  t.after(async () => {
    await listening.close();
    await daemon.close();
  });
  return {
    control,
    async look() {
      const lines = await askDaemon(control, { backend: DAEMON_ITSELF, command: 'status', options: {} });
      assert.equal(lines.length, 1);
      return statusFromJson(lines[0]!)!;
    },
    async connect() {
      const frontEnd = await FrontEnd.connect(socket);
      t.after(() => frontEnd.close());
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      return fuse;
    },
  };
}

function memfs(): Promise<Backend> {
  return new BackendRegistry().create({ type: 'memfs' }, { log });
}

test('a status tells what guests have done and who they are', async (t) => {
  const { look, connect } = await serve(t, await memfs());
  const empty = await look();
  assert.equal(empty.pid, process.pid);
  assert.deepEqual(empty.exports[0]!.guests, []);
  assert.deepEqual(empty.exports[0]!.requests, {});

  const fuse = await connect();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.alloc(1000));
  await assert.rejects(fuse.lookup(ROOT, 'missing'));
  const [one] = (await look()).exports;
  assert.equal(one!.tag, 'data');
  assert.equal(one!.backend, 'own');
  assert.equal(one!.isUp, true);
  assert.equal(one!.writtenBytes, 1000);
  assert.deepEqual(one!.requests, { INIT: 1, CREATE: 1, WRITE: 1, LOOKUP: 1 });
  assert.deepEqual(one!.failures, { LOOKUP: 1 });
  assert.deepEqual(one!.errors, { ENOENT: 1 });
  assert.equal(one!.guests.length, 1);
  const { id: _id, ...guest } = one!.guests[0]!;
  assert.deepEqual(guest, {
    isMounted: true,
    handles: 1,
    inFlight: 0,
    heldBack: 0,
    locks: 0,
    waitingLocks: 0,
  });
  assert.ok(one!.figures.some(({ name, value }) => name === 'used_bytes' && value >= 1000));
});

test('a lock that is waited for is told with the file and both processes', async (t) => {
  const { look, connect } = await serve(t, await memfs());
  const one = await connect();
  const other = await connect();
  const mine = await one.create(ROOT, 'file');
  const theirs = await other.lookup(ROOT, 'file');
  const { fh } = await other.open(theirs.nodeid, 2);
  await one.setlk(mine.entry.nodeid, mine.open.fh, 1n, WRITE_LOCK);
  const waiting = other.setlk(theirs.nodeid, fh, 7n, { ...WRITE_LOCK, end: 9n, pid: 42 }, true);
  await other.getattr(theirs.nodeid);

  const now = await look();
  const [data] = now.exports;
  const [holder, waiter] = data!.guests;
  assert.equal(holder!.locks, 1);
  assert.equal(waiter!.waitingLocks, 1);
  const [{ seconds, ...wait }] = data!.lockWaits as [LockWait];
  assert.ok(seconds >= 0 && seconds < 600);
  assert.deepEqual(
    [wait],
    [
      {
        ino: `${theirs.attr.ino}`,
        kind: 'posix',
        wanted: 'write',
        start: '0',
        end: '9',
        guest: waiter!.id,
        pid: 42,
        heldByGuest: holder!.id,
        heldByPid: 41,
      },
    ],
  );
  const line =
    `  guest ${waiter!.id}, process 42 waits for a write lock on inode ${theirs.attr.ino} (bytes 0 to 9); ` +
    `guest ${holder!.id}, process 41 has one`;
  assert.ok(statusText(now).includes(line), statusText(now).join('\n'));
  assert.ok(topText(now, now).includes(`data:${line}`));
  await one.flush(mine.entry.nodeid, mine.open.fh, 1n);
  await waiting;
  assert.deepEqual((await look()).exports[0]!.lockWaits, []);
});

test('locks that are waited for on several files are told each with its own', async (t) => {
  const { look, connect } = await serve(t, await memfs());
  const [one, other] = [await connect(), await connect()];
  const waiting: Promise<unknown>[] = [];
  const files: string[] = [];
  for (const name of ['a', 'b', 'c']) {
    const { entry, open } = await one.create(ROOT, name);
    files.push(`${entry.attr.ino}`);
    await one.setlk(entry.nodeid, open.fh, 1n, WRITE_LOCK);
    const { nodeid } = await other.lookup(ROOT, name);
    const { fh } = await other.open(nodeid, 2);
    waiting.push(other.setlk(nodeid, fh, 7n, { ...WRITE_LOCK, pid: 42 }, true).catch(() => undefined));
  }
  await other.getattr(ROOT);
  const told = (await look()).exports[0]!.lockWaits.map(({ ino = '' }) => ino);
  assert.deepEqual(told.toSorted(), files.toSorted());
});

test('the busiest files and processes are told, also in numbers a second', async (t) => {
  const { look, connect } = await serve(t, await memfs());
  const fuse = await connect();
  const [busy, idle] = [await fuse.create(ROOT, 'busy'), await fuse.create(ROOT, 'idle')];
  const before = await look();
  fuse.caller = { ...fuse.caller, pid: 77 };
  for (let i = 0; i < 320; i++) await fuse.getattr(busy.entry.nodeid);
  fuse.caller = { ...fuse.caller, pid: 78 };
  for (let i = 0; i < 64; i++) await fuse.getattr(idle.entry.nodeid);
  const now = await look();
  const [{ busiestFiles, busiestProcesses, guests }] = now.exports as [DaemonStatus['exports'][number]];
  assert.deepEqual(busiestFiles.slice(0, 2), [
    { ino: `${busy.entry.attr.ino}`, requests: 320 },
    { ino: `${idle.entry.attr.ino}`, requests: 64 },
  ]);
  const guest = guests[0]!.id;
  assert.deepEqual(busiestProcesses.slice(0, 2), [
    { guest, pid: 77, requests: 320 },
    { guest, pid: 78, requests: 64 },
  ]);
  assert.ok(
    statusText(now).some((line) => line.startsWith(`  busiest processes: 77 of guest ${guest} (320), 78`)),
  );
  const shown = topText({ ...before, time: now.time - 2 }, now);
  assert.ok(
    shown.some((line) =>
      line.startsWith(`data: busiest files, requests/s: inode ${busy.entry.attr.ino} (160)`),
    ),
    shown.join('\n'),
  );
});

test('a backend that is down is told', async (t) => {
  const health = (): Health => ({ ok: false, detail: 'another writer won' });
  const down = wrap(await memfs(), {}, { add: { health } });
  const { look } = await serve(t, down);
  const status = await look();
  assert.equal(status.exports[0]!.isUp, false);
  assert.ok(statusText(status).includes('data (own): DOWN'), statusText(status).join('\n'));
  assert.ok(topText(status, status).includes('data: DOWN: another writer won'));
});

test('what else is asked of the daemon is refused', async (t) => {
  const { control } = await serve(t, await memfs());
  const asked = askDaemon(control, { backend: DAEMON_ITSELF, command: 'stop', options: {} });
  await assert.rejects(asked, (error: unknown) => {
    assert.ok(error instanceof UsageError);
    return error.message === 'stop: no such command of a daemon';
  });
});

test('numbers a second are differences of two looks, the busiest first', () => {
  const at = (time: number, lookups: number, reads: number): DaemonStatus => ({
    pid: 7,
    time,
    started: 0,
    cpuSeconds: time / 2,
    residentBytes: 80 * 2 ** 20,
    heapUsedBytes: 20 * 2 ** 20,
    lostLogLines: 0,
    exports: [
      {
        tag: 'data',
        backend: 'memfs',
        isUp: true,
        detail: '',
        started: 0,
        nodes: 1,
        handles: 2,
        inFlight: 3,
        heldBack: 0,
        heldBackBefore: 0,
        locks: 0,
        waitingLocks: 0,
        lostLocks: 2,
        listingBytes: 0,
        guests: [],
        lockWaits: [],
        requests: { READ: reads, LOOKUP: lookups },
        failures: { LOOKUP: lookups / 2 },
        errors: { ENOENT: lookups / 2 },
        readBytes: reads * 4096,
        writtenBytes: 0,
        // Half within 10 µs, half within 20.
        latencies: { READ: { sumUs: reads * 12, buckets: [0, reads / 2, reads / 2] } },
        figures: [],
        longestWaitSeconds: 0,
        faults: 0,
        malformed: 0,
        busiestFiles: [],
        busiestProcesses: [],
      },
    ],
  });
  assert.ok(statusText(at(1, 0, 0)).includes('  locks lost: 2 (EIO until their files are closed)'));
  assert.deepEqual(topText(at(90_000, 100, 1000), at(90_002, 3100, 1400)), [
    'process 7, up 1 d 1 h, 80 MiB resident (heap 20 MiB), 50% CPU',
    '',
    'export  guests  requests/s       read  written  half within  99% within  errors/s  in flight',
    'data         0       1,700  800 KiB/s    0 B/s        10 µs       20 µs       750          3',
    '',
    'opcode  requests/s  average  99% within',
    'LOOKUP       1,500        -           -',
    'READ           200    12 µs       20 µs',
  ]);
  // Where there is little room, as in a terminal, the exports that do least are left out.
  const many = (time: number, requests: number): DaemonStatus => {
    const status = at(time, requests, requests);
    const exports = Array.from({ length: 40 }, (_, i) => ({ ...status.exports[0]!, tag: `data-${i}` }));
    return { ...status, exports };
  };
  const fitted = topText(many(90_000, 100), many(90_002, 3100), 24);
  assert.equal(fitted.length, 24);
  assert.ok(fitted.includes('and 24 more'), fitted.join('\n'));
  assert.equal(topText(many(90_000, 100), many(90_002, 3100)).length, 23 + 24);
  // The process that serves the export was replaced: its counts began anew.
  const after = (time: number, started: number): DaemonStatus => {
    const status = at(time, 50, 50);
    return { ...status, exports: status.exports.map((one) => ({ ...one, started })) };
  };
  const rows = [90_001, 1].map((started) => topText(at(90_000, 9000, 9000), after(90_002, started))[3]!);
  assert.match(rows[0]!, /^data +0 +50 /);
  // It did not answer at the last look.
  assert.match(rows[1]!, /^data +0 +0 /);
});

test('a socket that is no control socket is named as such, and so is a daemon that ends', async (t) => {
  const socket = join(temporaryFolder(t), 'socket');
  const request = { backend: DAEMON_ITSELF, command: 'status', options: {} };
  for (const answer of ['', 'hello\n']) {
    const server = createServer((other) => other.resume().end(answer));
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    await assert.rejects(askDaemon(socket, request), /no control socket/);
    await new Promise((resolve) => server.close(resolve));
  }
  // The socket of an export: a front-end that sends a long line is sent away.
  const registry = new BackendRegistry();
  const served = { tag: 'data', socket, backend: new TinyBackend() };
  const daemon = await Daemon.start({ exports: [served], log, registry });
  t.after(() => daemon.close());
  const error = await askDaemon(socket, request).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof Error && ['UsageError', 'ControlError'].includes(error.name), String(error));
});
