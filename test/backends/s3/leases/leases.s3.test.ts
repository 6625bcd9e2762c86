import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { LockHold } from '../../../../core/backend/index.js';
import { LockType } from '../../../../core/state/index.js';
import type { LeasedBackend } from '../../../../backends/s3/leased-backend.js';
import { Proxy } from '../proxy.js';
import { context, denied, Mount, removeFolders, TestBucket } from '../support.js';
import { LockingMount } from './locking-mount.js';

after(removeFolders);

/** Two mounts of a bucket on hosts of their own, and a file. */
async function two(options: Record<string, unknown> = {}): Promise<readonly [LockingMount, LockingMount]> {
  const bucket = await TestBucket.create();
  await bucket.put('file', 'old');
  return [await LockingMount.open(bucket, options), await LockingMount.open(bucket, options)];
}

async function end(mounts: readonly LockingMount[]): Promise<void> {
  for (const mount of mounts) await mount.close();
}

describe('s3 with sharing: leases', () => {
  it('keeps locks of one host from another', async () => {
    const [a, b] = await two();
    await a.lock('file');
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    await assert.rejects(b.tryLock('file', LockType.READ), denied('EAGAIN'));
    assert.equal(await b.isTaken('file'), true);
    await a.unlock('file');
    assert.equal(await b.isTaken('file'), false);
    await b.tryLock('file');
    await assert.rejects(a.tryLock('file'), denied('EAGAIN'));
    await b.unlock('file');
    await end([a, b]);
  });

  it('shares shared locks, and lets an exclusive one become shared', async () => {
    const [a, b] = await two();
    await a.lock('file', LockType.READ);
    await b.lock('file', LockType.READ);
    await assert.rejects(b.tryLock('file', LockType.WRITE), denied('EAGAIN'));
    await a.unlock('file');
    await b.lock('file', LockType.WRITE);
    await assert.rejects(a.tryLock('file', LockType.READ), denied('EAGAIN'));
    await b.lock('file', LockType.READ);
    await a.lock('file', LockType.READ);
    await end([a, b]);
  });

  it('shows who gets a lock what was written under it before, also by files that are open', async () => {
    const [a, b] = await two({ writebackDelay: 600, maxDirtyAge: 600 });
    const mine = await a.mount.openFile('file');
    const theirs = await b.mount.openFile('file');
    assert.equal(`${await b.mount.read(theirs, 0, 10)}`, 'old');
    await a.lock('file');
    await a.mount.write(mine, 0, 'first');
    await a.unlock('file');
    await b.lock('file');
    assert.equal(`${await b.mount.read(theirs, 0, 10)}`, 'first');
    await b.mount.write(theirs, 5, ' second');
    await b.unlock('file');
    await a.lock('file');
    assert.equal(`${await a.mount.read(mine, 0, 20)}`, 'first second');
    await end([a, b]);
  });

  it('shows other files that were written under the lock, too', async () => {
    const [a, b] = await two({ writebackDelay: 600, maxDirtyAge: 600 });
    assert.deepEqual(await b.mount.names(''), ['file']);
    await a.lock('file');
    await a.mount.create('new').then(async (file) => {
      await a.mount.write(file, 0, 'content');
      await a.mount.release(file);
    });
    await a.unlock('file');
    await b.lock('file');
    assert.deepEqual(await b.mount.names(''), ['file', 'new']);
    assert.equal(`${await b.mount.content('new')}`, 'content');
    await end([a, b]);
  });

  it('uploads empty files and changes of attributes under a lock', async () => {
    const [a, b] = await two();
    await a.lock('file');
    const node = await a.mount.at('file');
    await a.mount.backend.setattr(node, { mode: 0o600, size: 0 }, undefined, context);
    await a.unlock('file');
    await b.lock('file');
    const seen = await b.mount.at('file');
    assert.equal(seen.posix.mode & 0o777, 0o600);
    assert.equal(`${await b.mount.content('file')}`, '');
    await b.mount.backend.setattr(seen, { mode: 0o640 }, undefined, context);
    await b.unlock('file');
    await a.lock('file');
    assert.equal((await a.mount.at('file')).posix.mode & 0o777, 0o640);
    await end([a, b]);
  });

  it('gives a lock that is waited for, and EINTR to who gives up', async () => {
    const [a, b] = await two();
    await a.lock('file');
    const waiting = await b.begin('file', LockType.WRITE, 1n);
    const givenUp = await b.begin('file', LockType.WRITE, 2n);
    const interrupted = assert.rejects(givenUp.over, denied('EINTR'));
    assert.equal(b.locks.interrupt(givenUp.unique), true);
    await interrupted;
    assert.equal(b.locks.counts.waiters, 1);
    await a.unlock('file');
    await waiting.over;
    assert.equal(b.locks.counts.waiters, 0);
    await end([a, b]);
  });
});

/** A mount behind a proxy of its own, which leaves conditions to the server. */
async function behind(
  bucket: TestBucket,
  options: Record<string, unknown> = {},
): Promise<{ mount: LockingMount; proxy: Proxy }> {
  const proxy = await Proxy.start(bucket.endpoint);
  proxy.raw = true;
  const mount = await LockingMount.open(TestBucket.open(bucket.name, proxy.endpoint), options);
  return { mount, proxy };
}

const LAZY = { writebackDelay: 600, maxDirtyAge: 600 };

/** A bucket whose `file` was locked and written to by a process that was killed then. */
async function killedWhileWriting(
  content: string,
  leaseTerm: number,
): Promise<{ bucket: TestBucket; cacheDir: string }> {
  const bucket = await TestBucket.create();
  await bucket.put('file', 'old');
  const killed = await LockingMount.open(bucket, { ...LAZY, leaseTerm });
  await killed.lock('file');
  const file = await killed.mount.openFile('file');
  await killed.mount.write(file, 0, content);
  await killed.kill();
  return { bucket, cacheDir: killed.mount.cacheDir };
}

describe('s3 with sharing: leases, under faults', () => {
  it('is not mounted where the server ignores conditions', async () => {
    const bucket = await TestBucket.create();
    const proxy = await Proxy.start(bucket.endpoint);
    proxy.fault = ({ conditional }) => (conditional ? 'ignore-conditions' : undefined);
    const behindProxy = TestBucket.open(bucket.name, proxy.endpoint);
    await assert.rejects(LockingMount.open(behindProxy), /ignores conditions of writes/);
    await proxy.close();
  });

  it('makes four requests for a lock that is given up again, and four for a small file', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const proxy = await Proxy.start(bucket.endpoint);
    const behindProxy = TestBucket.open(bucket.name, proxy.endpoint);
    const options = { ...LAZY, leaseTerm: 3600, preserve: 'headers', openTtl: 3600, metadataTtl: 7200 };
    const a = await LockingMount.open(behindProxy, options);
    const file = await a.mount.openFile('file');
    await a.lock('file');
    await a.unlock('file');
    const operations = async (work: () => Promise<void>): Promise<string[]> => {
      const before = proxy.seen.length;
      await work();
      const seen = proxy.seen.slice(before).map(({ operation }) => operation);
      // Ceph 16 does not tell what a completed upload made, and is asked for it.
      return seen.filter((operation) => operation !== 'HeadObject');
    };
    const idle = await operations(async () => {
      await a.lock('file');
      await a.unlock('file');
    });
    assert.deepEqual(idle, ['GetObject', 'PutObject', 'GetObject', 'PutObject']);
    await a.lock('file');
    await a.mount.write(file, 0, 'new');
    const written = await operations(() => a.unlock('file'));
    const upload = ['CreateMultipartUpload', 'UploadPart', 'PutObject', 'CompleteMultipartUpload'];
    assert.deepEqual(written, [...upload, 'GetObject', 'PutObject']);
    await end([a]);
    await proxy.close();
  });

  it('begins a lease anew whose record somebody has cleared away', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    // Each lock needs a renewal: it lasts for a second.
    const a = await LockingMount.open(bucket, { leaseTerm: 1 });
    const b = await LockingMount.open(bucket);
    await a.lock('file');
    await a.unlock('file');
    for (const key of await bucket.keys('.virtiofs-kit/leases/mounts/')) await bucket.remove(key);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await a.lock('file');
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    await end([a, b]);
  });

  it('gives the lock of a host that is cut off to another, and keeps aside what it wrote', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const { mount: a, proxy } = await behind(bucket, { ...LAZY, leaseTerm: 1 });
    const b = await LockingMount.open(bucket, LAZY);
    await a.lock('file');
    const file = await a.mount.openFile('file');
    await a.mount.write(file, 0, 'lost');
    proxy.fault = () => 'reset-before';
    await b.lock('file');
    assert.equal(`${await b.mount.content('file')}`, 'old');
    await b.mount.put('file', 'new');
    await b.unlock('file');
    proxy.fault = () => undefined;

    await assert.rejects(a.mount.fsync(file), denied('EIO'));
    await assert.rejects(a.mount.write(file, 0, 'again'), denied('EIO'));
    await assert.rejects(a.mount.create('other'), denied('EIO'));
    await assert.rejects(a.tryLock('file'), denied('EIO'));
    assert.equal(a.mount.backend.health().ok, false);
    assert.equal(a.mount.backend.mounted.files.losses.asides, 1);
    assert.equal(a.mount.log.lines.filter((line) => line.includes('the lease is lost')).length, 1);
    await assert.rejects(a.unlock('file'), denied('EIO'));

    await a.lock('file');
    const again = await a.mount.openFile('file');
    assert.equal(`${await a.mount.read(again, 0, 10)}`, 'new');
    await a.mount.write(again, 0, 'NEW');
    await a.unlock('file');
    assert.equal(`${await bucket.get('file')}`, 'NEW');
    await end([a, b]);
    await proxy.close();
  });

  it('lets nothing through that a lost host has sent before, however late it comes', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const { mount: a, proxy } = await behind(bucket, { ...LAZY, leaseTerm: 1 });
    const b = await LockingMount.open(bucket, LAZY);
    await a.lock('file');
    const file = await a.mount.openFile('file');
    await a.mount.write(file, 0, 'lost');
    proxy.fault = ({ operation }) => {
      if (operation === 'CompleteMultipartUpload') return 'late';
      const isSent = proxy.seen.some((seen) => seen.operation === 'CompleteMultipartUpload');
      return isSent ? 'reset-before' : undefined;
    };
    const synced = assert.rejects(a.mount.fsync(file), denied('EIO'));
    await b.lock('file');
    assert.equal(`${await b.mount.content('file')}`, 'old');
    await b.unlock('file');
    proxy.fault = () => undefined;
    await synced;
    await proxy.settled();
    assert.equal(`${await bucket.get('file')}`, 'old');
    await assert.rejects(a.unlock('file'), denied('EIO'));
    await end([a, b]);
    await proxy.close();
  });

  it('goes on with what a killed process has left, if nobody has taken its lock', async () => {
    const { bucket, cacheDir } = await killedWhileWriting('kept', 60);
    const next = await LockingMount.open(bucket, { ...LAZY, cacheDir });
    const b = await LockingMount.open(bucket, LAZY);
    await b.lock('file');
    assert.equal(`${await b.mount.content('file')}`, 'kept');
    await end([next, b]);
  });

  it('uploads what a killed process has left under its lease, while its guests go on', async () => {
    const { bucket, cacheDir } = await killedWhileWriting('kept', 3600);
    const next = await Mount.open(bucket, { sharing: 'leases', leaseTerm: 3600, cacheDir }, new Map());
    const { files, leases } = next.backend.mounted;
    await files.flush();
    assert.equal(`${await bucket.get('file')}`, 'kept');
    assert.equal(next.requests('CompleteMultipartUpload'), 1);
    const b = await LockingMount.open(bucket, LAZY);
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    // As the engine does where a guest has its lock still.
    await (next.backend as LeasedBackend).lock(await next.at('file'), LockHold.EXCLUSIVE, false, undefined);
    next.backend.recovery.recovered!();
    assert.equal(leases?.counts.held, 1);
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    await (next.backend as LeasedBackend).lock(await next.at('file'), LockHold.NONE, false, undefined);
    await b.tryLock('file');
    await next.close();
    await end([b]);
  });

  it('holds nothing for a request that was given up while it got its lock', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const { mount: a, proxy } = await behind(bucket, { ...LAZY, leaseTerm: 3600 });
    const b = await LockingMount.open(bucket, LAZY);
    await a.lock('file');
    await a.unlock('file');
    const given = new Promise<void>((resolve) => {
      proxy.fault = ({ operation, path }) => {
        if (operation !== 'PutObject' || !path.includes('/leases/files/')) return undefined;
        resolve();
        return 'late';
      };
    });
    const { unique, over } = await a.begin('file', LockType.WRITE, 1n);
    const interrupted = assert.rejects(over, denied('EINTR'));
    await given;
    a.locks.interrupt(unique);
    await interrupted;
    proxy.fault = () => undefined;
    await proxy.settled();
    await b.lock('file');
    await end([a, b]);
    await proxy.close();
  });

  it('keeps aside what a killed process has left, if somebody has taken its lock', async () => {
    const { bucket, cacheDir } = await killedWhileWriting('lost', 1);
    const b = await LockingMount.open(bucket, LAZY);
    await b.lock('file');
    const next = await LockingMount.open(bucket, { ...LAZY, cacheDir });
    assert.equal(next.mount.backend.mounted.files.losses.asides, 1);
    assert.equal(`${await b.mount.content('file')}`, 'old');
    await b.unlock('file');
    await next.lock('file');
    await end([next, b]);
  });

  it('gives a lock anew, and not what it is about to give up', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const { mount: a, proxy } = await behind(bucket, { ...LAZY, leaseTerm: 3600, operationTimeout: 10 });
    const b = await LockingMount.open(bucket, LAZY);
    await a.lock('file');
    // The lease's record can't be written: what gives the file up fails, and is tried again.
    const isRecord = (path: string): boolean => path.includes('/leases/files/');
    proxy.fault = ({ operation, path }) =>
      operation === 'PutObject' && isRecord(path) ? 'denied' : undefined;
    await assert.rejects(a.unlock('file'), denied('EIO'));
    await new Promise<void>((resolve) => {
      proxy.fault = ({ operation, path }) => {
        if (operation !== 'PutObject' || !isRecord(path)) return undefined;
        resolve();
        return 'late';
      };
    });
    proxy.fault = () => undefined;
    await a.lock('file');
    // By then what was late has come.
    await new Promise((resolve) => setTimeout(resolve, 3500));
    await proxy.settled();
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    await end([a, b]);
    await proxy.close();
  });

  it('keeps a lock whose writes can not be uploaded from others, until they are', async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'old');
    const options = { ...LAZY, leaseTerm: 60, operationTimeout: 1 };
    const { mount: a, proxy } = await behind(bucket, options);
    const b = await LockingMount.open(bucket, LAZY);
    await a.lock('file');
    const file = await a.mount.openFile('file');
    await a.mount.write(file, 0, 'late');
    proxy.fault = ({ operation }) => (operation === 'UploadPart' ? 'slow-down' : undefined);
    await assert.rejects(a.unlock('file'), denied('EIO'));
    await assert.rejects(b.tryLock('file'), denied('EAGAIN'));
    proxy.fault = () => undefined;
    await b.lock('file');
    assert.equal(`${await b.mount.content('file')}`, 'late');
    await end([a, b]);
    await proxy.close();
  });
});
