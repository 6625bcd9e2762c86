import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ours, startDaemon } from '../../../support/daemons.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { connectKept } from '../../../support/keepers.js';
import { program } from '../../../support/program.js';
import { temporaryFolder, until } from '../../../support/vhost-user.js';

const run = promisify(execFile);

function cli(...words: string[]): Promise<{ stdout: string; stderr: string }> {
  return run(process.execPath, [program, ...words]);
}

interface Running {
  readonly fuse: FuseClient;
  readonly control: string;
  readonly stop: () => Promise<unknown>;
}

/** A confined daemon. @param more further words; FOLDER stands for the shared directory. */
async function serving(t: TestContext, ...more: string[]): Promise<Running> {
  let control = '';
  const running = startDaemon(t, {
    ...ours,
    command(directory, socket) {
      control = `${directory}.control`;
      const words = more.map((word) => word.replace('FOLDER', directory));
      return [...ours.command(directory, socket), '--control', control, ...words];
    },
  });
  const { fuse } = await connectKept(t, running);
  await fuse.init();
  while (!existsSync(control)) await sleep(10);
  return { fuse, control, stop: () => running.stop() };
}

test('a confined daemon has an access log, through its start', async (t) => {
  const { fuse, control, stop } = await serving(
    t,
    '--access-log',
    'FOLDER.log',
    '--access-log-opcode',
    'MKDIR',
  );
  await fuse.mkdir(ROOT, 'directory');
  const log = control.replace(/control$/, 'log');
  await until(() => readFileSync(log, 'utf8') !== '', 'the line, while the daemon serves');
  await stop();
  const [line, end] = readFileSync(log, 'utf8').split('\n');
  assert.match(line!, / test guest=\d+ uid=0 gid=0 pid=1 MKDIR \/directory mode=0\d+ = ok [\d.]+us$/);
  assert.equal(end, '');
});

test('requests are shown while they are served, from a file, and are served once more', async (t) => {
  const { fuse, control } = await serving(t);
  const live = spawn(process.execPath, [program, 'trace', control, '--opcode', 'MKDIR', '--count', '1']);
  t.after(() => live.kill());
  const file = control.replace(/control$/, 'trace');
  const recording = spawn(process.execPath, [program, 'trace', 'record', control, file, '--data']);
  t.after(() => recording.kill());
  const shown = (async () => {
    for await (const line of createInterface({ input: live.stdout })) return line;
    return '';
  })();
  const ended = new Promise((resolve) => recording.once('exit', resolve));
  // A capture that has begun has a header, and the names of exports.
  while (!existsSync(file) || readFileSync(file).length === 0) await sleep(20);
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
  let made = 0;
  const first = await Promise.race([
    shown,
    (async () => {
      for (;;) {
        await fuse.mkdir(ROOT, `directory${made++}`);
        await sleep(50);
      }
    })(),
  ]);
  assert.match(first, / MKDIR \/directory\d+ mode=/);
  await sleep(300);
  recording.kill('SIGINT');
  assert.equal(await ended, 0);

  const { stdout } = await cli('trace', 'show', file, '--opcode', 'WRITE');
  assert.match(stdout, /^\S+ test guest=\d+ uid=0 gid=0 pid=1 WRITE \/file offset=0 size=7 = 7 [\d.]+us\n$/);
  const replayed = await cli('trace', 'replay', file, '--backend', 'memfs');
  assert.match(replayed.stdout, /\n\d+ as they were, 0 different, 0 left out /);
  const refused = await cli('trace', 'replay', file, '--backend', 'memfs', '--read-only').catch(
    (error: { stdout: string; code: number }) => error,
  );
  assert.ok('code' in refused && refused.code === 1);
  assert.match(refused.stdout, /differs: .* CREATE \/file .*; it was: ok; it is: EROFS\n/);
});

test('what nobody reads to its end is shown no further, without a word', async (t) => {
  const { fuse, control } = await serving(t);
  const file = control.replace(/control$/, 'trace');
  // A capture that fills a pipe.
  const recorded = cli('trace', 'record', control, file, '--seconds', '2');
  await until(() => existsSync(file) && readFileSync(file).length > 0, 'a capture that has begun');
  const over = new AbortController();
  const working = (async () => {
    while (!over.signal.aborted) await Promise.all(Array.from({ length: 50 }, () => fuse.getattr(ROOT)));
  })();
  await recorded;
  for (const words of [
    ['trace', 'show', file],
    ['trace', control],
    ['top', control, '--interval', '0.1'],
  ]) {
    const shown = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
    t.after(() => shown.kill());
    const [errors] = await Promise.all([
      text(shown.stderr),
      once(shown.stdout, 'data').then(() => shown.stdout.destroy()),
    ]);
    assert.equal(errors, '', words.join(' '));
    if (shown.exitCode === null) await once(shown, 'exit');
  }
  over.abort();
  await working;
});

test('a recording that does not begin leaves the file as it was', async (t) => {
  const folder = temporaryFolder(t);
  const file = join(folder, 'capture');
  writeFileSync(file, 'older');
  await assert.rejects(cli('trace', 'record', join(folder, 'none'), file), /no daemon listens there/);
  assert.equal(readFileSync(file, 'utf8'), 'older');
});

test('mistakes are told in one line', async (t) => {
  const { control } = await serving(t);
  const plain = `${control}.plain`;
  writeFileSync(plain, 'no capture, but long enough');
  for (const [words, message] of [
    [['trace', control, '--opcode', 'REED'], /^virtiofs-kit: --opcode.* REED: must be /],
    [['trace', `${control}.none`], /no daemon listens there/],
    [['trace', 'show', plain], /what came is no capture/],
    [['serve', '--socket-path', plain, '--backend', 'memfs', '--access-log', '/'], /--access-log \/: /],
    [
      ['serve', '--socket-path', plain, '--backend', 'memfs', '--access-log-errors'],
      /--access-log is required/,
    ],
  ] as const) {
    const { code, stderr } = await cli(...words).then(
      () => ({ code: 0, stderr: '' }),
      (error: { code: number; stderr: string }) => error,
    );
    assert.equal(code, 2, words.join(' '));
    assert.match(stderr, message);
    assert.equal(stderr.split('\n').length, 2);
  }
});
