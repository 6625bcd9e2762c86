import { readdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { parseArgs } from 'node:util';

/*
 * Runs the built tests, each file in its own process: first those that share the machine well, then
 * the guests. Ends with one line, `N passed, N failed`, and exit code 1 if a test failed or none
 * ran.
 *
 *   node dist/test/run.js [--jobs N] [WORD…]     only files whose path has one of the words
 */

const MINUTES = 60_000;
const root = fileURLToPath(new URL('.', import.meta.url));

const { values, positionals: words } = parseArgs({
  allowPositionals: true,
  options: { jobs: { type: 'string', short: 'j' } },
});
const jobs = Number(values.jobs ?? Math.max(2, Math.min(4, cpus().length)));

const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.js'))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort();
const guests = files.filter((file) => file.startsWith(`guest${sep}`));
const others = files.filter((file) => !guests.includes(file));

let passed = 0;
let skipped = 0;
const failed: string[] = [];

await runFiles(others, jobs);
await runFiles(guests, Math.min(jobs, 2));

for (const name of failed) console.log(`failed: ${name}`);
console.log(`${passed} passed, ${failed.length} failed${skipped === 0 ? '' : `, ${skipped} skipped`}`);
process.exitCode = failed.length > 0 || passed === 0 ? 1 : 0;

/** Runs test files, at most `concurrency` at once, and counts their results. */
async function runFiles(names: readonly string[], concurrency: number): Promise<void> {
  if (names.length === 0) return;
  const paths = names.map((name) => join(root, name));
  const stream = run({ files: paths, concurrency, timeout: 20 * MINUTES });
  stream.on('test:pass', (event) => {
    if (event.details.type === 'suite') return;
    if (event.skip !== undefined || event.todo !== undefined) skipped += 1;
    else passed += 1;
  });
  stream.on('test:fail', (event) => {
    if (event.details.type === 'suite') return;
    failed.push(`${event.file === undefined ? '' : `${relative(root, event.file)}: `}${event.name}`);
  });
  const report = stream.compose(new spec());
  report.pipe(process.stdout, { end: false });
  await new Promise((resolve, reject) => report.once('end', resolve).once('error', reject));
}
