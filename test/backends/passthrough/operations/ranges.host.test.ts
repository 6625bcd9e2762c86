import assert from 'node:assert/strict';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Entry } from '../../../../core/backend/index.js';
import type { Node } from '../../../../backends/passthrough/nodes/nodes.js';
import { host } from '../host-calls.js';
import { bufferOf, root, serve, serveDirectory, type Share } from '../harness.js';

const TMPFS_MAGIC = 0x01021994;
const READ_WRITE = 2;
const O_DSYNC = 0o10000;

/** Whether each way to make data durable was answered in the same turn, by its name. */
async function answeredAtOnce({ backend, node }: Share, name: string): Promise<Record<string, boolean>> {
  const found = (await backend.lookup(node, name, root)) as Entry<Node>;
  const { file } = await backend.open(found.node, READ_WRITE | O_DSYNC, root);
  const answers = {
    fsync: backend.fsync(found.node, file, false, root),
    fdatasync: backend.fsync(found.node, file, true, root),
    fsyncdir: backend.fsyncdir(node, false, root),
    'write to an O_DSYNC file': backend.write(found.node, file, bufferOf('lasts'), 0, 0, root),
  };
  const entries = Object.entries(answers).map(([key, answer]) => [key, !(answer instanceof Promise)]);
  for (const answer of Object.values(answers)) await answer;
  await backend.release(found.node, file);
  return Object.fromEntries(entries) as Record<string, boolean>;
}

function all(atOnce: boolean): Record<string, boolean> {
  return { fsync: atOnce, fdatasync: atOnce, fsyncdir: atOnce, 'write to an O_DSYNC file': atOnce };
}

for (const where of [tmpdir(), '/var/tmp', '/dev/shm']) {
  test(`what must last is waited for on the thread pool, but not in memory (${where})`, async (t) => {
    const share = serve(where);
    t.after(() => share.close());
    closeSync(openSync(join(share.directory, 'file'), 'w'));
    const isMemory = statfsSync(where).type === TMPFS_MAGIC;
    assert.deepEqual(await answeredAtOnce(share, 'file'), all(isMemory));
  });
}

/** A folder on a disk with a tmpfs below it; undefined where nothing can be mounted. */
function folderWithMemory(t: TestContext): string | undefined {
  const directory = mkdtempSync('/var/tmp/vfk-ranges-');
  const sub = join(directory, 'sub');
  mkdirSync(sub);
  const isMounted = host.mountTmpfs(sub) >= 0;
  t.after(() => {
    if (isMounted) host.unmount(sub);
    rmSync(directory, { recursive: true });
  });
  return isMounted ? directory : undefined;
}

test('each mount below a share counts for itself', async (t) => {
  const directory = folderWithMemory(t);
  if (directory === undefined) {
    t.skip('nothing can be mounted here');
    return;
  }
  closeSync(openSync(join(directory, 'outer'), 'w'));
  closeSync(openSync(join(directory, 'sub', 'inner'), 'w'));
  const share = serveDirectory(directory, { submounts: 'cross' });
  t.after(() => share.close());
  assert.deepEqual(await answeredAtOnce(share, 'outer'), all(false));
  const sub = (await share.backend.lookup(share.node, 'sub', root)) as Entry<Node>;
  assert.deepEqual(await answeredAtOnce({ ...share, node: sub.node }, 'inner'), all(true));
});
