import { strict as assert } from 'node:assert';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { parse } from 'yaml';
import { program } from '../../support/program.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-program-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function start(...args: string[]): ChildProcess & { readonly result: Promise<Result> } {
  const child = spawn(process.execPath, [program, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: folder,
  });
  const result = Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]).then(
    ([stdout, stderr, [code]]) => ({ code: code as number | null, stdout, stderr }),
  );
  return Object.assign(child, { result });
}

const run = (...args: string[]): Promise<Result> => start(...args).result;

/** A mistake: one line, exit code 2, nothing else. */
async function mistake(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  assert.equal(code, 2, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, /^virtiofs-kit: [^\n]+\n$/);
  return stderr.slice('virtiofs-kit: '.length).trim();
}

/** Waits until a daemon listens. */
async function listening(
  daemon: ChildProcess & { readonly result: Promise<Result> },
  socket: string,
): Promise<void> {
  const ended = daemon.result.then(({ stderr }) => `ended: ${stderr}`);
  while (!existsSync(socket)) {
    const end = await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20))]);
    assert.equal(end, undefined);
  }
}

test('output that nobody reads to its end is no fault', async () => {
  const child = spawn(process.execPath, [program, 'mount', '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  assert.equal(await text(child.stderr), '');
});

test("help names the commands, and a backend's options where the backend is named", async () => {
  const { code, stdout } = await run('--help');
  assert.equal(code, 0);
  for (const command of ['serve', 'mount', 'guest', 'backends'])
    assert.match(stdout, new RegExp(`^  ${command}`, 'm'));
  assert.doesNotMatch((await run('serve', '--help')).stdout, /--inodes/);
  assert.match((await run('serve', '--help', '--backend', 'memfs')).stdout, /--inodes <COUNT>/);
});

test('the version is that of the package', async () => {
  assert.match((await run('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('backends are listed, and described with their options', async () => {
  const { stdout } = await run('backends');
  for (const name of ['memfs', 'passthrough', 'overlay', 's3'])
    assert.match(stdout, new RegExp(`^  ${name} `, 'm'));
  assert.match((await run('backends', 'passthrough')).stdout, /--shared-dir <DIR> .*required/);
});

test('a mistake gets one line that says what to do, and exit code 2', async () => {
  const socket = join(folder, 'x.sock');
  assert.equal(await mistake('serf'), "unknown command 'serf'; did you mean serve?");
  assert.match(await mistake('serve', '--socket-path', socket), /^--backend is required: /);
  assert.match(await mistake('serve', '--backend', 'memfs'), /^--socket-path is required/);
  assert.match(await mistake('serve', '--backend', 'menfs'), /did you mean memfs\?$/);
  assert.match(
    await mistake('serve', '--backend', 'memfs', '--sise', '1g'),
    /^unknown option --sise; did you mean --size\?$/,
  );
  assert.match(
    await mistake('serve', '--backend', 'memfs', '--socket-path', socket, '--size', '1y'),
    /^--size 1y: /,
  );
  assert.match(
    await mistake('serve', '--backend', 'memfs', '--socket-path', socket, '--request-queues', '0'),
    /^--request-queues 0: must be at least 1$/,
  );
  assert.match(
    await mistake('serve', '--shared-dir', join(folder, 'none'), '--socket-path', socket),
    /no such directory/,
  );
  assert.match(
    await mistake('serve', '--backend', 'passthrough', '--socket-path', socket),
    /^--shared-dir is required$/,
  );
  assert.match(await mistake('serve', '--config', 'none.yaml'), /^--config none\.yaml: no such file$/);
  assert.match(await mistake('mount', join(folder, 'none'), '--backend', 'memfs'), /none: no such directory/);
  assert.match(
    await mistake('guest', '--backend', 'memfs', '--memory', 'much', '--', 'true'),
    /^--memory much: must be/,
  );
  assert.match(
    await mistake('guest', '--backend', 'memfs', '--qemu', '/none', '--', 'true'),
    /apt-get install/,
  );
  assert.match(
    await mistake('guest', '--socket-path', '/none', '--', 'true'),
    /^--socket-path \/none: no such socket/,
  );
});

test("a socket path that can't be used is refused with the reason", async () => {
  const serve = (path: string): Promise<string> =>
    mistake('serve', '--log-level', 'error', '--backend', 'memfs', '--socket-path', path);
  assert.match(await serve(join(folder, 'none', 'x.sock')), /no such directory: .*none; create it first$/);
  assert.match(await serve(join(folder, 'x'.repeat(120))), /too long for a socket/);
  writeFileSync(join(folder, 'file'), '');
  assert.match(await serve(join(folder, 'file')), /not a socket; remove it or choose another path$/);
  const busy = join(folder, 'busy.sock');
  const server = createServer().listen(busy);
  await once(server, 'listening');
  assert.match(await serve(busy), /another process listens on it; stop that one or choose another path$/);
  server.close();
});

test('a daemon serves until a signal, removes its socket and ends with 0', async () => {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGALRM', 'SIGUSR2', 'SIGXCPU'] as const) {
    const socket = join(folder, `${signal}.sock`);
    const daemon = start('serve', '--backend', 'memfs', '--socket-path', socket, '--log-format', 'json');
    await listening(daemon, socket);
    daemon.kill(signal);
    const { code, stderr } = await daemon.result;
    assert.equal(code, 0, stderr);
    assert.ok(!existsSync(socket));
    const messages = stderr
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { msg: string }).msg);
    assert.ok(messages.includes('serving') && messages.includes('stopping'), stderr);
  }
});

test('a daemon that nohup started outlives its terminal', async () => {
  const socket = join(folder, 'nohup.sock');
  const words = [process.execPath, program, 'serve', '--backend', 'memfs', '--socket-path', socket];
  // bash tells a program's path in `_`, as it does for a person who types nohup.
  const shell = spawn('bash', ['-c', 'nohup "$@" & echo $!; wait', 'bash', ...words], { cwd: folder });
  const [line] = (await once(shell.stdout, 'data')) as [Buffer];
  const pid = Number(String(line));
  while (!existsSync(socket)) await delay(20);
  process.kill(pid, 'SIGHUP');
  await delay(300);
  assert.ok(existsSync(socket));
  process.kill(pid, 'SIGTERM');
  await once(shell, 'exit');
  assert.ok(!existsSync(socket));
});

test('an exception that nobody caught is shown, and the daemon still ends in order', async () => {
  const socket = join(folder, 'fault.sock');
  writeFileSync(
    join(folder, 'faulty.mjs'),
    `const root = { mode: 0o040755 };
     export default {
       name: 'faulty',
       description: 'throws where nobody catches',
       options: (await import(${JSON.stringify(import.meta.resolve('zod'))})).z.strictObject({}),
       create: () => ({
         mount: () => (setTimeout(() => { throw new Error('out of the blue'); }, 500), root),
         unmount: () => console.log('unmounted in order'),
         lookup: () => undefined,
         getattr: () => root,
       }),
     };`,
  );
  const daemon = start('serve', '--confine', 'none', '--backend', './faulty.mjs', '--socket-path', socket);
  const { code, stdout, stderr } = await daemon.result;
  assert.equal(code, 1, stderr);
  assert.match(stderr, /^virtiofs-kit: this is a bug: Error: out of the blue\n {4}at /m);
  assert.equal(stdout, 'unmounted in order\n');
  assert.ok(!existsSync(socket));
});

test('a socket file that a killed daemon left behind is taken over', async () => {
  const socket = join(folder, 'stale.sock');
  const killed = start('serve', '--backend', 'memfs', '--socket-path', socket);
  await listening(killed, socket);
  killed.kill('SIGKILL');
  await killed.result;
  assert.ok(existsSync(socket));
  const next = start('serve', '--backend', 'memfs', '--socket-path', socket, '--log-format', 'text');
  await once(next.stderr!, 'data');
  next.kill('SIGTERM');
  assert.equal((await next.result).code, 0);
});

test('flags printed as a configuration file serve the same', async () => {
  const flags = [
    '--backend',
    'memfs',
    '--size',
    '64m',
    '--tag',
    'kit',
    '--socket-path',
    'c.sock',
    '--entry-timeout',
    '5',
    '--confine',
    'landlock,seccomp',
    '--modcaps',
    '+sys_admin',
  ];
  const { code, stdout } = await run('serve', ...flags, '--read-only', '--print-config');
  assert.equal(code, 0);
  const printed = parse(stdout) as { confine: unknown; exports: Record<string, unknown>[] };
  const { confine, exports } = printed;
  const [one] = exports;
  assert.deepEqual(confine, {
    layers: ['landlock', 'seccomp'],
    missingLayers: 'error',
    seccompAction: 'errno',
    modcaps: '+sys_admin',
  });
  assert.deepEqual(one?.['backend'], { type: 'memfs', size: '64m' });
  assert.deepEqual([one['tag'], one['readOnly'], one['cache']], ['kit', true, { entryTimeout: 5 }]);
  writeFileSync(join(folder, 'printed.yaml'), stdout);
  const again = await run('serve', '--config', 'printed.yaml', '--print-config');
  const socket = join(folder, 'c.sock');
  assert.deepEqual(parse(again.stdout), { confine, backends: {}, exports: [{ ...one, socket }] });
  const other = await run('serve', '--config', 'printed.yaml', '--print-config', '--confine', 'none');
  assert.deepEqual((parse(other.stdout) as typeof printed).confine, { ...Object(confine), layers: [] });
});

test("a file's exports are all served, and those that name one backend share it", async () => {
  const sockets = ['1.sock', '2.sock', '3.sock'].map((name) => join(folder, name));
  const config = {
    backends: { a: { type: 'memfs' } },
    exports: [
      { tag: 'one', socket: '1.sock', backend: 'a' },
      { tag: 'two', socket: '2.sock', backend: 'a' },
      { tag: 'three', socket: '3.sock', backend: { type: 'memfs' } },
    ],
  };
  writeFileSync(join(folder, 'several.yaml'), JSON.stringify(config));
  const daemon = start('serve', '--config', 'several.yaml');
  for (const socket of sockets) await listening(daemon, socket);
  daemon.kill('SIGTERM');
  assert.equal((await daemon.result).code, 0);
  const wrong = { ...config, exports: [{ tag: 'one', socket: '1.sock', backend: 'b' }] };
  writeFileSync(join(folder, 'several.yaml'), JSON.stringify(wrong));
  assert.match(
    await mistake('serve', '--config', 'several.yaml'),
    /^backend b: no such name under backends; did you mean a\?$/,
  );
  const { backends, exports } = config;
  const odd = { backends, exports: exports.map((one, i) => ({ ...one, readOnly: i === 1 })) };
  writeFileSync(join(folder, 'several.yaml'), JSON.stringify(odd));
  assert.match(
    await mistake('serve', '--config', 'several.yaml', '--log-level', 'error'),
    /^exports\[1\]\.readOnly: must be that of the other export of backend a$/,
  );
  assert.match(
    await mistake('serve', '--config', 'several.yaml', '--tag', 'x'),
    /^--tag: not together with --config/,
  );
  const kept = ['serve', '--socket-path', 's', '--backend', 'memfs', '--keep', '--metrics', '0.0.0.0:1'];
  assert.match(await mistake(...kept), /^--metrics 0.0.0.0:1: only addresses of the loopback interface/);
  // A keeper would start engines that refuse it for ever.
  const rated = {
    socket: 's',
    backend: { type: 'memfs' },
    queueThreads: 1,
    rate: { operationsPerSecond: 1 },
  };
  writeFileSync(join(folder, 'rated.yaml'), JSON.stringify({ keep: true, exports: [rated] }));
  assert.match(
    await mistake('serve', '--config', 'rated.yaml'),
    /^exports\[0\]\.rate: not with queueThreads/,
  );
});

test("backends' commands are in the help, with their flags and arguments from their schemas", async () => {
  const { stdout } = await run('--help');
  for (const group of ['memfs', 'overlay', 's3']) assert.match(stdout, new RegExp(`^  ${group} `, 'm'));
  const { stdout: group } = await run('s3', '--help');
  for (const word of ['status', 'flush', 'export', 'recover'])
    assert.match(group, new RegExp(`^  ${word} `, 'm'));
  const { stdout: command } = await run('overlay', 'export', '--help');
  assert.match(command, /Usage: virtiofs-kit overlay export \[options\] <FILE>/);
  assert.match(command, /^ {2}--upper <LAYER> .*; required$/m);
  assert.match(command, /virtiofs-kit overlay export layer.tar.gz --lower/);
  assert.match((await run('help', 'overlay')).stdout, /^ {2}diff /m);
});

test("mistakes in backends' commands are told in one line", async () => {
  assert.equal(await mistake('overlay', 'diff', '--lower', '/usr'), '--upper is required');
  assert.match(await mistake('overlay', 'diff', '--lowre', '/usr'), /unknown option --lowre/);
  assert.match(await mistake('overlay', 'export', '--lower', '/usr', '--upper', '/usr'), /'FILE'/);
  assert.match(await mistake('overlay', 'merge'), /unknown command/);
  assert.match(await mistake('memfs', 'list'), /--control/);
  assert.match(await mistake('memfs', 'list', '--control', join(folder, 'none')), /no daemon listens there/);
  assert.match(await mistake('memfs', 'snapshot', '--as', 'x', '--control', 'none'), /--volume is required/);
  assert.match(await mistake('s3', 'status'), /^give --cache-dir, or --bucket/);
  assert.match(await mistake('s3', 'status', '--cache-dir', folder), /no cache folder of an s3 mount/);
  assert.match(await mistake('s3', 'flush', '--cache-dir', folder), /not mounted; "virtiofs-kit s3 recover"/);
  assert.match(await mistake('s3', 'export', '--cache-dir', folder), /missing required argument 'DIR'/);
  assert.match(await mistake('s3', 'recover'), /^--bucket is required/);
});

test('an overlay export goes to standard output, and a diff is lines', async () => {
  const [lower, upper] = ['lower', 'upper'].map((name) => mkdtempSync(join(folder, name))) as [
    string,
    string,
  ];
  writeFileSync(join(upper, 'new'), 'data');
  const layers = ['--lower', lower, '--upper', upper, '--xattrs', 'user'];
  const diff = await run('overlay', 'diff', ...layers);
  assert.deepEqual([diff.code, diff.stdout, diff.stderr], [0, 'A /new\n', '']);
  const exported = await run('overlay', 'export', '-', ...layers);
  assert.equal(exported.code, 0, exported.stderr);
  assert.ok(exported.stdout.includes('\0new\0'));
});

test("a daemon's volumes answer at its control socket", async () => {
  const [socket, control] = [join(folder, 'volume.sock'), join(folder, 'volume.ctl')];
  const backend = ['--backend', 'memfs', '--name', 'base', '--socket-path', socket];
  const daemon = start('serve', ...backend, '--control', control, '--log-level', 'error');
  try {
    await listening(daemon, control);
    const snapshot = await run(
      'memfs',
      'snapshot',
      '--volume',
      'base',
      '--as',
      'clean',
      '--control',
      control,
    );
    assert.deepEqual([snapshot.code, snapshot.stdout], [0, 'clean: snapshot of base\n']);
    assert.match(await mistake('memfs', 'discard', '--name', 'x', '--control', control), /no such fork/);
  } finally {
    daemon.kill();
  }
  assert.equal((await daemon.result).code, 0);
});

test('status and top show a daemon that serves, and say what is wrong with their words', async () => {
  const socket = join(folder, 'shown.sock');
  const control = join(folder, 'shown.control');
  const daemon = start(
    'serve',
    '--socket-path',
    socket,
    '--tag',
    'shown',
    '--backend',
    'memfs',
    '--control',
    control,
  );
  try {
    await listening(daemon, control);
    const { code, stdout } = await run('status', control);
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^process ${daemon.pid}, up `));
    assert.match(stdout, /^shown +memfs +0 /m);
    const told = JSON.parse((await run('status', control, '--json')).stdout) as {
      exports: { tag: string }[];
    };
    assert.equal(told.exports[0]!.tag, 'shown');
    const looks = await run('top', control, '--interval', '0.1', '--count', '2');
    assert.equal(looks.code, 0);
    assert.equal(looks.stdout.match(/^process /gm)?.length, 2);
    assert.match(await mistake('top', control, '--interval', '0'), /^--interval 0: must be 0.1 to 3600$/);
    assert.match(await mistake('top', control, '--count', 'x'), /^--count x: must be 1 to /);
  } finally {
    daemon.kill();
    await daemon.result;
  }
  assert.match(await mistake('status', control), /no daemon listens there; start it with serve --control/);
  assert.match(await mistake('status'), /missing required argument/);
  assert.match(await mistake('status', control, '--jsn'), /did you mean --json\?$/);
});
