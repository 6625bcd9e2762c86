import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

/*
 * The test of a file is found by its name: `core/fuse/session/gathering.ts` has
 * `test/core/fuse/session/gathering.test.ts`. A test may stand for a whole folder, and may have
 * words more between the name and `.test.ts`: what of the file it is about, and what it needs
 * (test/runner/kinds.ts).
 */
const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

test('every test in test/core and test/backends is named after a file or a folder', () => {
  const nameless = ['core', 'backends'].flatMap((top) =>
    readdirSync(join(root, 'test', top), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.test.ts'))
      .map((file) => join(top, file))
      .filter((file) => {
        const source = join(root, file.slice(0, file.indexOf('.')));
        return !existsSync(`${source}.ts`) && !existsSync(source);
      }),
  );
  assert.deepEqual(nameless, []);
});
