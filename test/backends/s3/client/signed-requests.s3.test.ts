import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { FsError, OpenFlags } from '../../../../core/backend/index.js';
import { context, Mount, pattern, removeFolders, TestBucket } from '../support.js';

/** A header's value has bytes. Node shows each as one character. */
const utf8 = (text: string): string => Buffer.from(text).toString('latin1');

describe('what others wrote with bytes beyond ASCII', () => {
  let bucket: TestBucket;
  let mount: Mount;
  before(async () => {
    bucket = await TestBucket.create();
    mount = await Mount.open(bucket, { partSize: '5m', metadataTtl: 0, negativeTtl: 0 });
  });
  after(async () => {
    await mount.close();
    await removeFolders();
  });

  const noted = async (key: string): Promise<[unknown, unknown]> => {
    const { headers } = await bucket.plain('HEAD', key);
    return [headers['x-amz-meta-note'], headers['content-disposition']];
  };

  for (const [what, note] of [
    ['UTF-8', utf8('café')],
    ['UTF-8 that ends in a byte which is a space elsewhere', utf8('voilà')],
    ['UTF-8 with three bytes a character', utf8('日本 €')],
    ['Latin-1', 'caf\u00e9'],
    ['a control character of Latin-1', 'a\u0085b'],
    ['spaces in a row', 'a  b \u00e9'],
  ] as const) {
    it(`${what} goes back as it came, whatever is done with the object`, async () => {
      const key = `note ${what}`;
      const path = encodeURIComponent(key);
      const file = `attachment; filename="${utf8('à')}"`;
      const put = async (at: string): Promise<void> => {
        const headers = { 'x-amz-meta-note': note, 'content-disposition': file };
        assert.equal((await bucket.plain('PUT', at, headers, Buffer.from('data'))).status, 200);
      };
      await put(path);
      const before = await noted(path);
      assert.equal(before[1], file);

      const node = await mount.at(key);
      await mount.backend.setattr(node, { mode: 0o600 }, undefined, context);
      await mount.backend.syncfs(context);
      assert.equal((await bucket.metadata(key))['mode'], String(0o100600));
      assert.deepEqual(await noted(path), before);

      const appended = await mount.openFile(key, OpenFlags.WRITE_ONLY | OpenFlags.APPEND);
      await mount.write(appended, 4, ' and more');
      await mount.fsync(appended);
      assert.equal((await bucket.get(key)).toString(), 'data and more');
      assert.deepEqual(await noted(path), before);
      await mount.write(appended, 13, pattern(11 * 2 ** 20));
      await mount.fsync(appended);
      await mount.release(appended);
      assert.equal((await bucket.get(key)).length, 13 + 11 * 2 ** 20);
      assert.deepEqual(await noted(path), before);

      await mount.backend.rename(mount.root, key, mount.root, `${key}, moved`, 0, context);
      assert.equal(await mount.node(key), undefined);
      assert.deepEqual(await noted(encodeURIComponent(`${key}, moved`)), before);

      await put(`${path}-directory/file`);
      await put(`${path}-directory/`);
      await mount.backend.setattr(await mount.at(`${key}-directory`), { mode: 0o700 }, undefined, context);
      assert.deepEqual(await noted(`${path}-directory/`), before);
      await mount.backend.rename(mount.root, `${key}-directory`, mount.root, `${key}-moved`, 0, context);
      assert.deepEqual(await noted(`${path}-moved/file`), before);
      assert.deepEqual(await noted(`${path}-moved/`), before);
    });
  }

  it('metadata that leaves no room for ours stays whole, and holds up no data', async () => {
    const Metadata = { theirs: 'x'.repeat(2_030) };
    await bucket.put('full', 'data', { Metadata });
    const file = await mount.openFile('full', OpenFlags.WRITE_ONLY | OpenFlags.APPEND);
    await mount.write(file, 4, ' and more');
    await mount.fsync(file);
    await mount.release(file);
    assert.equal((await bucket.get('full')).toString(), 'data and more');
    assert.deepEqual(await bucket.metadata('full'), { ...Metadata, mode: '33188' });
    await assert.rejects(
      mount.backend.setattr(await mount.at('full'), { uid: 4 }, undefined, context),
      (error) => error instanceof FsError && error.code === 'ENOSPC',
    );
  });
});
