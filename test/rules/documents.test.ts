import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { documents, prose, root } from '../support/documents.js';
import { reports } from '../support/reports.js';

/** The anchors that GitHub gives a document's headings. */
function anchors(text: string): Set<string> {
  const headings = [...text.replace(/^```[^]*?^```/gm, '').matchAll(/^#+ +(.*)$/gm)];
  return new Set(
    headings.map(([, heading]) =>
      heading!
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

test('every relative link in a document leads to something', () => {
  const broken: string[] = [];
  for (const [path, text] of documents) {
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const [file, anchor] = target!.split('#');
      const to = file === '' ? path : join(dirname(path), file!);
      if (!existsSync(join(root, to))) broken.push(`${path}: ${target}`);
      else if (anchor !== undefined && !anchors(readFileSync(join(root, to), 'utf8')).has(anchor))
        broken.push(`${path}: ${target} has no such heading`);
    }
  }
  assert.deepEqual(broken, []);
});

test('every npm script, command and built program that a document names exists', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  const help = spawnSync(process.execPath, [join(root, 'dist/core/cli/main.js'), '--help'], {
    encoding: 'utf8',
  });
  const listed = /^Commands:\n([^]*?)^\S/m.exec(`${help.stdout}\n.`)![1]!;
  const commands = new Set([...listed.matchAll(/^ {2}([a-z0-9-]+)/gm)].map(([, name]) => name!));
  assert.ok(commands.size > 5, help.stdout);
  const unknown: string[] = [];
  for (const [path, text] of documents) {
    if (path === 'CHANGELOG.md') continue;
    for (const [, script] of text.matchAll(/\bnpm (?:run (?:-s )?)([a-z0-9:]+)/g))
      if (scripts[script!] === undefined) unknown.push(`${path}: npm run ${script}`);
    for (const [, command] of text.matchAll(/(?:^|[`(] ?)virtiofs-kit ([a-z][a-z0-9-]*)/gm))
      if (!commands.has(command!) && !existsSync(join(root, 'backends', command!)))
        unknown.push(`${path}: virtiofs-kit ${command}`);
    for (const [, built] of text.matchAll(/\bnode (?:-[^ ]+ )*dist\/([a-z0-9/.-]+)\.js/g))
      if (!existsSync(join(root, `${built}.ts`))) unknown.push(`${path}: dist/${built}.js`);
  }
  assert.deepEqual(unknown, []);
});

test('every source that a document names exists', () => {
  const sources = ['core', 'backends', 'examples', 'test'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map(
      (file) => `/${folder}/${file}`,
    ),
  );
  const unknown: string[] = [];
  for (const [path, text] of documents) {
    if (path === 'CHANGELOG.md' || path === 'CONTRIBUTING.md') continue;
    for (const [, name] of text.matchAll(/`([a-z0-9/.-]*[a-z0-9-]\.ts)`/g))
      if (!sources.some((source) => source.endsWith(`/${name}`))) unknown.push(`${path}: ${name}`);
    // Only whole paths: `core/x/`, and not the room `core/x`, which the imports' rule checks.
    for (const [, folder] of text.matchAll(/`((?:core|backends|test)\/[a-z0-9/-]*)\/?`/g))
      if (!existsSync(join(root, folder!)) && !existsSync(join(root, `${folder}.ts`)))
        unknown.push(`${path}: ${folder}`);
  }
  assert.deepEqual(unknown, []);
});

test('every test that docs/security.md names is there, and each budget has one', () => {
  const tests = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' });
  const text = readFileSync(join(root, 'docs/security.md'), 'utf8');
  const [, budgets] = /^## What a guest may take$([^]*?)^## /m.exec(text)!;
  const rows = [...budgets!.matchAll(/^\| (?!resource|---)(.*?) \|.*\| (.*?) \|$/gm)];
  assert.ok(rows.length > 10);
  assert.deepEqual(
    rows.filter(([, , named]) => !named!.startsWith('`')).map(([, resource]) => resource),
    [],
  );
  const places = ['', 'core/', 'backends/'];
  const named = [...text.matchAll(/`((?:hostile|guest|core|backends|passthrough|memfs)\/[a-z0-9/.-]+)`/g)];
  const missing = named.filter(
    ([, name]) =>
      !places.some((place) =>
        tests.some(
          (file) =>
            file === `${place}${name}` || (file.startsWith(`${place}${name}.`) && file.endsWith('.test.ts')),
        ),
      ),
  );
  assert.deepEqual(
    missing.map(([, name]) => name),
    [],
  );
});

test('every report that is a test is listed with its tracker in docs/reports.md', () => {
  const text = readFileSync(join(root, 'docs/reports.md'), 'utf8');
  const missing = reports.filter(({ of, name }) => !text.includes(`[${of}](`) || !text.includes(name));
  assert.deepEqual(missing, []);
});

test('what docs/troubleshooting.md quotes of the program is what it says', () => {
  const sources = ['core', 'backends'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => readFileSync(join(root, folder, file), 'utf8')),
  );
  const text = readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8');
  const symptoms = [...text.matchAll(/^\| (.*?) \|/gm)].map(([, first]) => first!);
  const quoted = symptoms.flatMap((symptom) => [...symptom.matchAll(/`([^`]* [^`]* [^`]*)`/g)]);
  assert.ok(quoted.length > 15, `${quoted.length} messages`);
  assert.deepEqual(
    quoted
      .map(([, message]) => message!)
      .filter((message) => !sources.some((source) => source.includes(message))),
    [],
  );
});
