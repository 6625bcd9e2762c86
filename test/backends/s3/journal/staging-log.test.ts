import assert from 'node:assert/strict';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { RecordType, StagingLog } from '../../../../backends/s3/journal/staging-log.js';
import type { FoundRecord } from '../../../../backends/s3/journal/staging-log.js';
import { removeFolders, temporaryFolder } from '../support.js';

after(removeFolders);

describe('the staging log', () => {
  const payloads = [Buffer.from('first'), Buffer.alloc(0), Buffer.from('third record')];

  async function written(): Promise<string> {
    const path = join(await temporaryFolder(), 'x.log');
    const log = await StagingLog.create(path);
    await Promise.all(
      payloads.map((payload, i) => log.append({ type: RecordType.DATA, offset: i * 2 ** 33, payload })),
    );
    await log.close();
    return path;
  }

  async function scanned(path: string): Promise<{ found: FoundRecord[]; unreadable: number }> {
    const log = await StagingLog.open(path);
    const found: FoundRecord[] = [];
    const unreadable = await log.scan((record) => found.push(record), true);
    await log.close();
    return { found, unreadable };
  }

  it('gives its records back in order', async () => {
    const { found, unreadable } = await scanned(await written());
    assert.equal(unreadable, 0);
    assert.deepEqual(
      found.map(({ payload, offset }) => [payload.toString(), offset]),
      payloads.map((payload, i) => [payload.toString(), i * 2 ** 33]),
    );
  });

  it('drops what was cut off at the end, wherever it was cut', async () => {
    const path = await written();
    const bytes = await readFile(path);
    for (let length = 0; length < bytes.length; length += 3) {
      await writeFile(path, bytes.subarray(0, length));
      const { found, unreadable } = await scanned(path);
      assert.equal(unreadable, 0);
      const ends = [37, 69, 113].filter((end) => end <= length);
      assert.equal(found.length, ends.length, `${length}`);
    }
  });

  it('says so when a record in it is not what was written', async () => {
    const path = await written();
    const bytes = await readFile(path);
    for (const [at, readable] of [
      [0, 0],
      [5, 2],
      [9, 0],
      [20, 2],
      [33, 2],
    ] as const) {
      const changed = Buffer.from(bytes);
      changed[at]! ^= 0x10;
      await writeFile(path, changed);
      const { found, unreadable } = await scanned(path);
      // Where the header tells no more where the next record begins, none is looked for.
      assert.deepEqual(
        [found.length, unreadable],
        [readable, readable === 0 ? bytes.length : 37],
        `byte ${at}`,
      );
      assert.ok((await readFile(path)).equals(changed));
    }
  });

  it('takes zeros at the end for what a power cut leaves', async () => {
    const path = await written();
    const { length } = await readFile(path);
    await truncate(path, length + 5000);
    const { found, unreadable } = await scanned(path);
    assert.deepEqual([found.length, unreadable], [3, 0]);
  });
});
