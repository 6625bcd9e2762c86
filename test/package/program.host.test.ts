import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { serve } from '../support/confined-daemon.js';
import { temporaryFolder } from '../support/vhost-user.js';

const program = fileURLToPath(new URL('../../program/virtiofs-kit.js', import.meta.url));
const manifest = fileURLToPath(import.meta.resolve('virtiofs-kit/package.json'));
const example = fileURLToPath(new URL('../../examples/json-document.js', import.meta.url));

function run(words: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [program, ...words], { encoding: 'utf8' });
}

/** The program as it is in the package: joined into few files. */
describe('the program of the package', () => {
  before(() => {
    const bundle = fileURLToPath(new URL('./bundle.js', import.meta.url));
    const { status, stderr } = spawnSync(process.execPath, [bundle], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  });

  it('serves, confined, with its threads', async (t) => {
    const words = ['--queue-threads', '1', '--io-threads', '1'];
    const { said, text, end } = await serve(t, temporaryFolder(t), { program, words });
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

  it('comes with the licences of what is in it', () => {
    const text = readFileSync(join(program, '..', 'LICENSES.txt'), 'utf8');
    for (const name of ['zod', 'pino', 'inversify', 'commander', '@aws-sdk/client-s3'])
      assert.match(text, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+: \\S+`, 'm'));
  });
});
