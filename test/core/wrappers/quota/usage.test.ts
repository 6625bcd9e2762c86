import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import { type Backend, nodeBytesOf, UsageError } from '../../../../core/backend/index.js';
import { hostBuffer } from '../../../../core/memory/host-buffer.js';
import { Usage } from '../../../../core/wrappers/quota/usage.js';
import { MemoryLog } from '../../../support/engine.js';

test('a tree with more to keep than the heap may have is not counted', async () => {
  const volume = new MemfsVolume();
  for (let i = 0; i < 100; i++) volume.mkdirSync(`/${i}`);
  volume.writeFileSync('/file', '');
  for (let i = 0; i < 20; i++) volume.linkSync('/file', `/${i}/link`);
  const backend = volume.backend as Backend;
  const root = (await backend.mount({ log: new MemoryLog(), createBuffer: hostBuffer })) as object;
  const nodeBytes = 64 + nodeBytesOf(backend);
  const limits = { bytes: Infinity, inodes: Infinity };
  await assert.rejects(new Usage(backend, limits, 99 * nodeBytes).count(root), UsageError);
  const usage = new Usage(backend, limits, 110 * nodeBytes);
  await usage.count(root);
  assert.equal(usage.statistics({ files: 1000, filesFree: 1000 }).files, 1000);
});
