import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-examples-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const cli = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));

function example(name: string): string {
  return fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url));
}

/** Runs the command line program as a person does. */
async function run(...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
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
