import { spawn } from 'node:child_process';
import { existsSync, readdirSync, watch } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { affectedTests } from './runner/affected.js';
import { kindOf } from './runner/kinds.js';

/*
 * Rebuilds when a source is saved, and runs the unit tests that it may affect, until Ctrl-C.
 *
 *   node dist/test/watch.js [--name REGEX] [WORD…]
 *
 *   WORD            only tests whose path has one of the words, of whichever kind they are
 *   --name REGEX    only tests whose name matches
 */

const SETTLE_MS = 100;
const folders = ['core', 'backends', 'examples', 'test'];
const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { name: { type: 'string' } },
});
const words = positionals.map((word) => word.replace(/^(\.\/)?(dist\/)?test\//, '').replace(/\.[jt]s$/, ''));
const nameOption = values.name === undefined ? [] : ['--name', values.name];

const changed = new Set<string>();
let timer: NodeJS.Timeout | undefined;
let busy = false;

for (const folder of folders) {
  watch(join(root, folder), { recursive: true }, (_event, name) => {
    if (name === null || !name.endsWith('.ts')) return;
    changed.add(join(folder, name));
    schedule();
  });
}
console.log(`Watching ${folders.join(', ')}. Save a file, or end with Ctrl-C.`);

function schedule(): void {
  clearTimeout(timer);
  timer = setTimeout(() => void turn(), SETTLE_MS);
}

async function turn(): Promise<void> {
  if (busy) return;
  busy = true;
  const sources = [...changed];
  changed.clear();
  console.log(`\n${sources.join(', ')}`);
  if ((await execute('npx', ['tsc', '-p', '.'])) === 0) {
    const tests = affected(sources);
    if (tests.length === 0) console.log('No test that is asked for imports this.');
    // The tests named after these files come first, since they give an answer within a second.
    const named = tests.filter((test) => sources.some((source) => isNamedAfter(test, source)));
    const others = tests.filter((test) => !named.includes(test));
    if ((await run(named)) === 0) await run(others);
  } else {
    // Files that could not be built are tried again in the next turn.
    for (const source of sources) changed.add(source);
  }
  busy = false;
  if ([...changed].some((source) => !sources.includes(source))) schedule();
}

function isNamedAfter(test: string, source: string): boolean {
  const path = source.replace(/^test\//, '').replace(/(\.test)?\.ts$/, '');
  return test.startsWith(`${path}.`);
}

async function run(tests: readonly string[]): Promise<number> {
  return tests.length === 0
    ? 0
    : await execute(process.execPath, ['dist/test/run.js', ...nameOption, ...tests]);
}

/** The tests to run for these sources: paths below `test`. */
function affected(sources: readonly string[]): string[] {
  const tests = readdirSync(join(root, 'dist', 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js'))
    .filter((file) => existsSync(join(root, 'test', file.replace(/\.js$/, '.ts'))))
    .filter((file) =>
      words.length === 0 ? kindOf(file) === 'unit' : words.some((word) => file.includes(word)),
    )
    .map((file) => join(root, 'dist', 'test', file));
  const built = new Set(sources.map((source) => join(root, 'dist', source.replace(/\.ts$/, '.js'))));
  return affectedTests(tests, built).map((file) => relative(join(root, 'dist', 'test'), file));
}

/** Runs a program to its end, on this terminal. @returns its exit code. */
function execute(program: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    spawn(program, args, { cwd: root, stdio: 'inherit' })
      .once('error', reject)
      .once('exit', (code) => resolve(code ?? 1));
  });
}
