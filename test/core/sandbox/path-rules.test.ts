import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { rulesOf, SECRETS } from '../../../core/sandbox/path-rules.js';
import { root } from '../../support/documents.js';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { HostFiles, overlay } from '../../../backends/overlay/index.js';
import { defaults, host } from '../../backends/overlay/support.js';

const NOTHING = { hide: [], readOnly: [], deny: [], redirect: {}, hideSecrets: false };

test('secrets are hidden where they are, of each home that there is, and by what links lead to', async () => {
  const lower = MemfsVolume.fromJSON({
    '/etc/passwd': 'root:x:0:0::/root:/bin/sh\nme:x:1:1::/home/me:/bin/sh\nno:x:2:2::/nowhere:/bin/sh\n',
    '/root/.ssh/id_rsa': 'key',
    '/root/.bashrc': 'no secret',
    '/real/me/.netrc': 'password',
    '/real/vault/aws/credentials': 'key',
  });
  lower.symlinkSync('/real', '/home');
  lower.symlinkSync('/real/vault/aws', '/real/me/.aws');
  const backend = overlay({
    ...defaults,
    upper: new MemfsVolume().backend,
    lowers: [lower.backend],
  });
  await backend.mount(host);
  const files = new HostFiles(backend);
  const hidden = (
    await rulesOf(files, { ...NOTHING, hide: ['/home/me/own', '/no/such'], hideSecrets: true })
  ).map(({ path, access }) => `${access} ${path}`);
  assert.deepEqual(hidden.sort(), [
    'hidden /no/such',
    'hidden /real/me/.aws',
    'hidden /real/me/.netrc',
    'hidden /real/me/own',
    'hidden /real/vault/aws',
    'hidden /root/.ssh',
  ]);
  assert.deepEqual(
    await rulesOf(files, {
      ...NOTHING,
      readOnly: ['/home/me'],
    }),
    [{ path: '/real/me', access: 'read-only' }],
  );
  const redirect = { '/home/me/.netrc': '/home/me/.aws/credentials' };
  assert.deepEqual(await rulesOf(files, { ...NOTHING, deny: ['/home/me/.aws'], redirect }), [
    { path: '/real/me/.aws', access: 'denied' },
    { path: '/real/vault/aws', access: 'denied' },
    { path: '/real/me/.netrc', access: 'redirected', to: '/real/vault/aws/credentials' },
  ]);
  await assert.rejects(
    rulesOf(files, { ...NOTHING, redirect: { '/a': '/none' } }),
    /redirect \/a: there is no \/none in the sandbox/,
  );
});

test('the manual lists every secret that is hidden', () => {
  const manual = readFileSync(join(root, 'docs/sandboxes.md'), 'utf8');
  for (const name of SECRETS) assert.ok(manual.includes(`\`${name}\``), name);
  assert.equal(new Set(SECRETS).size, SECRETS.length);
});
