import assert from 'node:assert/strict';
import { test } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import { overlay } from '../../../backends/overlay/backend.js';
import passthrough from '../../../backends/passthrough/index.js';
import type { Backend } from '../../../core/backend/index.js';
import { defaults } from '../../backends/overlay/support.js';
import { reopenByHandle, withHandles } from '../../support/file-handles.js';
import { MountedExport, pluginEnvironment, temporaryDirectory } from '../../support/host-mount.js';

const environment = pluginEnvironment();
const shared = (sharedDir: string) =>
  passthrough.create(passthrough.options.parse({ sharedDir }), environment);

const kinds: readonly [string, (upper: string, lower: string) => Backend | Promise<Backend>][] = [
  ['memfs', () => memfs.create(memfs.options.parse({}), environment)],
  ['passthrough', (path) => shared(path)],
  [
    'an overlay of passthrough',
    async (upper, lower) =>
      overlay({
        ...defaults,
        xattrs: 'user',
        upper: await shared(upper),
        lowers: [await shared(lower)],
      }) as Backend,
  ],
];

for (const [kind, create] of kinds) {
  test(`files and directories of ${kind} are opened by handle after caches are dropped`, async () => {
    await using upper = await temporaryDirectory();
    await using lower = await temporaryDirectory();
    const settings = { limits: { remembered: 100 } };
    await using mounted = await MountedExport.open(await create(upper.path, lower.path), { settings });
    await reopenByHandle(mounted);
  });
}

test('a handle of passthrough leads to its file after a restart, once the file was looked up by name', async () => {
  await using host = await temporaryDirectory();
  const settings = { limits: { remembered: 100 } };
  const open = async () => MountedExport.open(await shared(host.path), { settings });
  let handle = '';
  {
    await using before = await open();
    [handle = ''] = await withHandles('echo content > file; file_handle save file', before);
  }
  await using after = await open();
  const again = `file_handle open . ${handle}`;
  assert.deepEqual(await withHandles(`${again}; stat file > /dev/null; ${again}`, after), [
    'Stale file handle',
    'content',
  ]);
});
