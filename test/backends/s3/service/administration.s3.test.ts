import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { CreateMultipartUploadCommand, ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import s3Plugin from '../../../../backends/s3/index.js';
import { exportAside, type FolderReport, status } from '../../../../backends/s3/service/administration.js';
import { askSocket } from '../../../../core/control/index.js';
import { runOffline } from '../../../support/commands.js';
import { keepingLog } from '../../../support/host-mount.js';
import { Mount, removeFolders, temporaryFolder, TestBucket } from '../support.js';

/** `virtiofs-kit s3 NAME --cache-dir …`: asks the mount at the socket that the command names. */
async function ask(asked: string, cacheDir: string): Promise<readonly string[] | undefined> {
  const command = s3Plugin.commands?.find(({ name }) => name === asked);
  assert.ok(command?.kind === 'online' && 'socket' in command);
  const { path } = command.socket(command.options.parse({ cacheDir }));
  return askSocket(path, { backend: 's3', command: asked, options: {} });
}

const flush = (cacheDir: string): Promise<readonly string[] | undefined> => ask('flush', cacheDir);

describe('what an operator asks of a cache folder', () => {
  after(removeFolders);

  it('status shows what is not uploaded yet, and flush uploads it', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket, { writebackDelay: 600 });
    const file = await mount.create('unsaved');
    await mount.write(file, 0, 'some data');
    await mount.release(file);
    const before = await status(mount.cacheDir);
    assert.equal(before.mounted, true);
    assert.deepEqual(
      before.journals.map(({ path, size, damaged }) => [path, size, damaged]),
      [['unsaved', 9, false]],
    );
    assert.deepEqual(before.running?.['dirtyFiles'], [{ path: 'unsaved', size: 9 }]);
    const [flushed = ''] = (await flush(mount.cacheDir)) ?? [];
    assert.deepEqual((JSON.parse(flushed) as { dirtyFiles: unknown }).dirtyFiles, []);
    assert.equal((await bucket.get('unsaved')).toString(), 'some data');
    assert.deepEqual((await status(mount.cacheDir)).journals, []);
    await mount.close();
    assert.equal(await flush(mount.cacheDir), undefined);
    await assert.rejects(status('/nonexistent'), /no cache folder/);
  });

  it('refresh has names and attributes asked for again that others have changed', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const mount = await Mount.open(bucket, { metadataTtl: 3600, negativeTtl: 3600, openTtl: 3600 });
    assert.deepEqual(await mount.names(''), ['file']);
    assert.equal(`${await mount.content('file')}`, 'old');
    assert.equal(await mount.node('new'), undefined);
    await bucket.put('file', 'newer');
    await bucket.put('new', 'new');
    assert.equal(`${await mount.content('file')}`, 'old');
    assert.ok((await ask('refresh', mount.cacheDir)) !== undefined);
    assert.equal(`${await mount.content('file')}`, 'newer');
    assert.deepEqual(await mount.names(''), ['file', 'new']);
    await mount.close();
  });

  it('sweep aborts uploads that were left below the prefix, and no young ones', async () => {
    const bucket = await TestBucket.create();
    const Bucket = bucket.name;
    const keys = ['p/a b', 'p/d/ü', 'other'];
    for (const Key of keys) await bucket.client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
    const left = async (): Promise<unknown[]> => {
      const { Uploads } = await bucket.client.send(new ListMultipartUploadsCommand({ Bucket }));
      return (Uploads ?? []).map(({ Key }) => Key);
    };
    const sweep = async (more: Record<string, unknown>): Promise<unknown[]> => {
      const options = { bucket: Bucket, endpoint: bucket.endpoint, prefix: 'p', ...more };
      const lines = await runOffline(s3Plugin, 'sweep', options, keepingLog());
      return (JSON.parse(lines.join('\n')) as { key: string }[]).map(({ key }) => key);
    };
    assert.deepEqual(await sweep({}), []);
    assert.deepEqual(await sweep({ olderThan: 0, dryRun: true }), ['p/a b', 'p/d/ü']);
    assert.equal((await left()).length, 3);
    assert.deepEqual(await sweep({ olderThan: 0 }), ['p/a b', 'p/d/ü']);
    assert.deepEqual(await left(), ['other']);
  });

  it('recover uploads what a dead process left', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket, { writebackDelay: 600, durability: 'local' });
    const file = await mount.create('left');
    await mount.write(file, 3, 'behind');
    await mount.fsync(file);
    // Ended without its uploads, as a crash does.
    await mount.backend.mounted.abandon();
    assert.equal((await status(mount.cacheDir)).journals.length, 1);
    const options = {
      bucket: bucket.name,
      endpoint: bucket.endpoint,
      pathStyle: true,
      cacheDir: mount.cacheDir,
    };
    const lines = await runOffline(s3Plugin, 'recover', options, keepingLog());
    const report = JSON.parse(lines.join('\n')) as FolderReport;
    assert.deepEqual([report.mounted, report.journals, report.intents], [false, [], []]);
    assert.equal((await bucket.get('left')).toString(), '\0\0\0behind');
  });

  it('data that lost a race is written as a file', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket);
    await mount.put('raced', 'first');
    const file = await mount.openFile('raced');
    await mount.write(file, 0, 'ours');
    await bucket.put('raced', 'theirs');
    await assert.rejects(mount.fsync(file));
    await mount.release(file);
    await mount.close();
    assert.deepEqual(
      (await status(mount.cacheDir)).aside.map(({ path, size }) => [path, size]),
      [['raced', 5]],
    );
    const [exported] = await exportAside(mount.cacheDir, await temporaryFolder(), true);
    assert.equal((await readFile(exported!.file)).toString(), 'ours\0');
    assert.deepEqual([exported!.path, exported!.missing], ['raced', 1]);
    assert.deepEqual((await status(mount.cacheDir)).aside, []);
    assert.equal((await bucket.get('raced')).toString(), 'theirs');
  });

  it('what is damaged in a journal is missing in its export, and the rest is there', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket, { writebackDelay: 600, durability: 'local' });
    const file = await mount.create('damaged');
    for (const [at, text] of ['first', 'other', 'third'].entries()) await mount.write(file, at * 5, text);
    await mount.fsync(file);
    await mount.backend.mounted.abandon();
    const staging = join(mount.cacheDir, 'staging');
    const log = join(
      staging,
      (await readdir(staging)).find((name) => name.endsWith('.log'))!,
    );
    const bytes = await readFile(log);
    bytes[bytes.indexOf('other')]! ^= 1;
    await writeFile(log, bytes);
    const again = await Mount.open(bucket, { cacheDir: mount.cacheDir });
    assert.equal(again.backend.health().ok, false);
    assert.equal(await again.node('damaged'), undefined);
    await again.close();
    const [exported] = await exportAside(mount.cacheDir, await temporaryFolder(), false);
    assert.equal((await readFile(exported!.file)).toString(), 'first\0\0\0\0\0third');
    assert.deepEqual([exported!.damaged, exported!.missing], [true, 5 + 32]);
    const header = bytes.subarray();
    header[0]! ^= 1;
    const [aside] = await readdir(join(mount.cacheDir, 'conflicts'));
    await writeFile(join(mount.cacheDir, 'conflicts', aside!), header);
    const [nothing] = await exportAside(mount.cacheDir, await temporaryFolder(), true);
    assert.deepEqual([nothing!.path, nothing!.damaged, nothing!.missing], [undefined, true, bytes.length]);
  });
});
