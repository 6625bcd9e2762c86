import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BackendRegistry, parseConfig } from '../../core/plugins/index.js';
import { parseYaml } from '../../core/plugins/options/yaml.js';
import { documents, root } from '../support/documents.js';

/*
 * The code blocks of documents: programs compile against the package's own types, and configuration
 * files are taken as they are. (docs/backend-reference.md is made of the types.)
 */

interface Block {
  readonly at: string;
  readonly language: string;
  readonly text: string;
}

const blocks: readonly Block[] = [...documents].flatMap(([path, text]) =>
  path === join('docs', 'backend-reference.md')
    ? []
    : [...text.matchAll(/^```(\w+)\n([^]*?)^```/gm)].map(({ index, 1: language, 2: code }) => ({
        at: `${path}:${text.slice(0, index).split('\n').length}`,
        language: language!,
        text: code!,
      })),
);

/** What blocks use that a reader has before. */
const GIVEN = `
import type { Backend } from 'virtiofs-kit';
declare global {
  const backend: Backend;
  const inner: Backend;
  function myBackend(): Backend;
  function otherBackend(): Backend;
  const wrap: typeof import('virtiofs-kit').wrap;
  const andThen: typeof import('virtiofs-kit').andThen;
}
`;

test('every program in a document compiles', (t) => {
  // The README's backend is JavaScript without types. It is run: see test/guest/examples.test.ts.
  const programs = blocks.filter(
    ({ language, text }) => language === 'ts' || (language === 'js' && !text.startsWith('// hello.mjs')),
  );
  assert.ok(programs.length >= 8, `${programs.length} programs`);
  // Below the package's folder, so that programs find the package by its name.
  mkdirSync(join(root, '.cache'), { recursive: true });
  const folder = mkdtempSync(join(root, '.cache', 'blocks-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'given.d.mts'), GIVEN);
  for (const [i, { text }] of programs.entries())
    writeFileSync(join(folder, `block-${i}.mts`), `${text}\nexport {};\n`);
  const compilerOptions = {
    target: 'es2022',
    lib: ['es2023', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    strict: true,
    // Programs in JavaScript have no types of their own.
    noImplicitAny: false,
    noEmit: true,
    skipLibCheck: true,
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.mts'] }));
  const compiler = join(root, 'node_modules/.bin/tsc');
  const { stdout, status } = spawnSync(compiler, ['-p', folder], { encoding: 'utf8', cwd: folder });
  const errors = stdout.replaceAll(/block-(\d+)\.mts/g, (_all, i: string) => programs[Number(i)]!.at);
  assert.equal(status, 0, errors);
});

test('every configuration in a document is taken', async () => {
  const files = blocks.filter(({ language }) => language === 'yaml');
  assert.ok(files.length >= 3, `${files.length} files`);
  for (const { at, text } of files) {
    const { exports, backends } = parseConfig(parseYaml(text, at));
    const specs = [...exports.map(({ backend }) => backend), ...Object.values(backends)];
    for (const spec of specs) {
      if (typeof spec === 'string') assert.ok(backends[spec] !== undefined, `${at}: ${spec}`);
      else await assert.doesNotReject(new BackendRegistry().check(spec), at);
    }
  }
});
