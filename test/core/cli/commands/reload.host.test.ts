import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { FrontEnd } from '../../../support/front-end.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../../support/vhost-user.js';

const program = fileURLToPath(new URL('../../../../core/cli/main.js', import.meta.url));
const run = promisify(execFile);

const configOf = (...tags: string[]): string =>
  `exports:\n${tags.map((tag) => `  - { tag: ${tag}, socket: ${tag}, backend: { type: memfs } }\n`).join('')}`;

test('a confined daemon takes its configuration up anew, and its log level, while it serves', async (t) => {
  const folder = temporaryFolder(t);
  const [file, control] = [join(folder, 'config.yaml'), join(folder, 'control')];
  writeFileSync(file, configOf('first'));
  const words = ['serve', '--config', file, '--control', control, '--log-format', 'json'];
  const daemon = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => daemon.kill('SIGKILL'));
  const log: string[] = [];
  createInterface({ input: daemon.stderr }).on('line', (line) => log.push(line));
  while (!existsSync(control)) await sleep(20);
  const frontEnd = await FrontEnd.connect(join(folder, 'first'));
  t.after(() => frontEnd.close());
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();

  writeFileSync(file, configOf('first', 'second'));
  const { stdout } = await run(process.execPath, [program, 'reload', control, '--config', file]);
  assert.equal(stdout, `${join(folder, 'second')}: served\n`);
  await fuse.mkdir(ROOT, 'still served');
  const other = await FrontEnd.connect(join(folder, 'second'));
  await new FuseClient(fuseTransport(other)).init();
  await other.close();

  assert.ok(log.some((line) => line.includes('a front-end connected')));
  await run(process.execPath, [program, 'reload', control, '--log-level', 'error']);
  const lines = log.length;
  await (await FrontEnd.connect(join(folder, 'second'))).close();
  await fuse.mkdir(ROOT, 'and again');
  assert.equal(log.length, lines);

  const wrong = await run(process.execPath, [program, 'reload', control, '--log-level', 'loud']).catch(
    (error: { code: number; stderr: string }) => error,
  );
  assert.ok('code' in wrong && wrong.code === 2);
  assert.match(wrong.stderr, /logLevel loud: must be debug, info, warn, error, silent/);
});
