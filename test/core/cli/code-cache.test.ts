import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { safeDirectory } from '../../../core/cli/code-cache.js';
import { temporaryFolder } from '../../support/vhost-user.js';

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
