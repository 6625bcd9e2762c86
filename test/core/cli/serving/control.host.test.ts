import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { statusFromJson, type DaemonStatus } from '../../../../core/monitoring/index.js';
import { startDaemon } from '../../../support/daemons.js';
import { ROOT } from '../../../support/fuse-client.js';
import { connectKept, keeping, killEngine, upgrade } from '../../../support/keepers.js';
import { program } from '../../../support/program.js';

const run = promisify(execFile);

const MEMFS = ['--backend', 'memfs', '--name', 'base'];

test('engines of a keeper answer at its control socket in turn, killed or replaced', async (t) => {
  let control = '';
  const running = startDaemon(t, {
    ...keeping(MEMFS),
    command(directory, socket) {
      control = `${directory}.control`;
      const metrics = ['--metrics', `unix:${directory}.metrics`];
      return keeping(MEMFS, '--control', control, ...metrics).command(directory, socket);
    },
  });
  const look = async (): Promise<DaemonStatus> => {
    const { stdout } = await run(process.execPath, [program, 'status', control, '--json']);
    return statusFromJson(stdout)!;
  };
  const { fuse } = await connectKept(t, running);
  await fuse.init();
  await fuse.mkdir(ROOT, 'directory');
  assert.equal(statSync(control).mode & 0o777, 0o600);
  const first = await look();
  assert.equal(first.exports[0]!.requests['MKDIR'], 1);
  await killEngine(running);
  await fuse.mkdir(ROOT, 'other');
  const second = await look();
  assert.notEqual(second.pid, first.pid);
  assert.equal(second.exports[0]!.guests.length, 1);
  await upgrade(running);
  await fuse.mkdir(ROOT, 'third');
  assert.notEqual((await look()).pid, second.pid);
  const fork = [
    'memfs',
    'fork',
    '--base',
    'base',
    '--control',
    control,
    '--as',
    'x',
    '--socket-path',
    `${control}.x`,
  ];
  await assert.rejects(run(process.execPath, [program, ...fork]), /the sockets that it was started with/);
  await running.stop();
  while (existsSync(control)) await sleep(10);
});
