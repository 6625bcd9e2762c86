import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { serve } from '../support/confined-daemon.js';
import { program } from '../support/program.js';
import { temporaryFolder } from '../support/vhost-user.js';

const manifest = fileURLToPath(import.meta.resolve('virtiofs-kit/package.json'));
const example = fileURLToPath(new URL('../../examples/json-document.js', import.meta.url));

function run(
  words: readonly string[],
  flags: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [...flags, program, ...words], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  });
}

/** The program as it is in the package: joined into few files. */
describe('the program of the package', () => {
  it('serves, confined, with its threads', async (t) => {
    const words = ['--queue-threads', '1', '--io-threads', '1'];
    const { said, text, end } = await serve(t, temporaryFolder(t), { words });
    const confined = said.find(({ msg }) => msg === 'confined');
    assert.equal(confined?.['seccomp'], 'errno', text);
    assert.equal(await end(), 0);
  });

  it('knows the errors of a backend that imports the package', () => {
    const { status, stdout, stderr } = run(['check-backend', '--backend', example, '--file', manifest]);
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /^\d+ passed, 0 failed, \d+ skipped\n$/);
  });

  it('finds each built-in backend', () => {
    for (const [name, ...words] of [
      ['memfs'],
      ['passthrough', '--shared-dir', '/'],
      ['s3', '--bucket', 'b'],
    ]) {
      const shown = run(['serve', '--print-config', '--socket-path', '/s', '--backend', name!, ...words]);
      assert.equal(shown.status, 0, shown.stderr);
      assert.match(shown.stdout, new RegExp(`type: ${name}$`, 'm'));
    }
  });

  it('keeps its compiled code, all that a confined daemon needs, and again where it is damaged', async (t) => {
    const cache = temporaryFolder(t);
    for (let start = 0; start < 2; start++) {
      const { end } = await serve(t, temporaryFolder(t), {
        environment: { NODE_COMPILE_CACHE: cache },
      });
      assert.equal(await end(), 0);
      const folders = readdirSync(cache).filter((name) => name.startsWith('virtiofs-kit-'));
      assert.equal(folders.length, 1);
      const files = readdirSync(join(cache, folders[0]!));
      for (const file of ['both.cjs', 'command-line.cjs', 'serving.cjs', 'filled'])
        assert.ok(files.includes(file), files.join(' '));
    }
    const folder = readdirSync(cache).find((name) => name.startsWith('virtiofs-kit-'));
    const kept = join(cache, folder!, 'both.cjs');
    const whole = readFileSync(kept);
    writeFileSync(kept, whole.subarray(0, whole.length / 2));
    // The first finds it damaged, the second keeps it anew.
    for (let start = 0; start < 2; start++)
      assert.equal(run(['--version'], [], { NODE_COMPILE_CACHE: cache }).status, 0);
    // As much but for some bytes, of places in memory.
    const { length } = readFileSync(kept);
    assert.ok(length > whole.length * 0.9, `${length} of ${whole.length}`);
  });

  it('names lines of the sources in stacks, where Node is told to', () => {
    const words = ['serve', '--log-level', 'debug', '--confine', 'none', '--socket-path', '/x/y'];
    const memfs = ['--backend', 'memfs', '--from', '/nowhere'];
    const { stderr } = run([...words, ...memfs], ['--enable-source-maps']);
    assert.match(stderr, /backends\/memfs\/import\/load\.ts:\d+/);
    assert.match(stderr, /core\/plugins\/daemon\.ts:\d+/);
  });

  it('comes with the licences of what is in it', () => {
    const text = readFileSync(join(program, '..', 'LICENSES.txt'), 'utf8');
    for (const name of ['zod', 'pino', 'inversify', 'commander', '@aws-sdk/client-s3'])
      assert.match(text, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+: \\S+`, 'm'));
  });
});
