import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'node:test';
import { cases } from '../../core/contract/index.js';
import { program } from '../support/program.js';
import { temporaryFolder } from '../support/vhost-user.js';

const records = fileURLToPath(new URL('./records-plugin.js', import.meta.url));
const endless = fileURLToPath(new URL('./endless-plugin.js', import.meta.url));
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

  it('is aimed at a backend that takes not every name, place and content', async (t) => {
    const content = join(temporaryFolder(t), 'record.json');
    writeFileSync(content, '{"name":"value"}');
    const aim = ['--directory', 'users', '--name-pattern', '*.json', '--content', content];
    const bare = await run('--backend', records, '--log-level', 'silent');
    assert.equal(bare.code, 1);
    assert.match(bare.stdout, /^FAILED a created file is empty.*\n +CREATE "file-644": EPERM$/m);
    const aimed = await run('--backend', records, ...aim, '--verbose');
    assert.equal(aimed.code, 0, aimed.stdout);
    assert.match(aimed.stdout, /^ok {5}a file that is made has its content when it is opened again/m);
    assert.match(aimed.stdout, /^ok {5}a renamed|^ok {5}a name that was looked up is gone/m);
    const missing = await run('--backend', records, '--directory', 'user');
    assert.deepEqual([missing.code, missing.stdout], [2, '']);
    assert.match(missing.stderr, /directory user: no user in the backend/);
    const pattern = await run('--backend', records, '--name-pattern', 'x.json');
    assert.match(pattern.stderr, /--name-pattern x\.json: has one \*/);
  });

  it('shows what the backend has thrown, beside the rule that fails by it', async () => {
    const { stdout } = await run('--backend', records, '--directory', 'users', '--name-pattern', '*.json');
    assert.match(stdout, /: EIO\n +cause: SyntaxError: .* is not valid JSON\n +at JSON\.parse/);
  });

  it('takes failures that were expected, and names those that do not come', async () => {
    const rule = 'every name that readdir lists is found';
    const { stdout } = await run('--backend', lossy, '--only', rule, '--except', rule, '--verbose');
    assert.match(stdout, /^skip {3}every name .*\n +excepted: lookup of \/ghost/);
    assert.match(stdout, /\n0 passed, 0 failed, 1 skipped\n$/);
    const passes = await run('--backend', lossy, '--only', 'the root is', '--except', 'the root is');
    assert.match(passes.stdout, /^FAILED the root is a directory\n +it is excepted, and holds\n/);
    assert.equal(passes.code, 1);
    const unknown = await run('--backend', lossy, '--except', 'no such rule');
    assert.match(unknown.stderr, /--except no such rule: no rule has these words/);
  });

  it('ends with a backend on which nothing ends: rules, listings, sessions, removal, unmount', async () => {
    const aim = ['--backend', endless, '--timeout', '0.2', '--only', 'whole and in pieces'];
    const { code, stdout } = await run(...aim, '--log-level', 'silent');
    assert.equal(code, 1);
    assert.match(stdout, /expected an end, got none within 0.2 s/);
    assert.match(stdout, /^FAILED the session and the backend end$/m);
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
