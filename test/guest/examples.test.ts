import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';
import { Guest } from '../../core/guest/index.js';
import { serve } from '../../core/plugins/index.js';
import { TestBucket } from '../backends/s3/support.js';
import { exampleTrials } from '../support/examples.js';
import { keepingLog } from '../support/host-mount.js';
import { program } from '../support/program.js';
import { fastest } from '../support/uml.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-examples-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function example(name: string): string {
  return fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url));
}

/** Runs the command line program as a person does. */
async function run(...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'exit'),
  ]);
  return { code, stdout, stderr };
}

test('a JSON document mounts in a guest as a tree that can be read and not changed', async () => {
  const file = join(folder, 'document.json');
  writeFileSync(file, JSON.stringify({ name: 'kit', 'a/b': [1, 'two', null], '': { deep: true } }));
  const script = `cd /mnt; find . | sort; cat name 'a∕b'/1 _/deep
    for change in 'echo x > name' 'mkdir d' 'rm name' 'mv name other' 'ln name l' 'chmod 777 name' 'touch new'; do
      sh -c "$change" 2>/dev/null && echo "done: $change"
    done; exit 5`;
  assert.deepEqual(
    await run('guest', '--backend', example('json-document'), '--file', file, '--', 'sh', '-c', script),
    {
      code: 5,
      stdout: [
        '.',
        './_',
        './_/deep',
        './a∕b',
        './a∕b/0',
        './a∕b/1',
        './a∕b/2',
        './name',
        'kit',
        'two',
        'true',
        '',
      ].join('\n'),
      stderr: '',
    },
  );
});

test("the README's backend greets a guest, and keeps to the contract", async () => {
  const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
  const source = /^\/\/ hello\.mjs\n[^]*?(?=^```)/m.exec(readFileSync(join(root, 'README.md'), 'utf8'))?.[0];
  assert.ok(source !== undefined);
  // Below the package's folder, so that it finds the package by name.
  const cache = join(root, '.cache');
  mkdirSync(cache, { recursive: true });
  const home = mkdtempSync(join(cache, 'readme-'));
  try {
    writeFileSync(join(home, 'hello.mjs'), source);
    const backend = ['--backend', join(home, 'hello.mjs'), '--who', 'you'];
    const { stdout, stderr, code } = await run('guest', ...backend, '--', 'cat', '/mnt/greeting');
    assert.deepEqual([stdout, stderr, code], ['hello, you\n', '', 0]);
    const checked = await run('check-backend', ...backend);
    assert.match(checked.stdout, /^\d+ passed, 0 failed/m);
    assert.equal(checked.code, 0);
  } finally {
    rmSync(home, { recursive: true });
  }
});

test('a program serves its own state to a guest, and hears what the guest writes', async () => {
  const socket = join(folder, 'embedded.sock');
  const program = spawn(process.execPath, [example('embedded'), socket], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const said = text(program.stdout);
  const ended = once(program, 'exit');
  try {
    await once(program.stdout, 'data');
    const { code, stdout, stderr } = await run(
      'guest',
      '--socket-path',
      socket,
      '--',
      'sh',
      '-c',
      'cat /mnt/uptime && echo hello > /mnt/say && ls /mnt && cat /mnt/say',
    );
    assert.match(stdout, /^\d+\.\d{3} seconds\nsay\nuptime\n$/);
    assert.match(stderr, /say': Permission denied\n$/);
    assert.equal(code, 1);
  } finally {
    program.kill('SIGTERM');
  }
  assert.deepEqual(await ended, [0, null]);
  assert.match(await said, /hello\n$/);
});

test('each example of a backend works in a guest', async (t) => {
  const home = join(folder, 'backends');
  mkdirSync(home);
  const trials = await exampleTrials(t, home);
  const log = keepingLog();
  const shares = trials.map(({ name }) => ({
    tag: name,
    socket: join(folder, `${name}.socket`),
    mountPoint: `/${name}`,
  }));
  const exports = await Promise.all(
    trials.map(async ({ create }, i) => ({
      tag: shares[i]!.tag,
      socket: shares[i]!.socket,
      backend: await create(),
    })),
  );
  const [first, ...others] = exports;
  const daemon = await serve({ ...first!, log });
  t.after(() => daemon.close());
  for (const { tag, socket, backend } of others) await daemon.add(tag, socket, backend);
  await using guest = await Guest.boot({ shares, accelerator: fastest(), signal: t.signal });
  for (const [i, { name, script, output }] of trials.entries()) {
    const { stdout, stderr, code } = await guest.exec(`cd ${shares[i]!.mountPoint}; ${script}`);
    assert.deepEqual([stdout, stderr, code], [output, '', 0], name);
  }
  assert.deepEqual(log.lines, []);
});

/** Runs an example of sandboxes. */
async function sandboxExample(name: string, ...words: string[]): Promise<{ code: unknown; stdout: string }> {
  const child = spawn(process.execPath, [example(`sandbox/${name}`), ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  return { code, stdout };
}

const uml = fastest() === undefined ? [] : ['uml'];

test('a script that nobody trusts runs on this host, changes nothing, and is told of', async () => {
  const project = join(realpathSync(folder), 'project');
  mkdirSync(join(project, 'src'), { recursive: true });
  writeFileSync(join(project, 'src/main'), 'main');
  writeFileSync(join(project, 'package'), 'mine');
  const script = join(folder, 'script.sh');
  writeFileSync(
    script,
    'echo owned > package; rm -r src; touch /etc/owned; head -c 400000000 /dev/zero > full; exit 3',
  );
  const { code, stdout } = await sandboxExample('sandbox', project, script, ...uml);
  assert.equal(code, 0);
  assert.deepEqual(stdout.trimEnd().split('\n').sort(), [
    'added /etc/owned',
    `added ${project}/full`,
    `changed ${project}/package`,
    'exit code 3',
    `removed ${project}/src`,
  ]);
  assert.equal(readFileSync(join(project, 'package'), 'utf8'), 'mine');
  assert.ok(existsSync(join(project, 'src/main')));
});

test("an agent's loop keeps the best of its patches, and merges that one back", async () => {
  const project = join(realpathSync(folder), 'agent');
  mkdirSync(project);
  writeFileSync(join(project, 'bundle'), 'code\ndebug\ncode\n');
  writeFileSync(join(project, 'unused'), '');
  const patches = ['sed -i /debug/d bundle; rm unused; echo more > new', ': > bundle; exit 1', 'rm bundle'];
  const { code, stdout } = await sandboxExample('agent', project, 'wc -c < bundle', ...uml, '--', ...patches);
  assert.equal(
    stdout,
    `as it is: 16
${patches[0]}: 10
${patches[1]}: Infinity
${patches[2]}: Infinity
changed ${project}/bundle
added ${project}/new
removed ${project}/unused
`,
  );
  assert.equal(code, 0);
  assert.equal(readFileSync(join(project, 'bundle'), 'utf8'), 'code\ncode\n');
  assert.equal(readFileSync(join(project, 'new'), 'utf8'), 'more\n');
  assert.equal(existsSync(join(project, 'unused')), false);
});

test('a job has a cache in a bucket, which the next one finds', async () => {
  const bucket = await TestBucket.create();
  const project = join(realpathSync(folder), 'job');
  mkdirSync(project);
  writeFileSync(join(project, 'source'), 'source\n');
  const script = join(project, 'job.sh');
  writeFileSync(
    script,
    `cd ${project}; cat /var/cache/job/built 2>/dev/null || { echo building; tr a-z A-Z < source | tee /var/cache/job/built; }
    echo over > result`,
  );
  const options = JSON.stringify({ bucket: bucket.name, endpoint: bucket.endpoint, prefix: 'ci/' });
  const first = await sandboxExample('ci', script, options, ...uml);
  assert.deepEqual(first, { code: 0, stdout: `building\nSOURCE\nadded ${project}/result\n` });
  assert.equal((await bucket.get('ci/built')).toString(), 'SOURCE\n');
  const second = await sandboxExample('ci', script, options, ...uml);
  assert.deepEqual(second, { code: 0, stdout: `SOURCE\nadded ${project}/result\n` });
  assert.equal(existsSync(join(project, 'result')), false);
  const words = ['sandbox', ...(uml.length > 0 ? ['--accelerator', 'uml'] : []), '--mount'];
  const mount = `/mnt=${JSON.stringify({ type: 's3', ...(JSON.parse(options) as object) })}`;
  assert.deepEqual(await run(...words, mount, '--', 'ls', '/mnt'), {
    code: 0,
    stdout: 'built\n',
    stderr: '',
  });
  const wrong = await run(...words, '/mnt={', '--', 'true');
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /--mount \/mnt=\{: no JSON/);
});

/** Machines of the lab: ten by hand, fewer with every change. */
const FORKS = Number(process.env['VIRTIOFS_KIT_FORKS'] ?? 4);

test('forks of a machine have its files, and each its own', async () => {
  const { code, stdout } = await sandboxExample('forks', String(FORKS), ...uml);
  assert.deepEqual(
    stdout.trimEnd().split('\n'),
    Array.from({ length: FORKS }, (_, number) => `the same for all: ${number}`),
  );
  assert.equal(code, 0);
});
