import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { documents, prose, root } from '../support/documents.js';

test('what a document of the package links to is in the package', () => {
  const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
  });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const packed = new Set(files.map(({ path }) => path));
  const missing: string[] = [];
  for (const [path, text] of documents) {
    if (!packed.has(path)) continue;
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s#]+)[^)]*\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const to = relative(root, join(root, dirname(path), target!));
      const isThere = statSync(join(root, to)).isDirectory()
        ? [...packed].some((file) => file.startsWith(`${to}/`))
        : packed.has(to);
      if (!isThere) missing.push(`${path}: ${target}`);
    }
  }
  assert.deepEqual(missing, []);
});
