import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { OpenFlags } from '../../../../core/backend/index.js';
import { outcome, root, serve, type Share } from '../harness.js';

/** From here on a file is cut on the thread pool. */
const LARGE_BYTES = 64 * 1024 * 1024;

const HOW = {
  'reading only': OpenFlags.READ_ONLY,
  'writing only': OpenFlags.WRITE_ONLY,
  'reading and writing': OpenFlags.READ_WRITE,
};

/** A share with a large file of that name. @returns its path on the host, too. */
async function withLarge(t: TestContext, name: string): Promise<Share & { path: string }> {
  const share = serve(tmpdir());
  t.after(() => share.close());
  const path = join(share.directory, name);
  closeSync(openSync(path, 'w'));
  const { backend, node: parent } = share;
  const { node } = (await backend.lookup(parent, name, root))!;
  const { file } = await backend.open(node, OpenFlags.READ_WRITE, root);
  await backend.fallocate(node, file, 0, 0, LARGE_BYTES, root);
  await backend.release(node, file);
  backend.forget(node);
  return { ...share, path };
}

for (const [how, flags] of Object.entries(HOW)) {
  test(`a large file is empty after it was opened for ${how} with O_TRUNC`, async (t) => {
    const { backend, node: parent, path } = await withLarge(t, 'file');
    const { node } = (await backend.lookup(parent, 'file', root))!;
    const { file } = await backend.open(node, flags | OpenFlags.TRUNC, root);
    assert.equal(statSync(path).size, 0);
    await backend.release(node, file);
  });

  test(`a large file is empty after it was found and opened for ${how} with O_CREAT|O_TRUNC`, async (t) => {
    const { backend, node: parent, path } = await withLarge(t, 'file');
    const made = await backend.create(parent, 'file', 0o644, flags | OpenFlags.TRUNC, root);
    assert.equal(statSync(path).size, 0);
    assert.equal((await backend.getattr(made.node, undefined, root)).size, 0);
    await backend.release(made.node, made.file);
  });
}

test('a creation that is given up before it cuts a large file leaves nothing of what it has found', async (t) => {
  const { backend, node: parent } = await withLarge(t, 'file');
  const kept = (): number => backend.metrics!().find(({ name }) => name === 'node_descriptors')!.value;
  const flags = OpenFlags.READ_WRITE | OpenFlags.TRUNC;
  const givenUp = { ...root, signal: AbortSignal.abort() };
  const create = (): Promise<string> => outcome(() => backend.create(parent, 'file', 0o644, flags, givenUp));
  const before = kept();
  assert.equal(await create(), 'EINTR');
  assert.equal(kept(), before);
  // What somebody looks up meanwhile stays.
  const creating = create();
  const known = (await backend.lookup(parent, 'file', root))!;
  assert.equal(await creating, 'EINTR');
  assert.equal((await backend.getattr(known.node, undefined, root)).size, LARGE_BYTES);
});

test('a file that takes time to be freed is not freed by the call that removes its last name', async (t) => {
  const share = serve(tmpdir());
  t.after(() => share.close());
  const { backend, directory, node: parent } = share;
  const removed = (): number =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).startsWith(directory);
      } catch {
        return false;
      }
    }).length;
  const keptAfter = async (bytes: number): Promise<number> => {
    writeFileSync(join(directory, 'file'), new Uint8Array(bytes));
    const { node } = (await backend.lookup(parent, 'file', root))!;
    const before = removed();
    await backend.unlink(parent, 'file', root);
    const kept = removed() - before;
    backend.forget(node);
    return kept;
  };
  assert.equal(await keptAfter(2 ** 20), 0);
  assert.equal(await keptAfter(2 ** 22), 1);
});
