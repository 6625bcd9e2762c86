import assert from 'node:assert/strict';
import { it, type TestContext } from 'node:test';
import { chooseProcess } from '../../../../core/cli/detached-sandboxes/shared-process.js';
import type { StartOptions } from '../../../../core/cli/detached-sandboxes/start-options.js';

const plain: StartOptions = {
  mounts: { '/srv': { source: '/srv' } },
  hide: [],
  deny: [],
  redirect: {},
  readOnly: [],
  hideSecrets: true,
  env: {},
  memory: 512,
  cpus: 1,
  console: false,
  publish: [],
  log: { level: 'error', format: 'auto' },
};
const ofPlugin = { ...plain, mounts: { '/srv': { source: { type: './mine.js' } } } };
const pulled = { ...plain, image: 'docker://example.com/app' };

function set(t: TestContext, name: string, value: string): void {
  const before = process.env[name];
  process.env[name] = value;
  t.after(() => {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  });
}

const keyOf = (options: StartOptions): string => chooseProcess(options, false).key;

it('sandboxes share a process, whatever they are made of and whichever terminal they come from', (t) => {
  const first = keyOf(plain);
  const options = { ...plain, env: { A: 'b' }, memory: 128, image: '/some/layout:1', hide: ['/etc'] };
  set(t, 'TERM', 'other');
  set(t, 'A_TOKEN', 'other');
  assert.equal(keyOf(options), first);
  assert.equal(chooseProcess(options, false).cwd, '/');
});

it('they do not where the process would make another one of them', (t) => {
  const first = keyOf(plain);
  assert.notEqual(keyOf(ofPlugin), first);
  const [mounted, image] = [keyOf(ofPlugin), keyOf(pulled)];
  assert.equal(chooseProcess(ofPlugin, false).cwd, process.cwd());
  set(t, 'TERM', 'other');
  assert.deepEqual([keyOf(ofPlugin), keyOf(pulled)], [mounted, image]);
  set(t, 'A_TOKEN', 'other');
  assert.equal(keyOf(plain), first);
  assert.notEqual(keyOf(ofPlugin), mounted);
  assert.notEqual(keyOf(pulled), image);
  set(t, 'TMPDIR', '/var/tmp');
  assert.notEqual(keyOf(plain), first);
});

it('one that is to be alone shares with nobody', () => {
  const keys = [true, true, false].map((isAlone) => chooseProcess(plain, isAlone).key);
  assert.equal(new Set(keys).size, 3);
});
