import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'node:test';
import { cases } from '../../core/contract/index.js';

const program = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));
const lossy = fileURLToPath(new URL('./lossy-plugin.js', import.meta.url));

function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [program, 'check-backend', ...args], (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

describe('virtiofs-kit check-backend', () => {
  it('says in one line that a backend keeps the contract', async () => {
    const { code, stdout } = await run('--backend', 'memfs');
    assert.deepEqual({ code, stdout }, { code: 0, stdout: `${cases.length} passed, 0 failed, 0 skipped\n` });
  });

  it('names each rule that is broken, what was expected and what came, and exits with 1', async () => {
    const { code, stdout } = await run('--backend', lossy);
    assert.equal(code, 1);
    assert.match(stdout, /^FAILED every name that readdir lists is found by lookup, with the type and /m);
    assert.match(stdout, /^ +lookup of \/ghost, which readdir listed: expected a node, got undefined$/m);
    assert.match(stdout, /\n\d+ passed, \d+ failed, \d+ skipped\n$/);
  });

  it('runs a part, shows what holds and why something was skipped', async () => {
    const { code, stdout } = await run('--backend', lossy, '--only', 'root', '--verbose');
    assert.deepEqual(
      { code, stdout },
      { code: 0, stdout: 'ok     the root is a directory\n1 passed, 0 failed, 0 skipped\n' },
    );
    const links = await run('--backend', lossy, '--only', 'hard links', '--verbose');
    assert.match(
      links.stdout,
      /^skip {3}hard links are one file, .*\n +the backend has no create or mknod, link, /,
    );
  });

  it('refuses changes to a backend on which they are switched off', async () => {
    const { code, stdout } = await run('--backend', 'memfs', '--read-only');
    assert.equal(code, 0);
    assert.match(stdout, /^\d+ passed, 0 failed, [1-9]\d* skipped\n$/);
  });

  it('lists the rules', async () => {
    const { code, stdout } = await run('--list');
    assert.equal(code, 0);
    for (const { name } of cases) assert.ok(stdout.includes(`${name}\n`));
  });

  it('says what is missing', async () => {
    const { code, stderr } = await run();
    assert.equal(code, 2);
    assert.match(stderr, /^virtiofs-kit: --backend is required/);
  });
});
