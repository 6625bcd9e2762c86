import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

/** What the program loads, in order, until it has executed itself anew to be confined. */
const FIRST = [
  'core/cli/begin',
  'core/cli/program',
  'core/cli/program-arguments',
  'core/cli/commands/serve',
  'core/cli/serving/start',
  'core/cli/virtiofsd/program',
  'backends/passthrough/index',
];
/** What only the program that serves needs. */
const SERVING = [
  // The names of opcodes are options.
  /^core\/(?!fuse\/wire\/abi\.js)(fuse|state|memory|virtqueue|vhost-user|queue-threads|monitoring|mount|control)\//,
  /^core\/plugins\/(daemon|index|logger|service-container)\.js$/,
  /^core\/system\/index\.js$/,
  /^backends\/passthrough\/(backend|share)\.js$/,
  /^backends\/memfs\/(backend|host-api\/.*|tree\/.*)\.js$/,
  /^(inversify|pino|memfs|@aws-sdk\/.*)$/,
];

/** What the program loads that is executed to serve. */
const SECOND = ['core/cli/begin', 'core/cli/serving/planned-start', 'backends/passthrough/backend'];
/** What reads, checks and wires what the operator has said. */
const READING = [
  /^core\/cli\/(program|flags|backend-options)\.js$/,
  /^core\/cli\/commands\//,
  /^core\/plugins\/(checked-exports|options\/(config-schema|option-descriptions|yaml))\.js$/,
  /^core\/monitoring\/status-json\.js$/,
  /^backends\/passthrough\/(index|options)\.js$/,
  /^(commander|inversify|yaml|@aws-sdk\/.*)$/,
];

/** Modules and packages that a compiled file imports before it runs, and those that they import. */
function staticImports(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = readFileSync(join(root, 'dist', file), 'utf8');
  for (const [, name] of text.matchAll(/^(?:import|export)\b[^;']*'([^']+)';$/gm)) {
    if (name!.startsWith('.')) staticImports(join(dirname(file), name!), seen);
    else seen.add(name!);
  }
  return seen;
}

function loadsNothingOf(unwanted: readonly RegExp[], file: string): void {
  const loaded = [...staticImports(`${file}.js`)];
  assert.ok(loaded.length > 3, loaded.join(' '));
  assert.deepEqual(
    loaded.filter((name) => unwanted.some((pattern) => pattern.test(name))),
    [],
  );
}

for (const file of FIRST) {
  test(`${file} loads nothing that only a confined daemon needs`, () => loadsNothingOf(SERVING, file));
}

for (const file of SECOND) {
  test(`${file} loads nothing that has done its work in the first program`, () =>
    loadsNothingOf(READING, file));
}

test("zod is imported as what it exports, not as one object: that has all languages' messages", () => {
  const sources = ['core', 'backends'].flatMap((folder) =>
    readdirSync(join(root, 'dist', folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.js'))
      .map((file) => join(folder, file)),
  );
  const asObject = sources.filter((file) =>
    /^import (?!\* as ).* from 'zod';$/m.test(readFileSync(join(root, 'dist', file), 'utf8')),
  );
  // What `init` writes for an author begins so.
  assert.deepEqual(asObject, []);
});
