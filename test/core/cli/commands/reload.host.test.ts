import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { basename, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { FrontEnd } from '../../../support/front-end.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { guestAtWork } from '../../../support/guest-at-work.js';
import { program } from '../../../support/program.js';
import { fuseTransport, temporaryFolder } from '../../../support/vhost-user.js';

const run = promisify(execFile);

const configOf = (...tags: string[]): string =>
  `exports:\n${tags.map((tag) => `  - { tag: ${basename(tag)}, socket: ${tag}, backend: { type: memfs } }\n`).join('')}`;

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

test('a confined daemon that may connect to others serves further sockets, with and without commands', async (t) => {
  const [folder, file] = [temporaryFolder(t), join(temporaryFolder(t), 'config.yaml')];
  const places = { share: temporaryFolder(t), cache: temporaryFolder(t) };
  const configure = (...names: string[]): void => {
    const connects = {
      type: fileURLToPath(new URL('../../../hostile/outsider.js', import.meta.url)),
      as: {
        type: 's3',
        bucket: 'b',
        endpoint: 'http://127.0.0.1:9',
        pathStyle: true,
        cacheDir: places.cache,
      },
      network: true,
      outside: [],
      own: [],
    };
    const exports = ['first', ...names].map((name) => ({
      tag: name,
      socket: join(folder, name),
      backend: name === 'first' ? connects : { type: 'memfs' },
    }));
    writeFileSync(file, JSON.stringify({ exports, log: { level: 'debug' } }));
  };
  configure();
  const { daemon, logged } = await begin(t, folder, file, ['--control', join(folder, 'control')]);
  await logged('"sealed"');
  const serves = async (name: string): Promise<void> => {
    const frontEnd = await FrontEnd.connect(join(folder, name));
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    await fuse.statfs(ROOT);
    await frontEnd.close();
  };
  for (const names of [['second', 'third'], ['third'], [], ['second']]) {
    configure(...names);
    daemon.kill('SIGHUP');
    await logged('"reloaded"');
    for (const name of ['first', ...names]) await serves(name);
    const shown = readdirSync(folder).filter((name) => !name.startsWith('.'));
    assert.deepEqual(shown.sort(), ['control', 'first', ...names].sort());
  }
  await run(process.execPath, [program, 'reload', join(folder, 'control'), '--log-level', 'info']);
  const { stdout } = await run(process.execPath, [program, 'doctor', '--config', file, '--json']).catch(
    (error: { stdout: string }) => error,
  );
  assert.doesNotMatch(stdout, /nobody listens/);
  daemon.kill('SIGTERM');
  assert.deepEqual(await once(daemon, 'exit'), [0, null]);
  assert.deepEqual(readdirSync(folder), []);
});

interface Served {
  readonly folder: string;
  readonly file: string;
  readonly daemon: ChildProcess;
  /** Waits for a line of the log. */
  readonly logged: (text: string) => Promise<string>;
}

/** Starts a daemon with a configuration file. */
async function serve(t: TestContext, ...more: string[]): Promise<Served> {
  // Not where the sockets are: a confined daemon sees that folder as it is.
  const [folder, file] = [temporaryFolder(t), join(temporaryFolder(t), 'config.yaml')];
  writeFileSync(file, configOf(join(folder, 'first')));
  return begin(t, folder, file, more);
}

async function begin(t: TestContext, folder: string, file: string, more: readonly string[]): Promise<Served> {
  const words = ['serve', '--config', file, '--log-format', 'json', ...more];
  const daemon = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => daemon.kill('SIGKILL'));
  const log: string[] = [];
  createInterface({ input: daemon.stderr }).on('line', (line) => log.push(line));
  while (!existsSync(join(folder, 'first'))) await sleep(20);
  const logged = async (text: string): Promise<string> => {
    for (;;) {
      const found = log.findIndex((line) => line.includes(text));
      if (found >= 0) return log.splice(0, found + 1).at(-1)!;
      await sleep(10);
    }
  };
  return { folder, file, daemon, logged };
}

for (const confine of ['', 'none'])
  test(`SIGHUP has a daemon take its file up anew, and a guest at work loses no request${confine === '' ? ', confined' : ''}`, async (t) => {
    const { folder, file, daemon, logged } = await serve(
      t,
      ...(confine === '' ? [] : ['--confine', confine]),
    );
    const frontEnd = await FrontEnd.connect(join(folder, 'first'));
    t.after(() => frontEnd.close());
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    const end = guestAtWork(fuse);
    writeFileSync(file, configOf(join(folder, 'first'), join(folder, 'second')));
    daemon.kill('SIGHUP');
    assert.match(await logged('"reloaded"'), /second: served/);
    assert.ok(existsSync(join(folder, 'second')));
    await fuse.mkdir(ROOT, 'still served');

    writeFileSync(file, 'exports: 3\n');
    daemon.kill('SIGHUP');
    assert.match(await logged('nothing was reloaded'), /config\.yaml: exports 3: must be/);
    await fuse.mkdir(ROOT, 'served after a mistake');

    // As editors do it that keep the former file. A confined daemon sees that one.
    renameSync(file, `${file}~`);
    writeFileSync(file, configOf(join(folder, 'first')));
    daemon.kill('SIGHUP');
    if (confine === 'none') assert.match(await logged('"reloaded"'), /second: no longer served/);
    else assert.match(await logged('nothing was reloaded'), /is another file now, .* sends it along/);
    await fuse.mkdir(ROOT, 'served to the end');
    await end();
    daemon.kill('SIGTERM');
    assert.deepEqual(await once(daemon, 'exit'), [0, null]);
  });

test('a daemon ends in order when its terminal is closed, also with a configuration file', async (t) => {
  const folder = temporaryFolder(t);
  const file = join(folder, 'config.yaml');
  writeFileSync(file, configOf('first'));
  const words = [process.execPath, program, 'serve', '--confine', 'none', '--config', file];
  const terminal = spawn('script', ['-qec', words.join(' '), join(folder, 'shown')], { stdio: 'ignore' });
  t.after(() => terminal.kill('SIGKILL'));
  while (!existsSync(join(folder, 'first'))) await sleep(20);
  terminal.kill('SIGKILL');
  while (existsSync(join(folder, 'first'))) await sleep(20);
});
