import assert from 'node:assert/strict';
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { Staged } from '../../../../backends/s3/journal/staged.js';
import { fresh, now } from '../../../../backends/s3/objects/attributes.js';
import { FileType } from '../../../../core/backend/index.js';
import { removeFolders, temporaryFolder } from '../support.js';

after(removeFolders);

const SIZE = 40_000_000;

async function content(staged: Staged): Promise<Buffer> {
  return staged.using(async () => {
    const bytes = Buffer.alloc(staged.size);
    for (const { source, start, end, position } of staged.pieces(0, staged.size))
      if (source === 'log') await staged.log.read(position, bytes.subarray(start, end));
    return bytes;
  });
}

it('what is changed and read while a journal is rewritten is right, then and after a crash', async () => {
  const folder = await temporaryFolder();
  const log = join(folder, 'x.log');
  const posix = fresh(FileType.REGULAR | 0o644, 0, 0, now());
  const staged = await Staged.begin(log, 'x', 'file', posix, undefined, 'absent');
  const expected = Buffer.alloc(SIZE, 'a');
  await staged.write(0, expected);
  await staged.write(5, Buffer.from('before'));
  expected.write('before', 5);
  const compaction = { isUnderWay: true };
  const compacting = staged.compact('file', `${log}.new`).finally(() => (compaction.isUnderWay = false));
  const reads: Promise<void>[] = [];
  const writing = (async () => {
    // Always the same bytes, so that the extents stay the same but for where the log has them.
    for (let i = 10; i < 12 || (compaction.isUnderWay && i < 90); i++) {
      const change = `edit${i}`;
      const read = content(staged);
      reads.push(
        read.then((bytes) => assert.match(bytes.toString('latin1', 0, 12), /^aaaaa(before|edit\d\d)a$/)),
      );
      await staged.write(5, Buffer.from(change));
      expected.write(change, 5);
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const size = staged.resize(SIZE - 10);
  await Promise.all([compacting, writing, size]);
  assert.ok(!compaction.isUnderWay);
  await Promise.all(reads);
  assert.ok((await content(staged)).equals(expected.subarray(0, SIZE - 10)));
  await staged.close();
  const again = await Staged.recover(log, 'x');
  assert.ok((await content(again!.staged)).equals(expected.subarray(0, SIZE - 10)));
  await again!.staged.close();
});

it('a journal that could not be rewritten is as it was, and can be rewritten later', async () => {
  const folder = await temporaryFolder();
  const log = join(folder, 'x.log');
  const posix = fresh(FileType.REGULAR | 0o644, 0, 0, now());
  const staged = await Staged.begin(log, 'x', 'file', posix, undefined, 'absent');
  await staged.write(0, Buffer.from('content'));
  const bytes = await readFile(log);
  await truncate(log, bytes.length - 1);
  await assert.rejects(staged.compact('file', `${log}.new`), /ends before/);
  assert.deepEqual(await readdir(folder), ['x.log']);
  await writeFile(log, bytes, { flag: 'r+' });
  await staged.write(7, Buffer.from(' and more'));
  await staged.compact('file', `${log}.new`);
  assert.equal((await content(staged)).toString(), 'content and more');
  await staged.close();
  assert.deepEqual(await readdir(folder), ['x.log']);
});
