import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FileType } from '../../../../core/backend/index.js';
import { engine } from '../../../support/engine.js';
import { rejectsWith, RequestBytes, ROOT } from '../../../support/fuse-client.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

const GETATTR = 3;
const EINVAL = 22;

test('a time beyond the numbers that are exact is the last that is, as Linux cuts those beyond a file system', async () => {
  const { client } = (await engine(new TinyBackend())).guest();
  await client.init();
  const { entry } = await client.create(ROOT, 'file');
  const at = (seconds: number) =>
    client.setattr(entry.nodeid, {
      mtime: { seconds, nanoseconds: 5 },
      atime: { seconds: 7, nanoseconds: 0 },
    });
  // `touch -d 'Dec 31 23:59:59 UTC 2147483647'`, and the ends of 64 bits.
  for (const seconds of [67_768_036_191_676_800, 2 ** 63 - 1024])
    assert.equal((await at(seconds)).mtime, Number.MAX_SAFE_INTEGER);
  assert.equal((await at(-(2 ** 63))).mtime, Number.MIN_SAFE_INTEGER);
  assert.equal((await at(-62_167_219_200)).mtime, -62_167_219_200);
  const impossible = { seconds: 1, nanoseconds: 1_000_000_000 };
  await rejectsWith(client.setattr(entry.nodeid, { mtime: impossible }), EINVAL);
});

test('attributes are kept for the time given, but none of a regular file with a set-id bit', async () => {
  const backend = new TinyBackend();
  const { client } = (await engine(backend, { cache: { attributeTimeout: 2.5 } })).guest();
  await client.init();
  const { entry } = await client.create(ROOT, 'file');
  const held = async (mode: number): Promise<readonly [bigint, number]> => {
    await client.setattr(entry.nodeid, { mode });
    const body = await client.call(
      GETATTR,
      entry.nodeid,
      new RequestBytes().u32(0).u32(0).u64(0).bytes(),
      104,
    );
    const view = new DataView(body.buffer, body.byteOffset);
    assert.equal(view.getUint32(16 + 60, true), FileType.REGULAR | mode);
    return [view.getBigUint64(0, true), view.getUint32(8, true)];
  };
  assert.deepEqual(await held(0o755), [2n, 500_000_000]);
  for (const mode of [0o4755, 0o2755, 0o6711]) assert.deepEqual(await held(mode), [0n, 0]);
});
