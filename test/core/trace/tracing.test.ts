import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Errno, FsError, wrap, type Backend } from '../../../core/backend/index.js';
import { Session } from '../../../core/fuse/index.js';
import { AccessLog, openAccessLog, textForm } from '../../../core/trace/access-log.js';
import {
  CaptureReader,
  filterOf,
  Replay,
  requestJson,
  requestLine,
  Tracing,
  type TracedRequest,
} from '../../../core/trace/index.js';
import type { TraceFilter } from '../../../core/trace/filter.js';
import { Paths } from '../../../core/trace/paths.js';
import { listedNodes } from '../../../core/trace/reader.js';
import { RecordBuffer } from '../../../core/trace/record-buffer.js';
import { BackendRegistry, createLogger } from '../../../core/plugins/index.js';
import { engine } from '../../support/engine.js';
import { FuseClient, InitFlag, Op, ROOT, rejectsWith, usualInitFlags } from '../../support/fuse-client.js';
import { Loopback } from '../../support/loopback.js';
import { temporaryFolder, until } from '../../support/vhost-user.js';

const log = createLogger({ level: 'silent', format: 'json' });

function memfs(): Promise<Backend> {
  return new BackendRegistry().create({ type: 'memfs' }, { log });
}

interface Traced {
  readonly fuse: FuseClient;
  readonly buffer: RecordBuffer;
  readonly tracing: Tracing;
  /** What was captured so far, whole. */
  readonly capture: () => Buffer;
}

async function traced(backend: Backend, { data = false, limit = 2 ** 24 } = {}): Promise<Traced> {
  const tracing = new Tracing();
  const observed = tracing.add('da ta');
  const { export: shared } = await engine(backend);
  const fuse = new FuseClient(new Loopback(new Session(shared, { observed })));
  const buffer = new RecordBuffer(limit);
  tracing.open({ buffer, data });
  const pieces: Uint8Array[] = [];
  return {
    fuse,
    buffer,
    tracing,
    capture() {
      for (let piece = buffer.take(); piece !== undefined; piece = buffer.take()) pieces.push(piece);
      return Buffer.concat(pieces);
    },
  };
}

function requestsIn(capture: Uint8Array): TracedRequest[] {
  return [...new CaptureReader().read(capture)].flatMap((event) => ('lost' in event ? [] : [event]));
}

/** A line without what differs from run to run. */
function plain(line: string): string {
  return line
    .replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z /, '')
    .replace(/ [\d.]+us$/, '')
    .replace(/guest=\d+/, 'guest=G');
}

const CALLER = 'da\\x20ta guest=G uid=7 gid=8 pid=9';

test('each request is told with its caller, its path, its arguments and its result', async () => {
  const { fuse, capture } = await traced(await memfs());
  fuse.caller = { uid: 7, gid: 8, pid: 9, queue: 1 };
  await fuse.init();
  const { nodeid: directory } = await fuse.mkdir(ROOT, 'a b');
  const { entry, open } = await fuse.create(directory, 'file\n\x1b[2J\u202e');
  await fuse.write(entry.nodeid, open.fh, 5, Buffer.from('content'));
  await fuse.read(entry.nodeid, open.fh, 0, 4096);
  await fuse.rename(directory, 'file\n\x1b[2J\u202e', ROOT, 'new');
  await fuse.getattr(entry.nodeid);
  await fuse.symlink(ROOT, 'link', '/etc/pass wd');
  await rejectsWith(fuse.lookup(ROOT, Buffer.from([0x66, 0xff])), Errno.ENOENT);
  await fuse.send(Op.FORGET, entry.nodeid, new Uint8Array(8).fill(1, 0, 1));
  const lines = requestsIn(capture()).map(requestLine).map(plain);
  const odd = '/a\\x20b/file\\x0a\\x1b[2J\\xe2\\x80\\xae';
  assert.equal(lines.length, 10);
  assert.match(lines[0]!, /INIT #0 minor=38 flags=0x\w+ = ok$/);
  assert.match(lines[1]!, /MKDIR \/a\\x20b mode=0\d+ = ok$/);
  assert.equal(lines[1]!.slice(0, CALLER.length), CALLER);
  assert.ok(lines[2]!.startsWith(`${CALLER} CREATE ${odd} flags=0x`), lines[2]);
  assert.equal(lines[3], `${CALLER} WRITE ${odd} offset=5 size=7 = 7`);
  assert.equal(lines[4], `${CALLER} READ ${odd} offset=0 size=4096 = 12`);
  assert.equal(lines[5], `${CALLER} RENAME ${odd} -> /new = ok`);
  assert.equal(lines[6], `${CALLER} GETATTR /new = ok`);
  assert.equal(lines[7], `${CALLER} SYMLINK /link -> /etc/pass\\x20wd = ok`);
  assert.equal(lines[8], `${CALLER} LOOKUP /f\\xff = ENOENT`);
  assert.equal(lines[9], `${CALLER} FORGET /new lookups=1 = ok`);
});

test('requests have the time of day, also after the host was suspended or its clock was set back', async (t) => {
  const { fuse, capture } = await traced(await memfs());
  await fuse.init();
  const now = Date.now.bind(Date);
  for (const ms of [0, 3_600_000, -60_000]) {
    t.mock.method(Date, 'now', () => now() + ms);
    const before = Date.now();
    await fuse.getattr(ROOT);
    const after = Date.now();
    const times = requestsIn(capture()).map(({ time }) => time / 1000);
    assert.ok(times.at(-1)! > before - 5 && times.at(-1)! < after + 5, `${times} from ${before} to ${after}`);
  }
});

test('names are known from listings with attributes, too', async () => {
  const { fuse, capture, tracing, buffer } = await traced(await memfs());
  await fuse.init();
  const { entry } = await fuse.create(ROOT, 'known');
  capture();
  tracing.close({ buffer, data: false });
  const late = new RecordBuffer(2 ** 20);
  tracing.open({ buffer: late, data: false });
  await fuse.getattr(entry.nodeid);
  const { fh } = await fuse.opendir(ROOT);
  await fuse.readdirplus(ROOT, fh, 0n, 4096);
  await fuse.getattr(entry.nodeid);
  const pieces: Uint8Array[] = [];
  for (let piece = late.take(); piece !== undefined; piece = late.take()) pieces.push(piece);
  const paths = requestsIn(Buffer.concat(pieces)).map(({ path }) => path);
  assert.deepEqual(paths, [`#${entry.nodeid.toString(16)}`, '/', '/', '/known']);
});

test('what is filtered must fit in every point', async () => {
  const { fuse, capture } = await traced(await memfs());
  await fuse.init();
  const { nodeid } = await fuse.mkdir(ROOT, 'sub');
  await fuse.mkdir(nodeid, 'below');
  await fuse.mkdir(ROOT, 'subordinate');
  await rejectsWith(fuse.lookup(nodeid, 'missing'), Errno.ENOENT);
  fuse.caller = { ...fuse.caller, uid: 1000 };
  await fuse.getattr(nodeid);
  const all = requestsIn(capture());
  const of = (filter: Parameters<typeof filterOf>[0]): string[] =>
    all.filter(filterOf(filter)).map(({ path }) => path);
  assert.deepEqual(of({ path: '/sub/' }), ['/sub', '/sub/below', '/sub/missing', '/sub']);
  assert.deepEqual(of({ opcodes: ['MKDIR'] }), ['/sub', '/sub/below', '/subordinate']);
  assert.deepEqual(of({ errors: true }), ['/sub/missing']);
  assert.deepEqual(of({ uid: 1000 }), ['/sub']);
  assert.deepEqual(of({ path: '/sub', opcodes: ['MKDIR'], uid: 1000 }), []);
  assert.deepEqual(of({ slowerThan: 1e6 }), []);
});

test('a request that is answered later is told when it is, with what it asked for', async () => {
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const backend = wrap(await memfs(), {
    getattr: async (next, ...given) => {
      await held;
      return next(...given);
    },
  });
  const { fuse, capture } = await traced(backend);
  await fuse.init();
  const slow = fuse.getattr(ROOT);
  await fuse.mkdir(ROOT, 'meanwhile').catch(() => undefined);
  assert.ok(!requestsIn(capture()).some(({ opcode }) => opcode === Op.GETATTR));
  release();
  await slow;
  const told = requestsIn(capture()).find(({ opcode }) => opcode === Op.GETATTR);
  assert.equal(told?.path, '/');
});

test('what there is no room for is left out and counted', async () => {
  const { fuse, buffer } = await traced(await memfs(), { limit: 4096 });
  await fuse.init();
  for (let i = 0; i < 100; i++) await fuse.getattr(ROOT);
  const reader = new CaptureReader();
  const first = [...reader.read(buffer.take()!)];
  assert.ok(first.length > 5 && first.length < 100);
  await fuse.getattr(ROOT);
  const [lost, next] = [...reader.read(buffer.take()!)];
  assert.deepEqual(lost, { lost: 101 - first.length });
  assert.ok(next !== undefined && 'opcode' in next && next.opcode === Op.GETATTR);
  assert.equal(buffer.take(), undefined);
});

test('paths are cut off at 4,096 characters, so that lines of odd ones take little time and room', async (t) => {
  const file = join(temporaryFolder(t), 'access.log');
  const { fuse, written } = await loggedTo(file, { opcodes: ['GETATTR'] });
  await fuse.init();
  let deep = ROOT;
  for (let i = 0; i < 60; i++) deep = (await fuse.mkdir(deep, '\x01'.repeat(255))).nodeid;
  // They lie in one piece of what was recorded.
  for (let i = 0; i < 80; i++) await fuse.getattr(deep);
  const lines = (): string[] => readFileSync(file, 'utf8').split('\n').slice(0, -1);
  await until(() => lines().length === 80, 'all lines are written');
  written.close();
  for (const line of lines()) assert.match(line, /^\S+ data .* GETATTR #[0-9a-f]+(\/(\\x01){255}){16} = ok/);
});

test('names that were told last are remembered, as many as there is room for', () => {
  const paths = new Paths(() => 2 ** 16);
  for (let i = 0; i < 1000; i++) paths.learn(1n, `${'n'.repeat(200)}${i}`, BigInt(i + 2));
  assert.equal(paths.of(1001n), `/${'n'.repeat(200)}999`);
  assert.equal(paths.of(1001n - 50n), `/${'n'.repeat(200)}949`);
  assert.equal(paths.of(1001n - 100n), '#385');
});

test('a listing that a guest has changed gives no name that cannot be one', () => {
  const listing = new Uint8Array(4096);
  const view = new DataView(listing.buffer);
  view.setBigUint64(0, 7n, true);
  view.setUint32(128 + 16, 3, true);
  assert.deepEqual([...listedNodes(listing)].slice(0, 1), [[7n, '\0\0\0']]);
  view.setUint32(128 + 16, 256, true);
  assert.deepEqual([...listedNodes(listing)], []);
});

test('a capture is read in pieces of any size, and what is none is refused', async () => {
  const { fuse, capture } = await traced(await memfs());
  await fuse.init();
  for (const name of ['a', 'b', 'c']) await fuse.mkdir(ROOT, name);
  const whole = capture();
  const reader = new CaptureReader();
  const events = [...whole].flatMap((byte) => [...reader.read(Uint8Array.of(byte))]);
  assert.equal(events.length, 4);
  assert.ok(!reader.isCutOff);
  for (let at = 0; at < whole.length; at++) {
    const broken = Buffer.from(whole);
    for (const value of [0, 0xff]) {
      broken[at] = value;
      try {
        for (const event of new CaptureReader().read(broken)) if (!('lost' in event)) requestLine(event);
      } catch (error) {
        assert.ok(error instanceof RangeError, String(error));
      }
    }
  }
});

test('JSON has the same', async () => {
  const { fuse, capture } = await traced(await memfs());
  await fuse.init();
  await fuse.mkdir(ROOT, 'line\nfeed');
  const [, one] = requestsIn(capture());
  const told = JSON.parse(requestJson(one!)) as Record<string, unknown>;
  assert.equal(told['path'], '/line\nfeed');
  assert.equal(told['result'], 'ok');
  assert.equal(told['opcode'], 'MKDIR');
});

test('the access log has a line for each request that the filter lets pass', async (t) => {
  const file = join(temporaryFolder(t), 'access.log');
  writeFileSync(file, 'before\n');
  const { fuse, written } = await loggedTo(file, { opcodes: ['MKDIR'] });
  await fuse.init();
  for (let i = 0; i < 1000; i++) await fuse.mkdir(ROOT, `directory ${i}`);
  written.close();
  await fuse.mkdir(ROOT, 'later');
  const lines = readFileSync(file, 'utf8').split('\n');
  assert.equal(lines.length, 1002);
  assert.equal(lines[0], 'before');
  for (let i = 0; i < 1000; i++) assert.match(lines[i + 1]!, new RegExp(`MKDIR /directory\\\\x20${i} mode=`));
});

test('a full disk has lines left out, and requests go on', async () => {
  const { fuse, written } = await loggedTo('/dev/full', {});
  await fuse.init();
  for (let i = 0; i < 100; i++) await fuse.mkdir(ROOT, `${i}`);
  written.close();
});

/** A guest of an export `data` whose requests are written to an access log. */
async function loggedTo(
  file: string,
  filter: TraceFilter,
): Promise<{ fuse: FuseClient; written: AccessLog }> {
  const tracing = new Tracing();
  const observed = tracing.add('data');
  const { export: shared } = await engine(await memfs());
  const fuse = new FuseClient(new Loopback(new Session(shared, { observed })));
  return { fuse, written: new AccessLog(openAccessLog(file), textForm(filter), tracing) };
}

/** Serves some files, and captures how. */
async function captured(data: boolean): Promise<TracedRequest[]> {
  const { fuse, capture } = await traced(await memfs(), { data });
  await fuse.init(usualInitFlags | InitFlag.SETXATTR_EXT);
  const { nodeid } = await fuse.mkdir(ROOT, 'directory');
  const { entry, open } = await fuse.create(nodeid, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
  await fuse.read(entry.nodeid, open.fh, 0, 100);
  await fuse.rename(nodeid, 'file', ROOT, 'moved');
  await rejectsWith(fuse.lookup(nodeid, 'file'), Errno.ENOENT);
  const listed = await fuse.opendir(ROOT);
  await fuse.readdirplus(ROOT, listed.fh, 0n, 4096);
  await fuse.getattr(entry.nodeid);
  return requestsIn(capture());
}

async function replayed(requests: readonly TracedRequest[], backend: Backend): Promise<string[]> {
  const { export: shared } = await engine(backend);
  const replay = new Replay(shared);
  const outcomes: string[] = [];
  for (const request of requests) {
    const outcome = await replay.serve(request);
    outcomes.push(outcome.kind === 'different' ? `${outcome.was}, ${outcome.is}` : outcome.kind);
  }
  await replay.close();
  return outcomes;
}

test('a capture is served once more by another backend, with the nodes and files of that one', async () => {
  const requests = await captured(true);
  const backend = await memfs();
  assert.deepEqual(
    await replayed(requests, backend),
    requests.map(() => 'same'),
  );
  const { export: shared } = await engine(backend);
  const fuse = new FuseClient(new Loopback(new Session(shared)));
  await fuse.init();
  const { nodeid } = await fuse.lookup(ROOT, 'moved');
  const { fh } = await fuse.open(nodeid, 0);
  assert.equal(Buffer.from(await fuse.read(nodeid, fh, 0, 100)).toString(), 'content');
});

test('a replay tells what another backend does otherwise, and goes on', async () => {
  const requests = await captured(false);
  const full = wrap(await memfs(), {
    rename: () => {
      throw FsError.of('EXDEV');
    },
    write: () => 3,
  });
  const outcomes = await replayed(requests, full);
  assert.deepEqual(outcomes, [
    'same',
    'same',
    'same',
    '7 bytes, 3 bytes',
    '7 bytes, 0 bytes',
    'ok, EXDEV',
    'missing, found',
    'same',
    'same',
    'type 0100000, 7 bytes, type 0100000, 0 bytes',
  ]);
});

test('a capture that began late is replayed as far as its nodes are known', async () => {
  const requests = (await captured(true)).slice(2);
  const outcomes = await replayed(requests, await memfs());
  assert.equal(outcomes.filter((one) => one === 'skipped').length, 6);
});
