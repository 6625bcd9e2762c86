import { strict as assert } from 'node:assert';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { UsageError } from '../../../../core/backend/index.js';
import {
  cacheSchema,
  configSchema,
  confineSchema,
  describeOptions,
  exportSchema,
  limitsSchema,
  rateSchema,
  logSchema,
  parseConfig,
  readConfig,
} from '../../../../core/plugins/index.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-config-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function file(text: string): string {
  const path = join(folder, 'config.yaml');
  writeFileSync(path, text);
  return path;
}

function mistake(text: string): string {
  try {
    readConfig(file(text));
    return 'none';
  } catch (error) {
    assert.ok(error instanceof UsageError);
    return error.message.replace(`${folder}/`, '');
  }
}

test('a configuration file is read with its defaults, and sockets are relative to it', () => {
  const config = readConfig(
    file(
      'backends:\n  a: { type: memfs, size: 1g }\nexports:\n  - { socket: a.sock, tag: one, backend: a }\n',
    ),
  );
  assert.deepEqual(config.backends, { a: { type: 'memfs', size: '1g' } });
  assert.deepEqual(config.log, { level: 'info', format: 'auto' });
  const [one] = config.exports;
  assert.equal(one?.socket, join(folder, 'a.sock'));
  assert.equal(one.requestQueues, 2);
  assert.equal(one.readOnly, false);
});

test('a mistake in a configuration file is named by its place', () => {
  assert.equal(mistake(''), 'config.yaml: exports is required');
  assert.equal(mistake('exports: []'), 'config.yaml: exports: needs at least one export');
  assert.equal(
    mistake('exports: [{ socket: a, tag: t, backned: memfs, backend: { type: memfs } }]'),
    'config.yaml: exports[0].backned: no such option; did you mean backend?',
  );
  assert.match(mistake('exports: [{ socket: a, backend: 5 }]'), /exports\[0\]\.backend 5: must be a name/);
  assert.match(
    mistake('exports: [{ tag: t, backend: x }]'),
    /exports\[0\]: needs a socket, an fd or an fdName/,
  );
  assert.match(
    mistake('exports: [{ socket: a, backend: x }, { socket: a, backend: x }]'),
    /another export's socket/,
  );
  assert.match(
    mistake(`exports: [{ socket: a, backend: x, tag: ${'é'.repeat(19)} }]`),
    /tag .*: 1 to 36 bytes/,
  );
  assert.match(mistake('exports: [\n'), /^--config config\.yaml: /);
  assert.throws(() => readConfig(join(folder, 'none.yaml')), /--config .*none\.yaml: no such file/);
});

test('the confinement of a file is checked', () => {
  const exports = 'exports: [{ socket: a, backend: x }]';
  const all = readConfig(file(exports)).confine;
  assert.deepEqual(all, {
    layers: ['mounts', 'network', 'landlock', 'capabilities', 'seccomp'],
    missingLayers: 'error',
    seccompAction: 'errno',
  });
  const some = readConfig(file(`confine: { layers: [], modcaps: +sys_admin }\n${exports}`)).confine;
  assert.deepEqual(some, {
    layers: [],
    missingLayers: 'error',
    seccompAction: 'errno',
    modcaps: '+sys_admin',
  });
  assert.match(
    mistake(`confine: { layers: [landlok] }\n${exports}`),
    /confine\.layers\[0\] landlok: .*landlock\?$/,
  );
  assert.match(
    mistake(`confine: { modcaps: sys_admin }\n${exports}`),
    /confine\.modcaps sys_admin: must be like/,
  );
});

test('aliases that would grow without bound are refused', () => {
  const lines = ['a: &a [x, x, x, x, x, x, x, x, x]'];
  for (let i = 0; i < 9; i++) {
    const before = String.fromCharCode(97 + i);
    const name = String.fromCharCode(98 + i);
    lines.push(`${name}: &${name} [${Array.from({ length: 9 }, () => `*${before}`).join(', ')}]`);
  }
  assert.match(mistake(lines.join('\n')), /alias/i);
});

test('a configuration without a file is checked too', () => {
  assert.throws(() => parseConfig({ exports: [{ fd: 3, socket: 'x', backend: 'a' }] }), UsageError);
});

test('every option is described, and documented', () => {
  const manual = readFileSync(
    new URL('docs/config.md', import.meta.resolve('virtiofs-kit/package.json')),
    'utf8',
  );
  for (const schema of [
    configSchema,
    exportSchema,
    cacheSchema,
    limitsSchema,
    rateSchema,
    logSchema,
    confineSchema,
  ]) {
    for (const { name, description } of describeOptions(schema)) {
      assert.notEqual(description, '', `${name} has no description`);
      assert.ok(manual.includes(`\`${name}\``), `docs/config.md does not have ${name}`);
      assert.ok(manual.includes(description), `docs/config.md says of ${name} other than: ${description}`);
    }
  }
});
