import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from '../support/documents.js';

/*
 * What only tests use does not belong into the product. The search is by name: an exported value
 * must be mentioned in the product once more than it is declared. One that has the name of another
 * is not found. (Members of classes: unused-members.host.test.ts.)
 */

/** Whose exports are for others: what is named there is used. */
const PUBLIC = [
  'core/index.ts',
  'core/accelerator.ts',
  'core/adapters/index.ts',
  'core/wrappers/index.ts',
  'core/sandbox/index.ts',
  'backends/memfs/index.ts',
];

interface Declared {
  readonly name: string;
  readonly file: string;
}

/** A source without comments, imports and exports from other files. */
function codeOf(text: string, isPublic: boolean): string {
  const code = text.replaceAll(/\/\*[^]*?\*\//g, '').replaceAll(/(^|\s)\/\/.*$/gm, '');
  const imports = code.replaceAll(/^import [^;]*;$/gm, '');
  return isPublic ? imports : imports.replaceAll(/^export (?:type )?\{[^}]*\}[^;]*;$/gm, '');
}

/** Exported functions, constants and classes. */
function declarationsIn(code: string): string[] {
  const exported = /^export (?:(?:async|abstract|declare) )*(?:function\*?|const|let|class) ([\w$]+)/gm;
  return [...code.matchAll(exported)].map(([, name]) => name!);
}

/** What is declared in sources and mentioned in none of them. */
function unused(sources: ReadonlyMap<string, string>): Declared[] {
  const left = new Map<string, number>();
  const declared: Declared[] = [];
  for (const [file, text] of sources) {
    const code = codeOf(text, PUBLIC.includes(file));
    for (const [name] of code.matchAll(/[a-z_$][\w$]*/gi)) left.set(name, (left.get(name) ?? 0) + 1);
    if (file.startsWith('examples/')) continue;
    for (const name of declarationsIn(code)) declared.push({ name, file });
  }
  for (const { name } of declared) left.set(name, left.get(name)! - 1);
  return declared.filter(({ name }) => left.get(name)! <= 0);
}

test('an export that nothing mentions is found, one that something uses is not', () => {
  const sources = new Map([
    [
      'a.ts',
      `export class A {}\nexport const LIMIT = 1;\n/** helper() */\nexport function helper(): number { return LIMIT; }\n`,
    ],
    ['index.ts', `export { A, helper } from './a.js';\n`],
    ['b.ts', `import { A, helper } from './index.js';\nconst a = new A();\n`],
  ]);
  assert.deepEqual(
    unused(sources).map(({ name }) => name),
    ['helper'],
  );
});

test('nothing in the product is exported for tests alone: each export is mentioned in it', () => {
  const sources = new Map<string, string>();
  for (const folder of ['core', 'backends', 'examples']) {
    for (const file of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }))
      if (file.endsWith('.ts'))
        sources.set(`${folder}/${file}`, readFileSync(join(root, folder, file), 'utf8'));
  }
  assert.deepEqual(
    unused(sources).map(({ name, file }) => `${file}: ${name}`),
    [],
  );
});
