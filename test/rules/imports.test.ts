import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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
  const rows = [...manual.matchAll(/^\| `core\/([a-z-]+)`\s*\| (.*?)\s*\|$/gm)];
  return new Map(
    rows.map(([, room, text]) => {
      const names = [...text!.replaceAll(/\(.*?\)/g, '').matchAll(/`([a-z-]+)(?:\/\*)?`/g)].map(
        ([, name]) => name!,
      );
      return [room!, new Set(names)];
    }),
  );
}

/** The imports that oxlint refuses, as `room → imported`. */
function refused(files: ReadonlyMap<string, string>): string[] {
  // The rules alone, without those that check what an import leads to.
  const config = JSON.parse(readFileSync(join(root, '.oxlintrc.json'), 'utf8')) as { overrides: unknown };
  writeFileSync(join(folder, '.oxlintrc.json'), JSON.stringify({ overrides: config.overrides }));
  for (const [path, text] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  const { stdout } = spawnSync(join(root, 'node_modules', '.bin', 'oxlint'), ['--format', 'json', '.'], {
    cwd: folder,
    encoding: 'utf8',
  });
  const { diagnostics } = JSON.parse(stdout) as { diagnostics: { code: string; filename: string }[] };
  return diagnostics
    .filter(({ code }) => code.includes('no-restricted-imports'))
    .map(({ filename }) => filename)
    .sort();
}

test('every room is in the table of what it may import', () => {
  const rooms = readdirSync(join(root, 'core'), { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  );
  assert.deepEqual([...table().keys()].sort(), rooms.map(({ name }) => name).sort());
});

test('the lint rules refuse exactly the imports that the table does not allow', () => {
  const rooms = table();
  const files = new Map<string, string>();
  const forbidden: string[] = [];
  for (const [room, allowed] of rooms) {
    for (const other of [...rooms.keys(), 'backends']) {
      if (other === room) continue;
      const path = `core/${room}/${other}.ts`;
      const target = other === 'backends' ? '../../backends/memfs/index.js' : `../${other}/index.js`;
      files.set(path, `export { x } from '${target}';\n`);
      if (!allowed.has(other)) forbidden.push(path);
    }
  }
  for (const room of rooms.keys()) {
    const target = `../../core/${room}/index.js`;
    files.set(`backends/memfs/${room}.ts`, `export { x } from '${target}';\n`);
    files.set(`backends/passthrough/${room}.ts`, `export { x } from '${target}';\n`);
    files.set(`examples/${room}.ts`, `export { x } from '../core/${room}/index.js';\n`);
    if (room !== 'backend') forbidden.push(`backends/memfs/${room}.ts`);
    if (room !== 'backend' && room !== 'system') forbidden.push(`backends/passthrough/${room}.ts`);
    forbidden.push(`examples/${room}.ts`);
  }
  files.set('backends/overlay/x.ts', `export { x } from '../memfs/index.js';\n`);
  forbidden.push('backends/overlay/x.ts');
  assert.deepEqual(refused(files), forbidden.sort());
});
