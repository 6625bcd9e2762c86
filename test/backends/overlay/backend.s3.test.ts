import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Backend, FsError, OpenFlags } from '../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { ReadingBackend } from '../../../backends/s3/reading-backend.js';
import { optionsSchema } from '../../../backends/s3/options.js';
import { TestBucket } from '../s3/support.js';
import { defaults, memoryLayer, Paths, root, share } from './support.js';

/* Local changes over a base image in a bucket. */

const big = 'x'.repeat(3 << 20);

function isError(code: string): (error: unknown) => boolean {
  return (error) => error instanceof FsError && error.code === code;
}

for (const kind of ['memfs', 'passthrough'] as const) {
  describe(`${kind} over a bucket`, () => {
    let directory: string;
    let bucket: TestBucket;
    let upper: Backend;
    let union: Paths;

    /** The bucket as a lower: guests and the daemon notice what others change at once. */
    const lower = (): Backend => {
      const cacheDir = mkdtempSync(join(directory, 'cache-'));
      const { name, endpoint } = bucket;
      const options = { bucket: name, endpoint, pathStyle: true, cacheDir, readOnly: true, prefix: 'image' };
      const fresh = { metadataTtl: 0, negativeTtl: 0, openTtl: 0 };
      return new ReadingBackend(optionsSchema.parse({ ...options, ...fresh })) as unknown as Backend;
    };
    const mount = (): Promise<Paths> =>
      Paths.mount(createOverlay({ ...defaults, upper, lowers: [lower()] }) as Backend);
    /** A memfs is lost with its daemon. The tests with passthrough show what outlives a restart. */
    const again = async (): Promise<Paths> => {
      if (kind === 'memfs') return union;
      await union.backend.unmount!();
      upper = share(join(directory, 'upper'));
      union = await mount();
      return union;
    };

    before(async () => {
      directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
      bucket = await TestBucket.create();
      for (const name of ['dir/a', 'dir/b', 'dir/sub/deep', 'kept/x', 'gone', 'replaced']) {
        await bucket.put(`image/${name}`, `in the bucket: ${name}`);
      }
      await bucket.put('image/big', big);
      mkdirSync(join(directory, 'upper'));
      upper = kind === 'memfs' ? await memoryLayer() : share(join(directory, 'upper'));
      union = await mount();
    });
    after(async () => {
      await union.backend.unmount!();
      rmSync(directory, { recursive: true });
    });

    it('shows what the bucket has', async () => {
      assert.deepEqual(await union.names(''), ['big', 'dir', 'gone', 'kept', 'replaced']);
      assert.deepEqual(await union.names('/dir'), ['a', 'b', 'sub']);
      assert.equal(await union.read('/dir/sub/deep'), 'in the bucket: dir/sub/deep');
    });

    it('says ESTALE where an object is replaced while its file is open, and shows the new one afterwards', async () => {
      await union.at('/replaced', async (node) => {
        const { file } = await union.backend.open!(node, OpenFlags.READ_ONLY, root);
        await bucket.put('image/replaced', 'another object by now');
        await assert.rejects(union.readFile(node, file), isError('ESTALE'));
        await union.backend.release!(node, file);
      });
      assert.equal(await union.read('/replaced'), 'another object by now');
    });

    it('takes changes of every kind, and keeps them', async () => {
      await union.write('/dir/a', 'IN', 0);
      await union.write('/dir/new', 'new');
      await union.unlink('/gone');
      await union.rename('/dir/b', '/kept/b');
      await union.rename('/dir/sub', '/moved');
      await union.at('/kept/x', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root));
      await union.at('/big', (node) => union.backend.setattr!(node, { mode: 0o600 }, undefined, root));
      const paths = await again();
      const { '/big': large, ...rest } = await paths.tree();
      assert.equal(large, big.slice(0, 1 << 20));
      assert.deepEqual(rest, {
        '/dir': 'directory',
        '/dir/a': 'IN the bucket: dir/a',
        '/dir/new': 'new',
        '/kept': 'directory',
        '/kept/b': 'in the bucket: dir/b',
        '/kept/x': 'in the bucket: kept/x',
        '/moved': 'directory',
        '/moved/deep': 'in the bucket: dir/sub/deep',
        '/replaced': 'another object by now',
      });
      assert.equal((await paths.stat('/kept/x')).mode, 0o100600);
      assert.equal((await paths.stat('/big')).size, big.length);
      await paths.write('/big', 'y', 0);
      assert.equal((await paths.read('/big')).slice(0, 3), 'yxx');
    });

    it('leaves the bucket as it was', async () => {
      assert.equal((await bucket.get('image/dir/a')).toString(), 'in the bucket: dir/a');
      assert.equal((await bucket.keys('image/')).length, 7);
    });
  });
}
