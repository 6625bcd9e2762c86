import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { buildCreate } from '../package/create.js';
import { documents, prose, root } from '../support/documents.js';

/** Runs a program. @throws AssertionError with what it said if it fails. */
function run(folder: string, program: string, ...args: string[]): string {
  // A test runner within a test would tell that one what it finds, and write nothing.
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: folder, encoding: 'utf8', env });
  assert.equal(status, 0, `${program} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** A registry that has one package. @returns its address. */
async function registryOf(t: TestContext, name: string, file: string): Promise<string> {
  const tarball = readFileSync(file);
  const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
  const manifest = run(dirname(file), 'tar', 'xzOf', file, 'package/package.json');
  const server = createServer(({ url }, response) => {
    if (url === '/package.tgz') return response.end(tarball);
    if (url !== `/${name}`) return response.writeHead(404).end('{}');
    const described = JSON.parse(manifest) as { readonly version: string };
    const { version } = described;
    const dist = { tarball: `${address()}/package.tgz`, integrity };
    const versions = { [version]: { ...described, dist } };
    return response.end(JSON.stringify({ name, 'dist-tags': { latest: version }, versions }));
  });
  const address = (): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return address();
}

/** A project as `npm init -y` makes it, with the packed package in it and what that needs. */
function makeProject(folder: string): void {
  run(folder, 'npm', 'init', '-y');
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  for (const name of readdirSync(join(root, 'node_modules')))
    symlinkSync(join(root, 'node_modules', name), join(modules, name));
  const file = run(root, 'npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', folder).trim();
  mkdirSync(join(modules, 'virtiofs-kit'));
  run(folder, 'tar', 'xzf', file, '-C', join(modules, 'virtiofs-kit'), '--strip-components=1');
}

describe('in a project that has the packed package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-package-'));
  before(() => makeProject(folder));
  after(() => rmSync(folder, { recursive: true }));
  test("the README's backend is loaded and keeps the contract", () => {
    const source = /^\/\/ hello\.mjs\n[^]*?(?=^```)/m.exec(
      readFileSync(join(root, 'README.md'), 'utf8'),
    )?.[0];
    writeFileSync(join(folder, 'hello.mjs'), source!);
    const program = join(folder, 'node_modules/virtiofs-kit/dist/core/cli/main.js');
    const said = run(folder, process.execPath, program, 'check-backend', '--backend', './hello.mjs');
    assert.match(said, /^\d+ passed, 0 failed/m);
  });

  test("the sandbox is compiled with the compiler's own defaults, strict or not, for this Node", () => {
    const examples = join(folder, 'node_modules/virtiofs-kit/examples');
    writeFileSync(join(folder, 'sandbox.mts'), readFileSync(join(examples, 'sandbox/sandbox.ts'), 'utf8'));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    run(folder, process.execPath, tsc, '--init', '--types', 'node');
    run(folder, process.execPath, tsc, '-p', '.');
    const loose = ['--strict', 'false', '--exactOptionalPropertyTypes', 'false'];
    run(folder, process.execPath, tsc, '-p', '.', ...loose, '--noEmit');
    run(folder, process.execPath, '--check', 'sandbox.mjs');
  });

  for (const language of ['TypeScript', 'JavaScript']) {
    test(`a backend that init has written in ${language} is compiled, and passes its tests`, () => {
      const program = join(folder, 'node_modules/virtiofs-kit/dist/core/cli/main.js');
      const name = `my-${language.toLowerCase()}`;
      const flags = language === 'JavaScript' ? ['--javascript'] : [];
      run(folder, process.execPath, program, 'init', name, ...flags);
      const made = join(folder, name);
      if (language === 'TypeScript')
        run(made, process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', '.');
      const { exports } = JSON.parse(readFileSync(join(made, 'package.json'), 'utf8')) as {
        exports: string | { default: string };
      };
      const main = typeof exports === 'string' ? exports : exports.default;
      const tests = join(dirname(main), 'test/contract.test.js');
      const said = run(made, process.execPath, '--test', '--test-reporter', 'tap', tests);
      assert.match(said, /^# fail 0$/m);
      assert.match(said, /^# skipped [1-9]\d*$/m);
      const given = ['--backend', main, '--who', 'you'];
      assert.match(run(made, process.execPath, program, 'check-backend', ...given), /passed, 0 failed/);
      const again = spawnSync(process.execPath, [program, 'init', name], { cwd: folder, encoding: 'utf8' });
      assert.deepEqual(
        [again.status, again.stderr],
        [2, `virtiofs-kit: ${name}: is not empty; name a new directory\n`],
      );
    });
  }

  test('npm create writes the same package as init, from one file that needs nothing else', async (t) => {
    const created = join(folder, 'create');
    await buildCreate(created);
    const pack = ['pack', '--silent', '--pack-destination', folder];
    const file = join(folder, run(created, 'npm', ...pack).trim());
    assert.ok(statSync(file).size < 100_000);
    const registry = await registryOf(t, 'create-virtiofs-backend', file);
    const from = ['--yes', '--registry', registry, '--cache', join(folder, 'cache')];
    const words = ['create', 'virtiofs-backend', ...from, '--', 'created', '--javascript'];
    const { stdout } = await promisify(execFile)('npm', words, { cwd: folder });
    assert.match(stdout, /^created\/package\.json$/m);
    mkdirSync(join(folder, 'other'));
    const program = join(folder, 'node_modules/virtiofs-kit/dist/core/cli/main.js');
    run(join(folder, 'other'), process.execPath, program, 'init', 'created', '--javascript');
    run(folder, 'diff', '-r', 'created', 'other/created');
    const given = ['check-backend', '--backend', './created/index.js'];
    assert.match(run(folder, process.execPath, program, ...given), /passed, 0 failed/);
  });

  test('source maps bring the sources along, or these are there', () => {
    const packed = join(folder, 'node_modules/virtiofs-kit');
    for (const entry of readdirSync(join(packed, 'dist'), { recursive: true, encoding: 'utf8' })) {
      if (!entry.endsWith('.map')) continue;
      const file = join(packed, 'dist', entry);
      const map = JSON.parse(readFileSync(file, 'utf8')) as { sources: string[]; sourcesContent?: string[] };
      for (const [index, source] of map.sources.entries()) {
        const isThere = existsSync(join(dirname(file), source));
        assert.ok(isThere || map.sourcesContent?.[index] !== undefined, `${entry}: ${source}`);
      }
    }
  });
});

test('what a document of the package links to is in the package', () => {
  const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
  });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const packed = new Set(files.map(({ path }) => path));
  const missing: string[] = [];
  for (const [path, text] of documents) {
    if (!packed.has(path)) continue;
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s#]+)[^)]*\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const to = relative(root, join(root, dirname(path), target!));
      const isThere = statSync(join(root, to)).isDirectory()
        ? [...packed].some((file) => file.startsWith(`${to}/`))
        : packed.has(to);
      if (!isThere) missing.push(`${path}: ${target}`);
    }
  }
  assert.deepEqual(missing, []);
});
