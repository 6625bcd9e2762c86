import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PutBucketVersioningCommand } from '@aws-sdk/client-s3';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import type { Capabilities } from '../../../../backends/s3/client/bucket-types.js';
import type { Fault, Seen } from '../proxy.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, denied, Mount, pattern, TestBucket } from '../support.js';

/** `VIRTIOFS_KIT_FAULTS=all` tries each fault at each request, in minutes. */
const isWhole = process.env['VIRTIOFS_KIT_FAULTS'] === 'all';
const FAULTS = isWhole
  ? (['slow-down', 'internal-error', 'reset-after', 'duplicate'] as const)
  : (['slow-down'] as const);

/** More than a mount has requests. */
const REQUESTS_MAX = 60;

/** The request with a number, from 0, meets a fault. */
function nth(number: number, fault: Fault): (seen: Seen) => Fault | undefined {
  let count = 0;
  return () => (count++ === number ? fault : undefined);
}

describe('what is known of a server', () => {
  const server = proxiedBucket();

  const optionsOf = (options: Record<string, unknown>): Record<string, unknown> => ({
    endpoint: server.proxy.endpoint,
    requestTimeout: 2,
    ...options,
  });

  async function open(options: Record<string, unknown> = {}): Promise<Mount> {
    return Mount.open(server.bucket, optionsOf(options));
  }

  /** It has not written anything yet. */
  async function start(prefix: string, options: Record<string, unknown> = {}): Promise<Mount> {
    return Mount.start(server.bucket, optionsOf({ requestTimeout: 60, ...options, prefix }));
  }

  const capabilitiesOf = (mount: Mount): Capabilities | undefined =>
    mount.backend.mounted.services.bucket.capabilities;

  it('is not asked for by a mount that only reads', async () => {
    server.proxy.fault = () => undefined;
    const operations = (): string[] => server.proxy.seen.map(({ operation }) => operation).sort();
    for (const readOnly of [false, true]) {
      server.proxy.seen.length = 0;
      const mount = await start('found-out', { readOnly });
      assert.deepEqual(await mount.names(''), []);
      await mount.close();
      const trial = readOnly ? [] : ['DeleteObject', 'PutObject'];
      assert.deepEqual(operations(), [...trial, 'ListObjectsV2', 'ListObjectsV2'].sort());
      assert.equal(capabilitiesOf(mount), undefined);
    }
  });

  it('is found out once, before the first write', async () => {
    server.proxy.fault = () => undefined;
    const mount = await start('found-out');
    await mount.names('');
    server.proxy.seen.length = 0;
    const names = ['a', 'b', 'c', 'd'];
    await Promise.all(names.map((name) => mount.put(name, 'content')));
    const written = server.proxy.seen.filter(({ path }) => names.some((name) => path.endsWith(`/${name}`)));
    assert.equal(written.length, 4);
    assert.equal(server.proxy.seen.length - written.length, 13);
    assert.ok(server.proxy.seen.indexOf(written[0]!) >= 13);
    await mount.close();
  });

  it('is found out by a later write, where the server failed meanwhile', async () => {
    server.proxy.fault = () => undefined;
    const mount = await start('later', { operationTimeout: 2 });
    await mount.names('');
    server.proxy.fault = () => 'slow-down';
    const file = await mount.create('file');
    await mount.write(file, 0, 'content');
    await assert.rejects(mount.fsync(file), denied('ETIMEDOUT'));
    server.proxy.fault = () => undefined;
    // The pauses between its attempts may be longer than an operation of the guest.
    await mount.backend.mounted.services.bucket.learn!(Deadline.never);
    await mount.fsync(file);
    await mount.release(file);
    assert.equal((await server.bucket.get('later/file')).toString(), 'content');
    await mount.close();
  });

  it('that answers with the object where it is asked for grants and tags has none', async () => {
    server.proxy.fault = ({ operation }) =>
      operation === 'GetObjectAcl' || operation === 'GetObjectTagging' ? 'no-document' : undefined;
    const mount = await open({ prefix: 'no-documents' });
    await mount.put('file', 'first');
    await mount.backend.rename(mount.root, 'file', mount.root, 'moved', 0, context);
    const asked = mount.requests('GetObjectAcl') + mount.requests('GetObjectTagging');
    assert.equal(asked, 2);
    server.proxy.fault = () => undefined;
    await mount.close();
    assert.equal((await server.bucket.get('no-documents/moved')).toString(), 'first');
  });

  it('that knows no copies is no place to lose bytes: they go by way of this machine', async () => {
    server.proxy.fault = () => undefined;
    const mount = await open({ prefix: 'no-copies', partSize: '5m' });
    const large = pattern(11 * 2 ** 20);
    await mount.put('large', large);
    await mount.put('small', 'small');
    server.proxy.fault = ({ operation }) =>
      operation === 'CopyObject' || operation === 'UploadPartCopy' ? 'no-body' : undefined;
    const file = await mount.openFile('large');
    await mount.write(file, 6 * 2 ** 20, 'change');
    await mount.fsync(file);
    await mount.release(file);
    await mount.backend.rename(mount.root, 'small', mount.root, 'moved', 0, context);
    server.proxy.fault = () => undefined;
    await mount.close();
    large.write('change', 6 * 2 ** 20);
    assert.ok((await server.bucket.get('no-copies/large')).equals(large));
    assert.equal((await server.bucket.get('no-copies/moved')).toString(), 'small');
    assert.equal(mount.backend.mounted.services.metrics.conflicts, 0);
  });

  for (const raw of isWhole ? [false, true] : [true]) {
    for (const fault of FAULTS) {
      it(`is the same whichever request of the mount meets ${fault}${raw ? ', on Ceph 16' : ''}`, async () => {
        server.proxy.raw = raw;
        server.proxy.fault = () => undefined;
        const sound = await open();
        const expected = capabilitiesOf(sound);
        await sound.close();
        for (let number = 0; number < REQUESTS_MAX; number++) {
          const prefix = `${fault}-${raw}-${number}`;
          server.proxy.seen.length = 0;
          server.proxy.fault = nth(number, fault);
          const mount = await open({ prefix });
          const isOver = server.proxy.seen.length <= number;
          assert.deepEqual(capabilitiesOf(mount), expected, `request ${number}`);
          server.proxy.fault = () => undefined;
          await mount.put('file', 'first');
          await mount.put('file', 'second');
          assert.equal(mount.backend.mounted.services.metrics.conflicts, 0);
          await mount.close();
          if (isOver) break;
        }
        server.proxy.raw = false;
      });
    }
  }

  it('is found out again when versioning is switched on while mounted, and no write goes aside', async () => {
    const own = await TestBucket.create();
    const mount = await Mount.open(own);
    await mount.put('file', 'before');
    const { client, name } = own;
    const VersioningConfiguration = { Status: 'Enabled' } as const;
    await client.send(new PutBucketVersioningCommand({ Bucket: name, VersioningConfiguration }));
    for (let i = 0; i < 6; i++) {
      const file = await mount.openFile('file');
      await mount.write(file, 0, `after${i}`);
      await mount.fsync(file);
      await mount.release(file);
      assert.equal((await own.get('file')).toString(), `after${i}`);
      await mount.put(`new-${i}`, 'new');
      await mount.backend.rename(mount.root, `new-${i}`, mount.root, 'renamed', 0, context);
    }
    const { metrics } = mount.backend.mounted.services;
    assert.equal(metrics.conflicts, 0);
    assert.ok(metrics.contradictions > 0);
    assert.ok(mount.log.lines.some((line) => line.includes('found out again')));
    const theirs = await mount.openFile('file');
    await mount.write(theirs, 0, 'ours');
    await own.put('file', "another writer's");
    await assert.rejects(mount.fsync(theirs), denied('ESTALE'));
    await mount.release(theirs);
    await mount.close();
  });

  it('a server that begins to refuse all conditions makes no conflicts', async () => {
    server.proxy.fault = () => undefined;
    const mount = await open({ prefix: 'refuses', partSize: '5m', diskCache: 0, memoryCache: '4m' });
    const large = pattern(12 * 2 ** 20);
    await mount.put('file', 'first');
    await mount.put('large', large);
    server.proxy.fault = ({ conditional, headers }) =>
      conditional || headers['if-match'] !== undefined ? 'refuse-conditions' : undefined;
    await mount.put('file', 'second');
    await mount.put('new', 'new');
    await mount.backend.rename(mount.root, 'large', mount.root, 'moved', 0, context);
    const file = await mount.openFile('moved');
    await mount.write(file, 6_000_000, 'changed');
    large.write('changed', 6_000_000);
    await mount.fsync(file);
    await mount.release(file);
    assert.ok((await mount.content('moved')).equals(large));
    assert.equal((await server.bucket.get('refuses/file')).toString(), 'second');
    assert.equal(mount.backend.mounted.services.metrics.conflicts, 0);
    server.proxy.fault = () => undefined;
    await mount.close();
  });

  it('a doubled request makes nothing that the guest sees', async () => {
    server.proxy.fault = () => undefined;
    const mount = await open({ prefix: 'doubled', partSize: '5m' });
    server.proxy.fault = () => 'duplicate';
    await mount.backend.mkdir(mount.root, 'directory', 0o755, context);
    await mount.backend.symlink(mount.root, 'link', 'target', context);
    await mount.release(await mount.create('directory/exclusive', 0o302));
    await mount.put('directory/small', 'small');
    await mount.put('directory/small', 'again');
    await mount.put('large', pattern(12 * 2 ** 20));
    await mount.put('large', pattern(12 * 2 ** 20, 2));
    await mount.backend.rename(mount.root, 'directory', mount.root, 'moved', 0, context);
    await mount.backend.rename(mount.root, 'large', await mount.at('moved'), 'large', 0, context);
    assert.deepEqual(await mount.names('moved'), ['exclusive', 'large', 'small']);
    assert.equal(mount.backend.mounted.services.metrics.conflicts, 0);
    server.proxy.fault = () => undefined;
    assert.ok((await server.bucket.get('doubled/moved/large')).equals(pattern(12 * 2 ** 20, 2)));
    await mount.close();
  });

  it('what is no answer of S3 is none: a portal between us and the bucket makes no file and empties no directory', async () => {
    await server.bucket.put('portal/there', 'content');
    await server.bucket.put('portal/below/there', 'content');
    for (const isWarm of [false, true]) {
      server.proxy.fault = () => undefined;
      const mount = await open({ prefix: 'portal', operationTimeout: 1, metadataTtl: 0, diskCache: 0 });
      if (isWarm) {
        await mount.content('there');
        await mount.put('warm', 'x');
        await mount.names('');
      }
      const file = await mount.openFile('there', 0);
      const dirty = await mount.create('dirty');
      await mount.write(dirty, 0, 'not lost');
      server.proxy.fault = () => 'portal';
      const below = await mount
        .at('')
        .then((root) => mount.backend.readdir(root, context))
        .catch((e: unknown) => e);
      assert.ok(below instanceof Error, 'a listing');
      await assert.rejects(async () => mount.backend.lookup(mount.root, 'other', context));
      if (!isWarm) await assert.rejects(mount.read(file, 0, 10));
      await assert.rejects(mount.fsync(dirty));
      await assert.rejects(mount.backend.mkdir(mount.root, 'directory', 0o755, context));
      await assert.rejects(mount.backend.unlink(mount.root, 'there', context));
      server.proxy.fault = () => undefined;
      assert.equal((await mount.content('there')).toString(), 'content');
      await mount.fsync(dirty);
      assert.equal((await server.bucket.get('portal/dirty')).toString(), 'not lost');
      assert.deepEqual(
        (await mount.names('')).filter((name) => name !== 'warm'),
        ['below', 'dirty', 'there'],
      );
      await mount.release(file);
      await mount.release(dirty);
      await server.bucket.remove('portal/dirty');
      await mount.close();
    }
  });
});
