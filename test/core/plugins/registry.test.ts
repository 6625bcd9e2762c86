import { strict as assert } from 'node:assert';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { z } from 'zod';
import { definePlugin, UsageError } from '../../../core/backend/index.js';
import { BackendRegistry, createLogger } from '../../../core/plugins/index.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-registry-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const log = createLogger({ level: 'silent', format: 'json' });
const registry = new BackendRegistry();

/** A plugin that brings no copy of this package: a plain object with a schema's methods. */
const plugin = `export default {
  name: 'tiny', description: 'nothing in it',
  options: { safeParse: (data) => ({ success: true, data }) },
  create: (options) => ({ options, mount: () => ({}), lookup: () => undefined, getattr: () => ({ mode: 0o40555 }) }),
};`;

const refused = (message: RegExp) => (error: unknown) =>
  error instanceof UsageError && message.test(error.message);

test('every built-in loads under its own name and describes each of its options', async () => {
  for (const name of registry.names) {
    const { options, ...found } = await registry.load(name);
    assert.equal(found.name, name);
    assert.notEqual(found.description, '');
    assert.equal(typeof options.safeParse, 'function');
  }
});

test("the help's words on commands are those of the built-ins that have commands", async () => {
  const plugins = await Promise.all(registry.names.map((name) => registry.load(name)));
  const having = plugins.filter(({ commands = [] }) => commands.length > 0).map(({ name }) => name);
  assert.deepEqual(
    registry.commandGroups.map(({ name }) => name),
    having,
  );
});

test('a module is found by its path, from the folder of the configuration', async () => {
  writeFileSync(join(folder, 'tiny.mjs'), plugin);
  assert.equal((await registry.load('./tiny.mjs', folder)).name, 'tiny');
  assert.equal((await registry.load(join(folder, 'tiny.mjs'))).name, 'tiny');
  const backend = await registry.create({ type: './tiny.mjs', a: 1 }, { log, folder });
  assert.deepEqual((backend as unknown as { options: unknown }).options, { a: 1 });
});

test('a backend that was prepared is made without another look at its module or options', async () => {
  const file = join(folder, 'once.mjs');
  writeFileSync(
    file,
    plugin.replace(
      'safeParse: (data) =>',
      'safeParse: (data) => (globalThis.looks = (globalThis.looks ?? 0) + 1) &&',
    ),
  );
  const once = new BackendRegistry();
  const looks = (): number => (globalThis as { looks?: number }).looks ?? 0;
  await once.prepare({ type: './once.mjs', a: 1 }, folder);
  assert.equal(looks(), 1);
  rmSync(file);
  const backend = await once.create({ type: './once.mjs', a: 1 }, { log, folder });
  assert.deepEqual((backend as unknown as { options: unknown }).options, { a: 1 });
  assert.equal(looks(), 1);
});

test('a mistake in a backend that is prepared is told when it is made', async () => {
  const given = { type: 'memfs', nothing: 1 };
  await registry.prepare(given);
  await assert.rejects(registry.create(given, { log }), refused(/nothing/));
});

test('a package is found by its name, from the folder of the configuration', async () => {
  const home = join(folder, 'node_modules', 'virtiofs-kit-tiny');
  mkdirSync(home, { recursive: true });
  writeFileSync(
    join(home, 'package.json'),
    '{ "name": "virtiofs-kit-tiny", "type": "module", "main": "index.js" }',
  );
  writeFileSync(join(home, 'index.js'), plugin);
  assert.equal((await registry.load('virtiofs-kit-tiny', folder)).name, 'tiny');
});

test('a name that is nothing is refused with the one that was probably meant', async () => {
  await assert.rejects(
    registry.load('memsf'),
    refused(/^backend memsf: no such backend.*did you mean memfs\?$/),
  );
  await assert.rejects(registry.load('./none.js', folder), refused(/^backend \.\/none\.js: no such file: /));
  await assert.rejects(registry.load('constructor'), refused(/^backend constructor: no such backend/));
});

test('a module that is no plugin, or fails to load, is refused by name', async () => {
  writeFileSync(join(folder, 'other.mjs'), 'export const x = 1;');
  writeFileSync(join(folder, 'broken.mjs'), 'export default {');
  await assert.rejects(registry.load('./other.mjs', folder), refused(/default export is no backend plugin/));
  await assert.rejects(
    registry.load('./broken.mjs', folder),
    refused(/^backend \.\/broken\.mjs: cannot be loaded: /),
  );
});

test('a registered plugin goes before a built-in of its name', async () => {
  const own = new BackendRegistry();
  const memfs = await own.load('memfs');
  own.register({ ...memfs, description: 'mine' });
  assert.equal((await own.load('memfs')).description, 'mine');
  assert.equal(own.names.filter((name) => name === 'memfs').length, 1);
});

test('wrong options are refused by the backend that they are for', async () => {
  await assert.rejects(
    registry.create({ type: 'memfs', sise: '1g' }, { log }),
    refused(/^backend memfs: sise: no such option; did you mean size\?$/),
  );
});

test('options whose names mean something else are refused when the plugin is loaded', async () => {
  const option = z.string().optional();
  const names = ['type', 'backend', 'config', 'help', 'version', 'logLevel', 'log-level', 'logFormat'];
  const refusals = [
    ...names.map((name) => [z.strictObject({ [name]: option }), name, name] as const),
    [z.strictObject({ settings: option.meta({ flag: 'config' }) }), 'settings', 'config'] as const,
  ];
  for (const [options, name, taken] of refusals) {
    const own = new BackendRegistry();
    own.register(
      definePlugin({
        name: 'own',
        description: 'has an option that it cannot have',
        options,
        create: () => assert.fail('it is not made'),
      }),
    );
    const message = refused(new RegExp(`^backend own: its option ${name} needs another name: ${taken} `));
    await assert.rejects(own.load('own'), message);
    await assert.rejects(own.create({ type: 'own' }, { log }), message);
  }
});
