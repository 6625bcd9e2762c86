import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFileSync, cpSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import type { OpenFile } from '../../../backends/s3/write/files.js';
import { Proxy } from './proxy.js';
import { context, Mount, pattern, removeFolders, temporaryFolder, TestBucket } from './support.js';

/**
 * Runs `victim.ts`, which writes and prints what was acknowledged, and kills it after a number of
 * lines.
 */
async function killed(
  bucket: TestBucket,
  cacheDir: string,
  scenario: string,
  lines: number,
): Promise<string[]> {
  const script = fileURLToPath(new URL('./victim.js', import.meta.url));
  const child = spawn(process.execPath, [script, bucket.name, bucket.endpoint, cacheDir, scenario], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const said: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    said.push(line);
    if (said.length === lines) child.kill('SIGKILL');
  }
  await ended;
  return said.slice(0, lines);
}

async function journals(cacheDir: string): Promise<string[]> {
  return readdir(join(cacheDir, 'staging'));
}

describe('a process that is killed', () => {
  after(removeFolders);

  it('loses nothing that was written: the next start uploads what the journal has', async () => {
    const bucket = await TestBucket.create();
    const cacheDir = await temporaryFolder();
    const said = await killed(bucket, cacheDir, 'write', 40);
    assert.equal(said.length, 40);
    assert.deepEqual(await bucket.keys('file'), []);
    const mount = await Mount.open(bucket, { cacheDir });
    // Files of the journal are there at once, before the bucket has them.
    assert.ok((await mount.names('')).includes('file0'));
    await mount.backend.syncfs(context);
    for (const line of said) {
      const [name, seed, length] = line.split(' ');
      assert.ok(
        (await bucket.get(name!)).subarray(0, Number(length)).equals(pattern(Number(length), Number(seed))),
        line,
      );
    }
    await mount.close();
    assert.deepEqual(await journals(cacheDir), []);
  });

  it('leaves no parts behind, and the large file that it wrote is whole', async () => {
    const bucket = await TestBucket.create();
    const cacheDir = await temporaryFolder();
    const said = await killed(bucket, cacheDir, 'large', 18);
    assert.equal(said.length, 18);
    const uploads = async (): Promise<number> => {
      const answer = await bucket.client.send(new ListMultipartUploadsCommand({ Bucket: bucket.name }));
      return (answer.Uploads ?? []).length;
    };
    assert.equal(await uploads(), 1);
    const mount = await Mount.open(bucket, { cacheDir });
    await mount.backend.syncfs(context);
    const content = await bucket.get('large');
    for (let i = 0; i < 18; i++) {
      assert.ok(content.subarray(i * 2 ** 20, (i + 1) * 2 ** 20).equals(pattern(2 ** 20, i)), `MiB ${i}`);
    }
    assert.equal(await uploads(), 0);
    await mount.close();
  });

  it('leaves no order to delete what was made anew under the name of what it deleted', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket, { writebackDelay: 600 });
    const make = async (name: string, content: string): Promise<OpenFile> => {
      const file = await mount.create(name, 0o302);
      await mount.write(file, 0, content);
      return file;
    };
    // Both begin as empty objects, which look the same.
    await mount.release(await make('tmp', 'first'));
    await mount.backend.rename(mount.root, 'tmp', mount.root, 'saved', 0, context);
    await mount.release(await make('tmp', 'second'));
    const open = await make('open', 'third');
    await mount.backend.unlink(mount.root, 'open', context);
    await mount.release(await make('open', 'fourth'));
    const cacheDir = await temporaryFolder();
    cpSync(mount.cacheDir, cacheDir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    await mount.backend.mounted.abandon();
    const next = await Mount.open(bucket, { cacheDir });
    await next.backend.syncfs(context);
    assert.equal((await bucket.get('saved')).toString(), 'first');
    assert.equal((await bucket.get('tmp')).toString(), 'second');
    assert.equal((await bucket.get('open')).toString(), 'fourth');
    assert.equal(next.backend.mounted.services.metrics.snapshot()['conflicts'], 0);
    await next.close();
    await mount.release(open).catch(() => undefined);
  });

  for (const isUploaded of [false, true])
    it(`brings up a file whose name another has just left, ${isUploaded ? 'in the bucket' : 'in its journal'}`, async () => {
      const bucket = await TestBucket.create();
      const proxy = await Proxy.start(bucket.endpoint);
      const { endpoint } = proxy;
      const mount = await Mount.open(bucket, { endpoint, writebackDelay: 600, operationTimeout: 2 });
      const first = await mount.create('tmp', 0o302);
      await mount.write(first, 0, 'first');
      if (isUploaded) await mount.fsync(first);
      await mount.release(first);
      // What is at the old name stays there for now.
      proxy.fault = ({ operation }) => (operation.startsWith('Delete') ? 'slow-down' : undefined);
      await mount.backend.rename(mount.root, 'tmp', mount.root, 'saved', 0, context);
      const second = await mount.create('tmp');
      await mount.write(second, 0, 'second');
      const cacheDir = await temporaryFolder();
      cpSync(mount.cacheDir, cacheDir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
      await mount.backend.mounted.abandon();
      proxy.fault = ({ operation }) => (operation === 'HeadObject' ? 'delay' : undefined);
      const next = await Mount.open(bucket, { cacheDir, endpoint });
      await next.backend.syncfs(context);
      assert.deepEqual(
        next.log.lines.filter((line) => line.includes('kept aside')),
        [],
      );
      assert.equal((await bucket.get('saved')).toString(), 'first');
      assert.equal((await bucket.get('tmp')).toString(), 'second');
      await next.close();
      await mount.release(second).catch(() => undefined);
      await proxy.close();
    });

  it('while it rewrites a journal leaves one journal of the file', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket, { writebackDelay: 600 });
    const file = await mount.create('file');
    await mount.write(file, 0, 'content');
    const cacheDir = await temporaryFolder();
    cpSync(mount.cacheDir, cacheDir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    await mount.release(file);
    await mount.backend.mounted.abandon();
    const [name = ''] = await journals(cacheDir);
    const journal = join(cacheDir, 'staging', name);
    copyFileSync(journal, `${journal}.new`);
    copyFileSync(journal, journal.replace(/log$/, 'new.log'));
    const next = await Mount.open(bucket, { cacheDir, writebackDelay: 600 });
    assert.deepEqual(await journals(cacheDir), [name]);
    await next.backend.syncfs(context);
    assert.equal((await bucket.get('file')).toString(), 'content');
    assert.equal(next.backend.mounted.services.metrics.conflicts, 0);
    await next.close();
    assert.deepEqual(await journals(cacheDir), []);
  });

  it('has its cache folder to itself while it lives, and gives it up by dying', async () => {
    const bucket = await TestBucket.create();
    const mount = await Mount.open(bucket);
    await assert.rejects(Mount.open(bucket, { cacheDir: mount.cacheDir }), /another process has it mounted/);
    await mount.close();
    const again = await Mount.open(bucket, { cacheDir: mount.cacheDir });
    await again.close();
  });
});

describe('a rename that a crash cuts in two', () => {
  after(removeFolders);

  async function tree(bucket: TestBucket, endpoint: string): Promise<Mount> {
    const mount = await Mount.open(bucket, { endpoint, operationTimeout: 2, requestTimeout: 1 });
    await mount.backend.mkdir(mount.root, 'from', 0o755, context);
    for (let i = 0; i < 10; i++) await mount.put(`from/f${i}`, `content ${i}`);
    return mount;
  }

  /** Lets the first `count` copies and deletions pass. Later ones get no answer, or are refused. */
  function cutAfter(proxy: Proxy, count: number, fault: 'hang' | 'reset-before'): Promise<void> {
    let left = count;
    return new Promise((resolve) => {
      proxy.fault = (seen) => {
        if (seen.operation !== 'CopyObject' && seen.operation !== 'DeleteObjects') return undefined;
        if (left-- > 0) return undefined;
        resolve();
        return fault;
      };
    });
  }

  it('of a directory is finished at the next start, wherever it was cut', async () => {
    for (const count of [0, 4, 9, 11]) {
      const bucket = await TestBucket.create();
      const proxy = await Proxy.start(bucket.endpoint);
      const mount = await tree(bucket, proxy.endpoint);
      const cut = cutAfter(proxy, count, 'hang');
      const renaming = mount.backend
        .rename(mount.root, 'from', mount.root, 'to', 0, context)
        .catch(() => undefined);
      await cut;
      // The daemon dies here: its folder stays as it is now, and it reaches no server any more.
      const cacheDir = await temporaryFolder();
      cpSync(mount.cacheDir, cacheDir, { recursive: true, filter: (path) => !path.endsWith('.sock') });
      await proxy.close();
      const next = await Mount.open(bucket, { cacheDir });
      assert.deepEqual(await bucket.keys('from'), [], `cut after ${count}`);
      assert.equal((await bucket.keys('to/')).length, 11, `cut after ${count}`);
      for (let i = 0; i < 10; i++) assert.equal((await next.content(`to/f${i}`)).toString(), `content ${i}`);
      await next.close();
      await renaming;
      await mount.backend.mounted.abandon();
    }
  });

  it('of a directory deletes nothing that is made at the old place before the originals are gone', async () => {
    const bucket = await TestBucket.create();
    const proxy = await Proxy.start(bucket.endpoint);
    const mount = await tree(bucket, proxy.endpoint);
    proxy.fault = (seen) => (seen.operation === 'DeleteObjects' ? 'quota' : undefined);
    await mount.backend.rename(mount.root, 'from', mount.root, 'to', 0, context);
    assert.equal((await bucket.keys('from/')).length, 11);
    assert.deepEqual(await mount.names(''), ['to']);
    await assert.rejects(mount.backend.mkdir(mount.root, 'from', 0o755, context), /ETIMEDOUT/);
    proxy.fault = () => undefined;
    while ((await bucket.keys('from/')).length > 0) await new Promise((resolve) => setTimeout(resolve, 50));
    await mount.backend.mkdir(mount.root, 'from', 0o755, context);
    await mount.put('from/f1', 'anew');
    assert.equal((await mount.content('from/f1')).toString(), 'anew');
    assert.deepEqual(await mount.names('from'), ['f1']);
    assert.equal((await mount.names('to')).length, 10);
    await mount.close();
    await proxy.close();
  });

  it('of a directory is undone where it failed and the caller was told', async () => {
    const bucket = await TestBucket.create();
    const proxy = await Proxy.start(bucket.endpoint);
    const mount = await tree(bucket, proxy.endpoint);
    void cutAfter(proxy, 5, 'reset-before');
    await assert.rejects(mount.backend.rename(mount.root, 'from', mount.root, 'to', 0, context));
    await mount.backend.mounted.abandon();
    proxy.fault = () => undefined;
    const next = await Mount.open(bucket, { cacheDir: mount.cacheDir });
    assert.equal((await bucket.keys('from/')).length, 11);
    assert.deepEqual(await bucket.keys('to'), []);
    for (let i = 0; i < 10; i++) assert.equal((await next.content(`from/f${i}`)).toString(), `content ${i}`);
    await next.close();
    await proxy.close();
  });
});
