import assert from 'node:assert/strict';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { codeCacheDirectory, compile, safeDirectory, useCodeCache } from '../../../core/cli/code-cache.js';
import { temporaryFolder } from '../../support/vhost-user.js';

/** A folder of its own for the cache, until the test has ended. */
function cacheIn(t: TestContext): string {
  const folder = temporaryFolder(t);
  const { NODE_COMPILE_CACHE: before } = process.env;
  process.env['NODE_COMPILE_CACHE'] = folder;
  t.after(() => {
    if (before === undefined) delete process.env['NODE_COMPILE_CACHE'];
    else process.env['NODE_COMPILE_CACHE'] = before;
  });
  return folder;
}

test('compiled code is kept in a directory that nobody else can write to', (t) => {
  const directory = join(temporaryFolder(t), 'virtiofs-kit');
  assert.equal(safeDirectory(directory), directory);
  assert.equal(statSync(directory).mode & 0o777, 0o700);
  assert.equal(safeDirectory(directory), directory);
});

test('a directory that others can write to, or can put another one in the place of, keeps none', (t) => {
  const base = temporaryFolder(t);
  const open = join(base, 'open');
  mkdirSync(join(open, 'own'), { recursive: true });
  chmodSync(open, 0o777);
  assert.equal(safeDirectory(open), undefined);
  assert.equal(safeDirectory(join(open, 'own')), undefined);
  symlinkSync(join(open, 'own'), join(base, 'link'));
  assert.equal(safeDirectory(join(base, 'link')), undefined);
  // As /tmp is: what is in it is safe, what is put into it is not.
  chmodSync(open, 0o1777);
  assert.equal(safeDirectory(open), undefined);
  assert.equal(safeDirectory(join(open, 'own')), join(open, 'own'));
});

test('where no directory can be made, there is no cache', () => {
  assert.equal(safeDirectory('/proc/virtiofs-kit'), undefined);
  assert.equal(safeDirectory('/nowhere/virtiofs-kit'), undefined);
});

test('compiled code is kept, and is not used where the file of the program is another', (t) => {
  const base = cacheIn(t);
  const program = join(base, 'loader.js');
  const path = join(base, 'part.cjs');
  const source = '(function answer() { return 42; })';
  const run = (text = source): unknown => (compile(path, text).runInThisContext() as () => unknown)();
  const folders = (): string[] => readdirSync(base).filter((name) => name.startsWith('virtiofs-kit-'));
  writeFileSync(program, '1');
  useCodeCache(program, true);
  assert.equal(codeCacheDirectory(), base);
  assert.equal(run(), 42);
  const kept = join(base, folders()[0]!, 'part.cjs');
  assert.notEqual(readFileSync(kept).length, 0);
  assert.equal(compile(path, source).cachedDataRejected, false);
  assert.equal(run(), 42);
  writeFileSync(program, '22');
  useCodeCache(program, true);
  assert.equal(run(source.replace('42', '43')), 43);
  // Who may not write reads what is there.
  rmSync(kept);
  writeFileSync(program, '1');
  useCodeCache(program, false);
  assert.equal(run(), 42);
});

test('of other programs and versions the compiled code of a few is kept', (t) => {
  const base = cacheIn(t);
  mkdirSync(join(base, "another program's"));
  const program = join(base, 'loader.js');
  for (let build = 0; build < 12; build++) {
    writeFileSync(program, 'x'.repeat(build));
    useCodeCache(program, true);
  }
  const names = readdirSync(base);
  assert.equal(names.filter((name) => name.startsWith('virtiofs-kit-')).length, 8);
  assert.ok(names.includes("another program's"));
});
