import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryFolder } from '../support/vhost-user.js';

/* What has ended is kept by nothing: no timer, no listener, no promise. */

const child = fileURLToPath(new URL('leaks-child.js', import.meta.url));
/** How often each is done: `LEAK_ROUNDS` for longer runs. */
const ROUNDS = process.env['LEAK_ROUNDS'] ?? '5';

for (const what of ['connections memfs', 'silent', 'threads passthrough', 'exports overlay', 'mounts']) {
  test(`nothing stays of ${what} that have ended`, (t) => {
    const words = ['--expose-gc', '--no-warnings', child, what, temporaryFolder(t), ROUNDS];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    assert.deepEqual(JSON.parse(stdout), {});
  });
}
