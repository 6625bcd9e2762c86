import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-rules-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** The table in docs/architecture.md: a room, and the rooms that it may import. */
function table(): Map<string, Set<string>> {
  const manual = readFileSync(join(root, 'docs', 'architecture.md'), 'utf8');
  const rows = [...manual.matchAll(/^\| `([a-z0-9/*.-]+)`\s*\| (.*?)\s*\|$/gm)];
  return new Map(
    rows.map(([, room, text]) => [
      room!,
      new Set([...text!.matchAll(/`([a-z]+\/[a-z0-9/*-]+)`/g)].map(([, name]) => name!)),
    ]),
  );
}

/** The files that our lint rules refuse, written into a folder of their own. */
function refused(files: ReadonlyMap<string, string>): string[] {
  writeFileSync(
    join(folder, '.oxlintrc.json'),
    JSON.stringify({
      jsPlugins: ['./.oxlint/house.js'],
      categories: { correctness: 'off' },
      rules: { 'house/rooms': 'error', 'house/comment-width': 'error' },
    }),
  );
  cpSync(join(root, '.oxlint'), join(folder, '.oxlint'), { recursive: true });
  cpSync(join(root, 'docs', 'architecture.md'), join(folder, 'docs', 'architecture.md'));
  for (const [path, text] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  const { stdout } = spawnSync(
    join(root, 'node_modules', '.bin', 'oxlint'),
    ['--format', 'json', 'core', 'backends', 'examples', 'test'],
    { cwd: folder, encoding: 'utf8' },
  );
  const { diagnostics } = JSON.parse(stdout) as { diagnostics: { code: string; filename: string }[] };
  return [...new Set(diagnostics.map(({ filename }) => filename))].sort();
}

test('every room is in the table of what it may import', () => {
  const rooms = ['core', 'backends'].flatMap((top) =>
    readdirSync(join(root, top), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => `${top}/${name}`),
  );
  const listed = [...table().keys()].filter((room) => /^(core|backends)\/[a-z0-9-]+$/.test(room));
  assert.deepEqual(listed.sort(), rooms.sort());
});

test('the lint rules refuse exactly the imports that the table does not allow', () => {
  const rooms = table();
  const core = [...rooms.keys()].filter((room) => /^core\/[a-z-]+$/.test(room));
  const backends = [...rooms.keys()].filter((room) => room.startsWith('backends/'));
  const files = new Map<string, string>();
  const forbidden: string[] = [];
  const place = (path: string, text: string, isAllowed: boolean): void => {
    files.set(path, text);
    if (!isAllowed) forbidden.push(path);
  };
  for (const room of core) {
    const allowed = rooms.get(room)!;
    for (const other of [...core, 'backends/memfs']) {
      if (other === room) continue;
      const isAllowed = allowed.has(other) || allowed.has(other.replace(/\/.*/, '/*'));
      const file = other.replace('/', '-');
      place(`${room}/${file}.ts`, `export { x } from '../../${other}/index.js';\n`, isAllowed);
      place(`${room}/deep/${file}.ts`, `export { x } from '../../../${other}/in/x.js';\n`, isAllowed);
    }
    const file = `${room.replace('/', '-')}.ts`;
    const value = `import { x } from '../../../${room}/x.js';\nx();\n`;
    for (const backend of backends) place(`${backend}/in/${file}`, value, rooms.get(backend)!.has(room));
    place(`examples/${file}`, `import { x } from '../${room}/x.js';\nx();\n`, false);
    place(`test/in/${file}`, `export { x } from '../../${room}/x.js';\n`, true);
  }
  place('core/system/memory/own.ts', `export { x } from '../calls/x.js';\n`, true);
  place('core/system/dynamic.ts', `export const x = import('../fuse/index.js');\n`, false);
  place('core/system/types.ts', `export type { x } from '../fuse/index.js';\n`, false);
  place('backends/overlay/x.ts', `export { x } from '../memfs/index.js';\n`, false);
  assert.deepEqual(refused(files), forbidden.sort());
});

test('a comment wider than 100 columns is refused, code is not', () => {
  const words = 'word '.repeat(20).trim();
  const files = new Map([
    ['core/system/narrow.ts', `// ${words.slice(0, 97)}\nexport const a = '${words}${words}';\n`],
    ['core/system/wide.ts', `// ${words} x\nexport const a = 1;\n`],
    ['core/system/wide-block.ts', `/**\n * ${words} x\n */\nexport const a = 1;\n`],
  ]);
  const wide = refused(files).filter((file) => /narrow|wide/.test(file));
  assert.deepEqual(wide, ['core/system/wide-block.ts', 'core/system/wide.ts']);
});
