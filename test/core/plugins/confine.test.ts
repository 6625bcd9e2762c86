import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { programFolders } from '../../../core/plugins/index.js';

function project(t: TestContext): string {
  const base = mkdtempSync(join(tmpdir(), 'virtiofs-kit-confine-'));
  t.after(() => rmSync(base, { recursive: true, force: true }));
  return base;
}

/** Folders above the temporary ones are the machine's. */
function below(base: string, folders: readonly string[]): string[] {
  return folders.filter((folder) => folder.startsWith(`${base}/`)).map((folder) => folder.slice(base.length));
}

test('an installed package is allowed to read the packages beside it', (t) => {
  const base = project(t);
  const kit = join(base, 'node_modules', 'virtiofs-kit');
  mkdirSync(join(kit, 'dist', 'core'), { recursive: true });
  writeFileSync(join(kit, 'package.json'), '{}');
  const folders = programFolders(join(kit, 'dist', 'core', 'main.js'));
  assert.deepEqual(below(base, folders), ['/node_modules/virtiofs-kit', '/node_modules']);
});

test('a module without a package is allowed to read its own folder, not the whole tree above it', (t) => {
  const base = project(t);
  mkdirSync(join(base, 'backends'));
  assert.deepEqual(below(base, programFolders(join(base, 'backends', 'mine.js'))), ['/backends']);
  assert.ok(!programFolders(join(base, 'backends', 'mine.js')).includes('/'));
});
