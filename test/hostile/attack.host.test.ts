import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('../attack/main.js', import.meta.url));

for (const setup of ['passthrough with queue threads', 'memfs', 'overlay over passthrough']) {
  test(`${setup}: an honest guest is served beside attackers`, (t) => {
    const words = [program, '--seconds', '5', '--heap', '384', '--setup', setup];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, {
      encoding: 'utf8',
      timeout: 240_000,
    });
    t.diagnostic(stdout);
    assert.equal(status, 0, stdout + stderr);
  });
}
