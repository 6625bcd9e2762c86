import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { limited } from '../../core/plugins/rate-limited-log.js';
import { UnixConnection } from '../../core/system/index.js';
import { MemoryLog } from '../support/engine.js';
import { flood, MOST_MS } from './log-flood.js';

const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };
test('a pipe that nobody reads holds up nothing, and what was lost is told', async () => {
  const logging = await flood('pipe');
  assert.ok(logging.most < MOST_MS, `${logging.most} ms`);
  let text = '';
  logging.stderr!.setEncoding('utf8').on('data', (part: string) => (text += part));
  while (!text.includes('lines of the log were lost')) await sleep(10);
  while (!text.includes('still here')) await sleep(10);
  const lines = text.split('\n').slice(0, -1);
  const told = lines.map((line) => JSON.parse(line) as { line?: number; count?: number; msg: string });
  const kept = told.filter(({ line }) => line !== undefined).length;
  const lost = told.reduce((sum, { count = 0 }) => sum + count, 0);
  assert.ok(lost > 0 && kept + lost >= logging.lines, `${kept} + ${lost} of ${logging.lines}`);
  await logging.end();
});

test('a pipe whose reader is gone ends nothing', async () => {
  const logging = await flood('pipe');
  logging.stderr!.destroy();
  await sleep(300);
  await logging.end();
});

test('a device that is full ends nothing', async () => {
  const fd = openSync('/dev/full', 'w');
  const logging = await flood(fd);
  closeSync(fd);
  assert.ok(logging.most < MOST_MS, `${logging.most} ms`);
  await logging.end();
});

test('a socket that nobody reads, as that of a journal, holds up nothing', async () => {
  const [ours, theirs] = UnixConnection.pair();
  const logging = await flood(theirs.fd);
  assert.ok(logging.most < MOST_MS, `${logging.most} ms`);
  await logging.end();
  ours.close();
  theirs.close();
});

test('a full disk ends nothing, and lines are written again when it has room', asRoot, async (t) => {
  const directory = tmpfs(t, '256k');
  const fd = openSync(join(directory, 'log'), 'a');
  const logging = await flood(fd);
  closeSync(fd);
  assert.ok(logging.most < MOST_MS, `${logging.most} ms`);
  spawnSync('mount', ['-o', 'remount,size=64m', directory]);
  const log = (): string => readFileSync(join(directory, 'log'), 'utf8');
  while (!/lines of the log were lost/.test(log())) await sleep(20);
  while (!/still here/.test(log())) await sleep(20);
  await logging.end();
});

test('what a file has room for is all there when the process ends', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'vfk-log-'));
  const path = join(directory, 'log');
  const fd = openSync(path, 'a');
  const run = spawnSync(
    process.execPath,
    [
      '-e',
      `import(${JSON.stringify(fileURLToPath(new URL('../../core/plugins/logger.js', import.meta.url)))}).then(({ createLogger }) => {
      const log = createLogger({ level: 'info', format: 'json' });
      for (let i = 0; i < 1000; i++) log.info({ i }, 'a line');
      process.exit(0);
    })`,
    ],
    { stdio: ['ignore', 'ignore', fd] },
  );
  closeSync(fd);
  assert.equal(run.status, 0);
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as { i: number }).i),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  rmSync(directory, { recursive: true });
});

test('one text is logged so often by one guest, and how often it was left out is said', async () => {
  const lines = new MemoryLog();
  const [one, other] = [limited(lines), limited(lines)];
  for (let i = 0; i < 100_000; i++) one.info({ i }, 'mounted');
  assert.equal(lines.lines.length, 10);
  other.info({}, 'mounted');
  one.warn({}, 'something else');
  assert.equal(lines.lines.length, 12);
  await sleep(1100);
  one.info({}, 'mounted');
  assert.deepEqual(lines.lines.at(-1)!.fields, { leftOut: 99_990 });
  for (let i = 0; i < 1000; i++) one.error({}, `a text of its own ${i}`);
  assert.ok(lines.lines.length < 300);
});

function tmpfs(t: TestContext, size: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'vfk-log-'));
  const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', directory]);
  assert.equal(status, 0, String(stderr));
  t.after(() => {
    spawnSync('umount', ['-l', directory]);
    rmSync(directory, { recursive: true });
  });
  return directory;
}
