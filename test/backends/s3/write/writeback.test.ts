import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import s3 from '../../../../backends/s3/index.js';
import type { DiskSpace } from '../../../../backends/s3/journal/disk-space.js';
import type { S3Options } from '../../../../backends/s3/options.js';
import type { FileNode } from '../../../../backends/s3/tree/nodes.js';
import { Writeback } from '../../../../backends/s3/write/writeback.js';
import { MemoryLog } from '../../../support/engine.js';

test('a file is uploaded by one upload at a time, however often it is due, and once more afterwards', async () => {
  const options = s3.options!.parse({ bucket: 'bucket', writebackDelay: 0 }) as S3Options;
  const ends: (() => void)[] = [];
  const commit = (): Promise<void> => new Promise((resolve) => ends.push(resolve));
  const space = { atStart: 2 ** 30, takes: () => true } as unknown as DiskSpace;
  const free = (): Promise<boolean> => Promise.resolve(false);
  const writeback = new Writeback(options, new MemoryLog(), space, commit, free);
  const node = { staged: { log: { size: 1 } } } as unknown as FileNode;
  writeback.schedule(node, 0);
  while (ends.length === 0) await sleep(5);
  for (let i = 0; i < 10; i++) {
    writeback.schedule(node, 0);
    await sleep(5);
  }
  assert.equal(ends.length, 1);
  ends[0]!();
  while (ends.length === 1) await sleep(5);
  await sleep(20);
  assert.equal(ends.length, 2);
  writeback.clean(node);
  ends[1]!();
  await sleep(20);
  assert.equal(ends.length, 2);
  writeback.close();
});
