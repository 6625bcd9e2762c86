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

  async function scanned(path: string): Promise<{ found: FoundRecord[]; whole: boolean }> {
    const log = await StagingLog.open(path);
    const found: FoundRecord[] = [];
    const whole = await log.scan((record) => found.push(record), true);
    await log.close();
    return { found, whole };
  }

  it('gives its records back in order', async () => {
    const { found, whole } = await scanned(await written());
    assert.equal(whole, true);
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
      const { found, whole } = await scanned(path);
      assert.equal(whole, true);
      const ends = [37, 69, 113].filter((end) => end <= length);
      assert.equal(found.length, ends.length, `${length}`);
    }
  });

  it('says so when a record in it is not what was written', async () => {
    const path = await written();
    const bytes = await readFile(path);
    for (const at of [0, 5, 9, 20, 33]) {
      const changed = Buffer.from(bytes);
      changed[at]! ^= 0x10;
      await writeFile(path, changed);
      const { found, whole } = await scanned(path);
      // A length that points beyond the end looks as if the log was cut short. Every other change
      // is reported.
      if (at !== 9) assert.equal(whole, false, `byte ${at}`);
      assert.equal(found.length, 0);
    }
  });

  it('takes zeros at the end for what a power cut leaves', async () => {
    const path = await written();
    const { length } = await readFile(path);
    await truncate(path, length + 5000);
    const { found, whole } = await scanned(path);
    assert.deepEqual([found.length, whole], [3, true]);
  });
});
