import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

/** What `node:vfs` of Node 26.12 does in another way than Linux. */
const FAULTS = [
  'a truncated file is shorter, or longer with zeros, whichever way it is named',
  'one handle sees at once what another one writes',
  'names keep every byte, and differ where a byte differs',
  'hard links are one file, until the last is removed',
  'a symbolic link keeps its target, whatever that is',
  'times are kept to the nanosecond, before 1970 and after 2038, each by itself',
  'random sequences of operations do what they do in a model of a file system',
];

const hasVfs = Number.parseInt(process.versions.node, 10) >= 26;

// Run by: npm run test:nodes -- adapters.vfs
test('a file system of node:vfs keeps the contract, but for what that does itself', { skip: !hasVfs }, () => {
  const check = fileURLToPath(new URL('./vfs-check.js', import.meta.url));
  const { stdout, stderr } = spawnSync(process.execPath, ['--experimental-vfs', check], { encoding: 'utf8' });
  assert.notEqual(stdout, '', stderr);
  const { passed, broken } = JSON.parse(stdout) as { passed: number; broken: string[] };
  assert.deepEqual(
    broken.filter((name) => !FAULTS.includes(name)),
    [],
  );
  assert.ok(passed >= 40, `${passed} rules`);
});
