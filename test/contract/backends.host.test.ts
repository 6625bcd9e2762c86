import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'node:test';
import memfs from '../../backends/memfs/index.js';
import overlayPlugin from '../../backends/overlay/index.js';
import passthrough from '../../backends/passthrough/index.js';
import { type Awaitable, type Backend, type BackendSpec } from '../../core/backend/index.js';
import { type CaseResult, cases, checkBackend } from '../../core/contract/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import environment from '../../examples/environment.js';
import json from '../../examples/json-document.js';
import { keepingLog, temporaryDirectory } from '../support/host-mount.js';

const registry = new BackendRegistry();

function make(spec: BackendSpec): Promise<Backend> {
  return registry.create(spec, { log: keepingLog() });
}

/** Checks a backend. The cases that are skipped must be those for what it is known to lack. */
async function check(
  create: () => Awaitable<Backend>,
  lacks: readonly RegExp[],
): Promise<readonly CaseResult[]> {
  const log = keepingLog();
  const { results } = await checkBackend({ create, log });
  const wrong = results.filter(({ outcome }) => outcome === 'failed');
  assert.deepEqual(
    wrong.map(({ name, reason }) => `${name}: ${reason}`),
    [],
  );
  for (const { name, outcome, reason } of results) {
    if (outcome === 'skipped')
      assert.ok(
        lacks.some((lack) => lack.test(name)),
        `${name}: ${reason}`,
      );
  }
  assert.equal(results.length, cases.length);
  assert.deepEqual(log.lines, []);
  return results;
}

/** A tree with something of everything, for backends that change nothing. */
async function fill(path: string): Promise<void> {
  await mkdir(join(path, 'a/b/c'), { recursive: true });
  await writeFile(join(path, 'a/b/file'), Buffer.alloc(300_001, 'content '));
  await writeFile(join(path, 'empty'), '');
  await symlink('a/b', join(path, 'link'));
  for (let i = 0; i < 150; i++) await writeFile(join(path, 'a', `file-${i}`), `number ${i}`);
}

describe('the contract is kept by', () => {
  it('memfs', async () => {
    await check(() => memfs.create(memfs.options.parse({}), { log: keepingLog(), createBackend: make }), []);
  });

  it('passthrough, which leaves nothing behind', async () => {
    await using host = await temporaryDirectory();
    const options = passthrough.options.parse({ sharedDir: host.path });
    const create = () => passthrough.create(options, { log: keepingLog(), createBackend: make });
    // ext4 has room for extended attributes of one block for each file.
    await check(create, [/64 KiB/, /space is set aside/, /temporary file/]);
    assert.deepEqual(await readdir(host.path), []);
  });

  it('passthrough with threads for reads', async () => {
    await using host = await temporaryDirectory();
    const options = passthrough.options.parse({ sharedDir: host.path, ioThreads: 2 });
    const create = () => passthrough.create(options, { log: keepingLog(), createBackend: make });
    await check(create, [/64 KiB/, /space is set aside/, /temporary file/]);
    assert.deepEqual(await readdir(host.path), []);
  });

  it('passthrough of a tree that is there', async () => {
    await using host = await temporaryDirectory();
    await fill(host.path);
    const options = passthrough.options.parse({ sharedDir: host.path });
    const create = () => passthrough.create(options, { log: keepingLog(), createBackend: make });
    await check(create, [/64 KiB/, /space is set aside/, /temporary file/]);
    assert.deepEqual((await readdir(host.path)).sort(), ['a', 'empty', 'link']);
  });

  for (const [name, upper] of [
    ['memory', () => ({ type: 'memfs' })],
    ['a directory', (path: string) => ({ type: 'passthrough', sharedDir: path })],
  ] as const) {
    it(`an overlay of ${name} over a directory, which stays as it is`, async () => {
      await using lower = await temporaryDirectory();
      await using upperDirectory = await temporaryDirectory();
      await fill(lower.path);
      const before = await readdir(lower.path, { recursive: true });
      const lowers = [{ type: 'passthrough', sharedDir: lower.path }];
      const options = overlayPlugin.options.parse({ upper: upper(upperDirectory.path), lowers });
      const create = () => overlayPlugin.create(options, { log: keepingLog(), createBackend: make });
      await check(create, [/64 KiB/, /space is set aside/, /temporary file/, /after a restart/]);
      assert.deepEqual(await readdir(lower.path, { recursive: true }), before);
    });
  }

  it('an overlay without an upper layer', async () => {
    await using lower = await temporaryDirectory();
    await fill(lower.path);
    const options = overlayPlugin.options.parse({ lowers: [{ type: 'passthrough', sharedDir: lower.path }] });
    const results = await check(
      () => overlayPlugin.create(options, { log: keepingLog(), createBackend: make }),
      [/./],
    );
    assert.ok(results.filter(({ outcome }) => outcome === 'passed').length >= 15);
  });

  it('the JSON example', async () => {
    const file = fileURLToPath(import.meta.resolve('virtiofs-kit/package.json'));
    const options = json.options.parse({ file });
    const create = () => json.create(options, { log: keepingLog(), createBackend: make });
    const results = await check(create, [/./]);
    assert.ok(results.filter(({ outcome }) => outcome === 'passed').length >= 10);
  });

  it('the example of the guide, which shows it as it is', async () => {
    const options = environment.options.parse({ prefix: 'CONTRACT_' });
    process.env['CONTRACT_ONE'] = 'one';
    process.env['CONTRACT_LONG'] = 'x'.repeat(100_000);
    const create = () => environment.create(options, { log: keepingLog(), createBackend: make });
    const results = await check(create, [/./]);
    assert.ok(results.filter(({ outcome }) => outcome === 'passed').length >= 10);

    const folder = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
    const source = await readFile(join(folder, 'examples/environment.ts'), 'utf8');
    assert.ok(source.trimEnd().split('\n').length < 60);
    const guide = await readFile(join(folder, 'docs/writing-a-backend.md'), 'utf8');
    assert.ok(
      guide.includes(`\`\`\`ts\n${source.trimEnd()}\n\`\`\``),
      'docs/writing-a-backend.md shows another text',
    );
  });
});
