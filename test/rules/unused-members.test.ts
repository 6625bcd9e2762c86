import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from '../support/documents.js';

/*
 * What only tests call does not belong into the product. The search is by name: a public method or
 * an exported value must be mentioned in the product once more than it is declared. One that has
 * the name of another is not found.
 */

/** Whose exports are for others: what is named there is used. */
const PUBLIC = ['core/index.ts', 'core/accelerator.ts', 'backends/memfs/index.ts'];

/** Members that something outside this repository's sources calls. */
const EXCEPTIONS: Readonly<Record<string, string>> = {};

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

/**
 * Exported functions, constants and classes, and public methods and accessors of classes. What
 * overrides a method is called where that one is.
 */
function declarationsIn(code: string): string[] {
  const names: string[] = [];
  let isInClass = false;
  for (const line of code.split('\n')) {
    const exported = /^export (?:(?:async|abstract|declare) )*(?:function\*?|const|let|class) ([\w$]+)/.exec(
      line,
    );
    if (exported !== null) names.push(exported[1]!);
    if (/^(?:export )?(?:abstract )?class /.test(line)) isInClass = true;
    else if (line.startsWith('}')) isInClass = false;
    else if (isInClass) {
      const member = /^ {2}(?:(?:static|async|get|set|abstract) )*\*?([a-z][\w$]*)(?:<.*>)?\(/i.exec(line);
      if (member !== null && member[1] !== 'constructor') names.push(member[1]!);
    }
  }
  return names;
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

test('a member that nothing mentions is found, one that something calls is not', () => {
  const sources = new Map([
    [
      'a.ts',
      `export class A {
  static make(): A { return new A(); }
  used(): void {}
  /** unused() and neverCalled() are only named here. */
  async neverCalled<T>(value: T): Promise<T> { return value; }
  get length(): number { return 0; }
}
export const LIMIT = 1;
export function helper(): number { return LIMIT; }
`,
    ],
    ['index.ts', `export { A, helper } from './a.js';\n`],
    ['b.ts', `import { A, helper } from './index.js';\nconst a = A.make();\na.used();\na.length;\n`],
  ]);
  assert.deepEqual(
    unused(sources).map(({ name }) => name),
    ['neverCalled', 'helper'],
  );
});

test('nothing in the product is for tests alone: each public member is mentioned in it', () => {
  const sources = new Map<string, string>();
  for (const folder of ['core', 'backends', 'examples']) {
    for (const file of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }))
      if (file.endsWith('.ts'))
        sources.set(`${folder}/${file}`, readFileSync(join(root, folder, file), 'utf8'));
  }
  const found = unused(sources).map(({ name, file }) => `${file}: ${name}`);
  assert.deepEqual(
    found.filter((one) => EXCEPTIONS[one] === undefined),
    [],
  );
  assert.deepEqual(
    Object.keys(EXCEPTIONS).filter((one) => !found.includes(one)),
    [],
    'exceptions that nothing needs',
  );
});
