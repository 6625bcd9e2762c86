import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

/** Files that every backend has and docs/architecture.md explains. */
const explained = new Set(['index.ts', 'options.ts']);

/** The files and folders of a room that no comment of its `index.ts` names. */
function unnamed(room: string): string[] {
  const source = readFileSync(join(root, room, 'index.ts'), 'utf8');
  const comment = source.match(/\/\*\*[^]*?\*\//g)?.join(' ') ?? '';
  return readdirSync(join(root, room), { withFileTypes: true })
    .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name))
    .filter((name) => /\.ts$|\/$/.test(name) && !explained.has(name) && !comment.includes(`\`${name}\``))
    .map((name) => join(room, name));
}

test('the comment of a room’s index.ts names each file and folder of the room', () => {
  const rooms = ['core', 'backends'].flatMap((top) =>
    readdirSync(join(root, top), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(top, entry.name)),
  );
  assert.ok(rooms.length > 15);
  assert.deepEqual(rooms.flatMap(unnamed), []);
});
