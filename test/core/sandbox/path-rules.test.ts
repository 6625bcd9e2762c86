import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostBuffer } from '../../../core/memory/index.js';
import { rulesOf, SECRETS } from '../../../core/sandbox/path-rules.js';
import { root } from '../../support/documents.js';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { HostFiles, overlay } from '../../../backends/overlay/index.js';

const silent = (): void => {};
const LOG = { debug: silent, info: silent, warn: silent, error: silent };

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
    upper: new MemfsVolume().backend,
    lowers: [lower.backend],
    upperPath: [],
    workPath: undefined,
    redirectDir: true,
    metacopy: true,
    xattrs: 'trusted',
    marks: 'auto',
  });
  await backend.mount({ log: LOG, createBuffer: hostBuffer });
  const files = new HostFiles(backend);
  const hidden = (
    await rulesOf(files, { hide: ['/home/me/own', '/no/such'], readOnly: [], hideSecrets: true })
  ).map(({ path, access }) => `${access} ${path}`);
  assert.deepEqual(hidden.sort(), [
    'hidden /no/such',
    'hidden /real/me/.aws',
    'hidden /real/me/.netrc',
    'hidden /real/me/own',
    'hidden /real/vault/aws',
    'hidden /root/.ssh',
  ]);
  assert.deepEqual(await rulesOf(files, { hide: [], readOnly: ['/home/me'], hideSecrets: false }), [
    { path: '/real/me', access: 'read-only' },
  ]);
});

test('the manual lists every secret that is hidden', () => {
  const manual = readFileSync(join(root, 'docs/sandboxes.md'), 'utf8');
  for (const name of SECRETS) assert.ok(manual.includes(`\`${name}\``), name);
  assert.equal(new Set(SECRETS).size, SECRETS.length);
});
