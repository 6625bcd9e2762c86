import assert from 'node:assert/strict';
import { appendFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { type Removal, RemovalLog } from '../../../../backends/s3/journal/removal-log.js';
import { removeFolders, temporaryFolder } from '../support.js';

after(removeFolders);

async function left(folder: string): Promise<Removal[]> {
  const found: Removal[] = [];
  for await (const { removals } of RemovalLog.left(folder)) found.push(...removals);
  return found;
}

it('notes that a crash or a power failure spoilt are none, and the others count', async () => {
  const folder = await temporaryFolder();
  const log = new RemovalLog(folder);
  log.add({ key: 'first\n', etag: '"a"' });
  const [name] = readdirSync(folder);
  appendFileSync(join(folder, name!), '\0\0\0\0\n{"key":1}\n{"key":"half"');
  assert.deepEqual(await left(folder), [{ key: 'first\n', etag: '"a"' }]);
  appendFileSync(join(folder, name!), '\n');
  log.add({ key: 'last' });
  assert.deepEqual(await left(folder), [{ key: 'first\n', etag: '"a"' }, { key: 'last' }]);
  await log.end();
  assert.deepEqual(await left(folder), []);
});

it('notes are made durable before they are left to the next start, or gone', async () => {
  const folder = await temporaryFolder();
  for (const isOver of [false, true]) {
    const log = new RemovalLog(folder);
    log.add({ key: 'key' });
    // More than there are threads: some wait while the notes are closed.
    const syncs = Array.from({ length: 64 }, () => log.sync());
    await Promise.all([...syncs, isOver ? log.end() : log.close()]);
  }
  assert.deepEqual(await left(folder), [{ key: 'key' }]);
});
