import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

/** Stands for every file of its folder, since a new operation joins the circle of the others. */
const OPERATIONS = 'core/fuse/operations/*';

/** The circles that docs/architecture.md gives the reasons for. */
const accepted = [
  ['backends/memfs/host-api/link-view.ts', 'backends/memfs/host-api/superblock.ts'],
  ['backends/memfs/tree/history.ts', 'backends/memfs/tree/snapshot.ts', 'backends/memfs/tree/tree.ts'],
  ['backends/overlay/layers/layer.ts', 'backends/overlay/layers/whiteouts.ts'],
  [
    OPERATIONS,
    'core/fuse/session/faults.ts',
    'core/fuse/session/gathering.ts',
    'core/fuse/session/in-flight.ts',
    'core/fuse/session/request.ts',
    'core/fuse/session/session.ts',
  ],
  ['core/memory/segment-list.ts', 'core/memory/segment-window.ts'],
  ['core/state/locks/session.ts', 'core/state/locks/table.ts'],
];

/** Each source file with the files that it imports, types included. */
function imports(): Map<string, string[]> {
  const files = ['core', 'backends'].flatMap((top) =>
    readdirSync(join(root, top), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => join(top, file)),
  );
  return new Map(
    files.map((file) => {
      const text = readFileSync(join(root, file), 'utf8');
      const found = text.matchAll(/\b(?:from|import) ?\(?'(\.[^']+)\.js'/g);
      return [file, [...found].map(([, path]) => `${join(dirname(file), path!)}.ts`)];
    }),
  );
}

/** The groups of files that reach each other by imports. */
function circles(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const reached = new Map<string, Set<string>>();
  for (const file of graph.keys()) {
    const seen = new Set<string>();
    const open = [file];
    while (open.length > 0) {
      for (const next of graph.get(open.pop()!) ?? []) {
        if (seen.has(next)) continue;
        seen.add(next);
        open.push(next);
      }
    }
    reached.set(file, seen);
  }
  const groups = [...reached].map(([file, others]) =>
    [...others].filter((other) => reached.get(other)?.has(file) === true).sort(),
  );
  return groups.filter((group, index) => group[0] === [...reached.keys()][index]);
}

test('files that import each other are found, whichever way round', () => {
  const graph = new Map([
    ['a', ['b', 'e']],
    ['b', ['c']],
    ['c', ['a', 'd']],
    ['d', []],
    ['e', ['d']],
  ]);
  assert.deepEqual(circles(graph), [['a', 'b', 'c']]);
});

test('files import each other, types included, only in the circles that are accepted', () => {
  const found = circles(imports()).map((group) => [
    ...new Set(group.map((file) => (dirname(file) === dirname(OPERATIONS) ? OPERATIONS : file))),
  ]);
  const text = (groups: readonly (readonly string[])[]): string[] =>
    groups.map((group) => group.join(' ')).sort();
  assert.deepEqual(text(found), text(accepted));
});
