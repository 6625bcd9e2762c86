import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BackendRegistry, parseConfig } from '../../core/plugins/index.js';
import { parseYaml } from '../../core/plugins/options/yaml.js';
import { documents, root } from '../support/documents.js';

/*
 * The code of documents: programs compile against the package's own types, configuration files are
 * taken as they are, and commands have the flags that they are given.
 * (docs/backend-reference.md is made of the types.)
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

/** A command line of the program, as a document has it. */
interface Call {
  readonly at: string;
  /** What is asked for its help: the command, and the backend whose flags it has. */
  readonly words: readonly string[];
  readonly flags: readonly string[];
}

const COMMAND = /(?:^|[;&|(`] ?|sudo |npx )virtiofs-kit ((?:[a-z][^\n`]*))/gm;
const FLAG = /^--[a-z][a-z-]*/;

/** The calls in the code of a text: in blocks, between backticks, and in comments of examples. */
function callsIn(path: string, text: string): readonly Call[] {
  const code = text.replaceAll(/\\\n[ *]*/g, ' ').replaceAll(/^ \* +(?=virtiofs-kit )/gm, '');
  return [...code.matchAll(COMMAND)].flatMap(([, call]) => {
    // What follows is a program in a guest, a comment, or another command.
    const given = call!
      .split(/ -- | #|[|;&>()]| (?:--backend )?…/)[0]!
      .trim()
      .split(/\s+/);
    const words = given.slice(0, given.findIndex((word) => !/^[a-z][a-z0-9-]*$/.test(word)) >>> 0);
    const module = given[given.indexOf('--backend') + 1] ?? '';
    const example = join(root, 'dist/examples', module);
    const backend = /^[a-z0-9]+$/.test(module) ? module : existsSync(example) ? example : undefined;
    const hasBackend = given.includes('--backend');
    // A module that only the document has is tried where the document's program is.
    if (hasBackend && backend === undefined) return [];
    const flags = given.flatMap((word) => FLAG.exec(word)?.[0] ?? []);
    return [{ at: `${path}: ${call}`, words: hasBackend ? [...words, '--backend', backend!] : words, flags }];
  });
}

test('every flag of a command in a document or example is one that the command has', () => {
  const examples = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.ts'));
  const sources = examples.map((name): [string, string] => [
    join('examples', name),
    readFileSync(join(root, 'examples', name), 'utf8'),
  ]);
  const texts = [...documents].filter(([path]) => path !== 'CHANGELOG.md' && !path.includes('decisions'));
  const calls = [...texts, ...sources].flatMap(([path, text]) => callsIn(path, text));
  assert.ok(calls.length >= 60, `${calls.length} calls`);
  const kinds = [...new Map(calls.map(({ words }) => [words.join(' '), words])).values()];
  const helper = join(root, 'dist/test/rules/help-of.js');
  const { stdout, stderr } = spawnSync(process.execPath, [helper, JSON.stringify(kinds)], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const helps = stdout.split('\0').slice(1);
  assert.equal(helps.length, kinds.length, stderr);
  const helpOf = new Map(kinds.map((words, i) => [words.join(' '), helps[i]!]));
  const unknown = calls.flatMap(({ at, words, flags }) =>
    flags
      .filter((flag) => !new RegExp(`(^|[ ,])${flag}\\b(?!-)`, 'm').test(helpOf.get(words.join(' '))!))
      .map((flag) => `${at}: ${flag}`),
  );
  assert.deepEqual(unknown, []);
});
