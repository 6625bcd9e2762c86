import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { statusFromJson } from '../../../../core/monitoring/index.js';
import { program } from '../../../support/program.js';
import { temporaryFolder } from '../../../support/vhost-user.js';

const run = promisify(execFile);

test('a host mount has metrics, a control socket and an access log', async (t) => {
  const folder = temporaryFolder(t);
  const [directory, control, metrics, log] = ['mount', 'control', 'metrics', 'log'].map((name) =>
    join(folder, name),
  ) as [string, string, string, string];
  mkdirSync(directory);
  const words = ['mount', directory, '--backend', 'memfs', '--log-level', 'warn', '--control', control];
  const more = ['--metrics', `unix:${metrics}`, '--access-log', log];
  const mount = spawn(process.execPath, [program, ...words, ...more], { stdio: 'inherit' });
  t.after(() => mount.kill('SIGTERM'));
  const ended = new Promise((resolve) => mount.once('exit', resolve));
  while (!existsSync(metrics)) await sleep(20);
  await run('mkdir', [join(directory, 'made')]);

  const { stdout } = await run(process.execPath, [program, 'status', control, '--json']);
  const [one, ...others] = statusFromJson(stdout)!.exports;
  assert.deepEqual(others, []);
  assert.equal(one!.tag, directory);
  assert.equal(one!.requests['MKDIR'], 1);
  assert.equal(one!.guests.length, 1);
  const scrape = await new Promise<string>((resolve, reject) => {
    get({ socketPath: metrics, path: '/metrics', agent: false }, (response) => {
      resolve(text(response));
    }).once('error', reject);
  });
  assert.ok(scrape.includes(`virtiofs_kit_requests_total{export="${directory}",opcode="MKDIR"} 1\n`));
  const fork = [
    'memfs',
    'fork',
    '--base',
    'x',
    '--control',
    control,
    '--as',
    'y',
    '--socket-path',
    `${control}.y`,
  ];
  await assert.rejects(run(process.execPath, [program, ...fork]));

  mount.kill('SIGTERM');
  assert.equal(await ended, 0);
  assert.ok(!existsSync(control) && !existsSync(metrics));
  assert.match(readFileSync(log, 'utf8'), / uid=0 gid=0 pid=\d+ MKDIR \/made mode=0\d+ = ok /);
});
