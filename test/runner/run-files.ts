import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, sep } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

export interface Outcome {
  passed: number;
  skipped: number;
  /** `file: name of the test`, and why, for each that failed. */
  readonly failed: Failure[];
  /** Seconds that the tests of each file took. */
  readonly seconds: Map<string, number>;
}

export interface Failure {
  readonly test: string;
  /** The error with its stack. */
  readonly why: string;
}

export interface Selection {
  /** How many files run at once, each in a process of its own. */
  readonly jobs: number;
  /** How long a file may take. */
  readonly minutes: number;
  /** Only tests whose name matches. */
  readonly name?: RegExp | undefined;
  /** Runs the files of a room in one process: faster, but they are less apart. */
  readonly isTogether?: boolean | undefined;
}

/** Runs test files below `root`, reports as they go on, and adds to the outcome. */
export async function runFiles(
  root: string,
  files: readonly string[],
  { jobs, minutes, name, isTogether = false }: Selection,
  outcome: Outcome,
): Promise<void> {
  if (files.length === 0) return;
  const paths = files.map((file) => join(root, file));
  const folder = isTogether ? mkdtempSync(join(tmpdir(), 'virtiofs-kit-together-')) : undefined;
  const stream = run({
    files: folder === undefined ? paths : rooms(root, paths, folder),
    concurrency: jobs,
    timeout: minutes * 60_000,
    ...(name !== undefined && { testNamePatterns: [name] }),
  });
  const count = ({ file, name, nesting, details }: TestEnd): void => {
    if (nesting > 0 || file === undefined) return;
    const path = relative(root, file);
    // The file is the one that declares the test, which several test files may share.
    const what = path.endsWith('.test.js') ? path : `${path}: ${name}`;
    outcome.seconds.set(what, (outcome.seconds.get(what) ?? 0) + details.duration_ms / 1000);
  };
  stream.on('test:pass', (event) => {
    count(event);
    if (event.details.type === 'suite') return;
    if (event.skip === undefined && event.todo === undefined) outcome.passed += 1;
    else if (!isFiltered(event.skip)) outcome.skipped += 1;
  });
  stream.on('test:fail', (event) => {
    count(event);
    if (event.details.type === 'suite') return;
    const file = event.file === undefined ? '' : `${relative(root, event.file)}: `;
    outcome.failed.push({ test: `${file}${event.name}`, why: inspect(event.details.error.cause) });
  });
  const report = new spec();
  report.pipe(process.stdout, { end: false });
  await pipeline(stream, withoutFiltered(), report);
  if (folder !== undefined) rmSync(folder, { recursive: true });
}

/**
 * Makes a file for each room in `folder`, which imports the tests of the room. Those with most to
 * do, by the length of their tests, come first, so that the last ones are short.
 */
function rooms(root: string, paths: readonly string[], folder: string): string[] {
  const rooms = new Map<string, { text: string; bytes: number }>();
  for (const path of paths) {
    const name = relative(root, path).split(sep).slice(0, -1).slice(0, 2).join('-');
    const room = rooms.get(name) ?? { text: '', bytes: 0 };
    room.text += `import '${pathToFileURL(path).href}';\n`;
    room.bytes += statSync(path).size;
    rooms.set(name, room);
  }
  return [...rooms]
    .sort(([, a], [, b]) => b.bytes - a.bytes)
    .map(([name, { text }]) => {
      const file = join(folder, `${name}.mjs`);
      writeFileSync(file, text);
      return file;
    });
}

/** What the events of a test's end have in common. */
interface TestEnd {
  readonly file?: string;
  readonly name: string;
  readonly nesting: number;
  readonly details: { readonly duration_ms: number };
}

interface TestEvent {
  readonly type: string;
  readonly data: { readonly name?: string; readonly skip?: string | boolean };
}

/** Node reports tests that were left out by their name as skipped. */
function isFiltered(skip: unknown): boolean {
  return typeof skip === 'string' && skip.includes('does not match');
}

/** Leaves out what was left out by its name: the start of such a test, and its end. */
function withoutFiltered(): Transform {
  let start: TestEvent | undefined;
  return new Transform({
    objectMode: true,
    transform(event: TestEvent, _encoding, done) {
      const filtered = isFiltered(event.data?.skip);
      if (start !== undefined && !(filtered && start.data.name === event.data.name)) this.push(start);
      start = event.type === 'test:start' ? event : undefined;
      if (!filtered && start === undefined) this.push(event);
      done();
    },
    flush(done) {
      done(null, start);
    },
  });
}
