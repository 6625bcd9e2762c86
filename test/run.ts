import { existsSync, readdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { kindOf, kinds, type Kind } from './runner/kinds.js';
import { runFiles, type Outcome } from './runner/run-files.js';

/*
 * Runs the built tests, each file in its own process: first those that share the machine well, then
 * the guests. Ends with one line, `N passed, N failed`, and exit code 1 if a test failed or none
 * ran.
 *
 *   node dist/test/run.js [--kind KIND]… [--name REGEX] [--jobs N] [WORD…]
 *
 *   WORD            only files whose path has one of the words
 *   --kind KIND     only tests that need this (runner/kinds.ts)
 *   --name REGEX    only tests whose name matches
 *   --minutes N     how long a file may take; default: 20
 *   --quick         random tests make a tenth of their runs, races last a tenth
 *   --together      the files of a room run in one process: faster, but they are less apart
 *   --seed, --path  repeats a failed random test, with the values that it printed
 */

/** How many files are listed that took longest. */
const SLOWEST = 30;

const built = fileURLToPath(new URL('.', import.meta.url));
const sources = join(dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json'))), 'test');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    jobs: { type: 'string', short: 'j' },
    kind: { type: 'string', multiple: true, default: [...kinds] },
    minutes: { type: 'string', default: '20' },
    name: { type: 'string' },
    quick: { type: 'boolean', default: false },
    seed: { type: 'string' },
    path: { type: 'string' },
    together: { type: 'boolean', default: false },
  },
});
const unknown = values.kind.find((kind) => !kinds.some((known) => known === kind));
if (unknown !== undefined) stop(`--kind ${unknown}: it is one of ${kinds.join(', ')}`);
// One more than processors, because tests wait for disks, servers and times, too.
const jobs = Number(values.jobs ?? Math.max(2, Math.min(4, cpus().length + 1)));
const minutes = Number(values.minutes);
if (!(minutes > 0)) stop(`--minutes ${values.minutes}: not a number above 0`);
const name = values.name === undefined ? undefined : new RegExp(values.name);
if (values.quick) process.env['VIRTIOFS_KIT_QUICK'] = '1';
if (values.seed !== undefined) process.env['VIRTIOFS_KIT_SEED'] = values.seed;
if (values.path !== undefined) process.env['VIRTIOFS_KIT_PATH'] = values.path;

// A path of a source or of a built file is as good as a part of it.
const words = positionals.map((word) => word.replace(/^(\.\/)?(dist\/)?test\//, '').replace(/\.[jt]s$/, ''));

// A test whose source is gone may still be there from an earlier build.
const files = readdirSync(built, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.js') && existsSync(join(sources, file.replace(/\.js$/, '.ts'))))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort();
const asked = files.filter((file) => values.kind.includes(kindOf(file)));
if (asked.length === 0) {
  const others = [...new Set(files.map((file) => kindOf(file)))];
  const of =
    others.length === 0 ? '' : `, but ${others.map((kind: Kind) => `test:${kind}`).join(' and ')} has`;
  stop(`no test file's path has ${positionals.join(' or ')}${of}`);
}

const guests = asked.filter((file) => kindOf(file) === 'guest');
const others = asked.filter((file) => !guests.includes(file));

const outcome: Outcome = { passed: 0, skipped: 0, failed: [], seconds: new Map() };
await runFiles(built, others, { jobs, name, minutes, isTogether: values.together }, outcome);
await runFiles(built, guests, { jobs: Math.min(jobs, 2), name, minutes }, outcome);

const { passed, skipped, failed, seconds } = outcome;
const slowest = [...seconds].sort(([, a], [, b]) => b - a).slice(0, SLOWEST);
for (const [file, took] of slowest) console.log(`${took.toFixed(0).padStart(4)} s ${file}`);
// Last, since who reads the end of a long log reads that.
for (const { test, why } of failed) console.log(`failed: ${test}\n${why.replaceAll(/^/gm, '  ')}`);
console.log(`${passed} passed, ${failed.length} failed${skipped === 0 ? '' : `, ${skipped} skipped`}`);
// What a file has left behind that took too long would keep this process.
process.exit(failed.length > 0 || passed === 0 ? 1 : 0);

function stop(why: string): never {
  console.error(why);
  process.exit(1);
}
