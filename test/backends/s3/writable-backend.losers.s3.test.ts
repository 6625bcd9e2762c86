import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportAside, status } from '../../../backends/s3/service/administration.js';
import { OpenFlags } from '../../../core/backend/index.js';
import { context, denied, Mount, removeFolders, temporaryFolder, TestBucket } from './support.js';

const APPEND = OpenFlags.READ_WRITE | OpenFlags.APPEND;

describe('two writers of one file', () => {
  let bucket: TestBucket;
  before(async () => void (bucket = await TestBucket.create()));
  after(removeFolders);

  /** One mount appends and closes; another writer changes the object before it is uploaded. */
  async function lost(name: string, options: Record<string, unknown> = {}): Promise<Mount> {
    await bucket.put(name, 'first\n');
    const mount = await Mount.open(bucket, { writebackDelay: 3600, ...options });
    const file = await mount.openFile(name, APPEND);
    await mount.write(file, 0, 'ours\n');
    await bucket.put(name, 'theirs\n');
    await mount.release(file);
    return mount;
  }

  async function flushed(mount: Mount): Promise<void> {
    await mount.backend.mounted.files.writeback.flush().catch(() => undefined);
  }

  it('the one that lost after it had closed hears of it once, at its next open', async () => {
    const mount = await lost('closed');
    await flushed(mount);
    await assert.rejects(mount.openFile('closed', APPEND), denied('EIO'));
    assert.equal((await mount.content('closed')).toString(), 'theirs\n');
    const again = await mount.openFile('closed', APPEND);
    await mount.write(again, 0, 'later\n');
    await mount.fsync(again);
    await mount.release(again);
    assert.equal((await bucket.get('closed')).toString(), 'theirs\nlater\n');
    await mount.close();
  });

  it('who hears of it by fsync does not hear of it again', async () => {
    const mount = await Mount.open(bucket, { writebackDelay: 3600 });
    await mount.put('synced', 'first');
    const file = await mount.openFile('synced');
    await mount.write(file, 0, 'ours');
    await bucket.put('synced', 'theirs');
    await assert.rejects(mount.fsync(file), denied('ESTALE'));
    await mount.release(file);
    assert.equal((await mount.content('synced')).toString(), 'theirs');
    await mount.close();
  });

  it('close reports what is known, to who has written', async () => {
    await bucket.put('open', 'first');
    const mount = await Mount.open(bucket, { writebackDelay: 3600 });
    const file = await mount.openFile('open');
    const reader = await mount.openFile('open', 0);
    await mount.write(file, 0, 'ours');
    await bucket.put('open', 'theirs');
    await flushed(mount);
    await mount.backend.flush(reader.node, reader, context);
    await assert.rejects(async () => mount.backend.flush(file.node, file, context), denied('ESTALE'));
    await mount.release(file);
    await mount.release(reader);
    assert.equal((await mount.content('open')).toString(), 'theirs');
    await mount.close();
  });

  it('status, health and metrics count what is kept aside until it is exported', async () => {
    const mount = await lost('counted');
    await flushed(mount);
    const asides = async (): Promise<unknown[]> => {
      const { running } = await status(mount.cacheDir);
      const metric = mount.backend.metrics().find(({ name }) => name === 'asides');
      return [running?.['asides'], mount.backend.health().ok, metric?.value];
    };
    assert.deepEqual(await asides(), [1, false, 1]);
    await exportAside(mount.cacheDir, await temporaryFolder(), true);
    assert.deepEqual(await asides(), [0, true, 0]);
    await mount.close();
  });

  it('an earlier process’s loss is counted, and the log says so', async () => {
    const mount = await lost('earlier');
    await flushed(mount);
    await mount.close();
    const again = await Mount.open(bucket, { cacheDir: mount.cacheDir });
    assert.equal(again.backend.health().ok, false);
    assert.ok(again.log.lines.some((line) => line.includes('kept aside')));
    await again.close();
  });

  it('refuse: close waits for the bucket, and says it', async () => {
    await bucket.put('refused', 'first');
    const mount = await Mount.open(bucket, { writebackDelay: 3600, conflicts: 'refuse' });
    const file = await mount.openFile('refused');
    await mount.write(file, 0, 'ours');
    await bucket.put('refused', 'theirs');
    await assert.rejects(async () => mount.backend.flush(file.node, file, context), denied('ESTALE'));
    await mount.release(file);
    assert.equal((await mount.content('refused')).toString(), 'theirs');
    await mount.close();
  });

  it('last-wins: a file that is known whole replaces what the other wrote, another one is kept aside', async () => {
    const mount = await lost('part', { conflicts: 'last-wins' });
    await bucket.put('whole', 'first');
    const file = await mount.openFile('whole', OpenFlags.READ_WRITE | OpenFlags.TRUNC);
    await mount.write(file, 0, 'ours');
    await bucket.put('whole', 'theirs');
    await mount.fsync(file);
    await bucket.remove('whole');
    await mount.write(file, 4, ' and more');
    await mount.release(file);
    await mount.put('new', 'ours');
    await bucket.put('new', 'theirs');
    await mount.put('new', 'again');
    assert.equal((await bucket.get('new')).toString(), 'again');
    await sleep(0);
    await flushed(mount);
    assert.equal(mount.backend.mounted.services.metrics.conflicts, 2);
    assert.equal((await bucket.get('part')).toString(), 'theirs\n');
    await mount.close();
  });
});
