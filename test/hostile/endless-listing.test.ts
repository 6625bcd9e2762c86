import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('endless-listing-child.js', import.meta.url));

test('a bucket whose listing never ends is refused before the heap is full', () => {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--max-old-space-size=64', child], {
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...process.env, AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' },
  });
  assert.deepEqual([status, signal], [0, null], stderr.slice(0, 2000));
  const { outcome, other } = JSON.parse(stdout) as Record<string, unknown>;
  assert.deepEqual([outcome, other], ['ENOMEM', '40755']);
});
