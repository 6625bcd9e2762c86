import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import { WRITE_MARK } from '../../../../backends/s3/objects/attributes.js';
import type { Part } from '../../../../backends/s3/client/bucket-types.js';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { S3Failure } from '../../../../backends/s3/client/failure.js';
import { into } from '../../../../backends/s3/client/http.js';
import { OpenFlags } from '../../../../core/backend/index.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, Mount, pattern, temporaryFolder, denied } from '../support.js';

const EXCLUSIVE = OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.READ_WRITE;

describe('servers that differ', () => {
  const server = proxiedBucket();

  for (const [fault, does] of [
    ['not-implemented', 'refuses'],
    ['ignore-conditions', 'ignores'],
  ] as const) {
    it(`one that ${does} conditions is found out, and what is there is looked at before each write`, async () => {
      server.proxy.fault = ({ conditional }) => (conditional ? fault : undefined);
      const mount = await Mount.open(server.bucket, {
        endpoint: server.proxy.endpoint,
        prefix: fault,
        partSize: '5m',
        writebackDelay: 600,
      });
      assert.match(
        mount.log.lines.join(),
        /ignores some conditions.*\["create","replace","complete","copySource"\]/,
      );
      await mount.put('file', 'first');
      await mount.put('file', 'second');
      assert.equal((await server.bucket.get(`${fault}/file`)).toString(), 'second');
      await assert.rejects(mount.create('file', EXCLUSIVE), denied('EEXIST'));
      for (const [name, bytes] of [
        ['file', pattern(100)],
        ['large', pattern(12 * 2 ** 20)],
      ] as const) {
        const file = await mount.create(name);
        await mount.write(file, 0, bytes);
        await server.bucket.put(`${fault}/${name}`, "another writer's");
        await assert.rejects(mount.fsync(file), denied('ESTALE'));
        await mount.release(file);
        assert.equal((await server.bucket.get(`${fault}/${name}`)).toString(), "another writer's");
      }
      await mount.backend.rename(mount.root, 'file', mount.root, 'renamed', 0, context);
      assert.equal((await server.bucket.get(`${fault}/renamed`)).toString(), "another writer's");
      await mount.close();
    });
  }

  it('HEADs that are made without the SDK say what its own say', async (t) => {
    server.proxy.fault = () => undefined;
    // Credentials that expire are the SDK's affair, and so is the first request.
    process.env['AWS_CREDENTIAL_EXPIRATION'] = '2999-01-01T00:00:00Z';
    t.after(() => delete process.env['AWS_CREDENTIAL_EXPIRATION']);
    const Metadata = { mode: '33188', mtime: '1600000000.5', theirs: 'a  b "c" %41' };
    const headers = {
      ContentType: 'text/plain; charset=utf-8',
      CacheControl: 'no-cache',
      ContentEncoding: 'x',
    };
    for (const key of ['plain', 'a b+c%20', '日本/\u201bC3', "x'(1)*!&=?#", 'dir/']) {
      await server.bucket.put(key, key, { Metadata, ...headers });
      const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint, readOnly: true });
      const { bucket: own } = mount.backend.mounted.services;
      server.proxy.seen.length = 0;
      const first = await own.head(key, Deadline.after(10));
      assert.deepEqual(await own.head(key, Deadline.after(10)), first);
      assert.deepEqual([first?.size, first?.metadata], [Buffer.byteLength(key), Metadata]);
      assert.equal(await own.head(`${key}-not`, Deadline.after(10)), undefined);
      assert.deepEqual(
        server.proxy.seen.map((seen) => seen.headers['user-agent'] !== undefined),
        [true, false, false],
      );
      await mount.close();
    }
  });

  it('listings, reads, writes and parts that are made without the SDK are as its own', async () => {
    server.proxy.fault = () => undefined;
    const ours = (operation: string): boolean[] =>
      server.proxy.seen
        .filter((seen) => seen.operation === operation)
        .map((seen) => seen.headers['user-agent'] === undefined);
    server.proxy.seen.length = 0;
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint, prefix: 'quick' });
    // It has found out what the server keeps.
    assert.ok(['CompleteMultipartUpload', 'GetBucketOwnershipControls'].every((one) => ours(one).length > 0));
    assert.ok(server.proxy.seen.every(({ headers }) => headers['user-agent'] === undefined));
    const { bucket: own } = mount.backend.mounted.services;
    const deadline = Deadline.after(30);
    const content = {
      metadata: { mode: '33188', theirs: 'a b "c" %41', [WRITE_MARK]: 'mark' },
      headers: {
        'content-type': 'text/plain; charset=utf-8',
        'cache-control': 'no-cache',
        'content-language': 'de',
      },
    };
    const keys = [
      'quick/a b+c%20',
      'quick/<&>"',
      "quick/x'(1)*!&=?#",
      'quick/日本',
      'quick/dir/below',
      'quick/dir/',
    ];
    server.proxy.seen.length = 0;
    for (const key of keys) {
      const bytes = pattern(300_000, key.length);
      const { etag } = await own.put(key, bytes, content, 'absent', deadline);
      const other = { ...content, metadata: { ...content.metadata, [WRITE_MARK]: 'other' } };
      await assert.rejects(own.put(key, bytes, other, 'absent', deadline), /412/);
      await own.put(key, bytes, content, { etag }, deadline);
      assert.ok((await server.bucket.get(key)).equals(bytes));
      const head = await own.head(key, deadline);
      assert.deepEqual(head!.headers, content.headers);
      assert.deepEqual(head?.metadata, content.metadata);
      const target = Buffer.alloc(200_000);
      await own.read(key, etag, 50_000, 250_000, deadline, into(target));
      assert.ok(target.equals(bytes.subarray(50_000, 250_000)));
      await assert.rejects(own.read(key, '0'.repeat(32), 0, 5, deadline, into(target)), /412/);
    }
    assert.ok(ours('PutObject').every(Boolean));
    const parts = [pattern(5 * 2 ** 20, 1), pattern(1000, 2)];
    for (const key of keys.map((one) => `${one}-parts`)) {
      const begin = async (): Promise<readonly [string, Part[]]> => {
        const id = await own.createUpload(key, content, deadline);
        const sent = [];
        for (const [i, bytes] of parts.entries())
          sent.push(await own.uploadPart(key, id, i + 1, bytes, deadline));
        return [id, sent];
      };
      const [id, sent] = await begin();
      await own.completeUpload(key, id, sent, 0, content, 'absent', deadline);
      assert.ok((await server.bucket.get(key)).equals(Buffer.concat(parts)));
      const head = await own.head(key, deadline);
      assert.deepEqual([head?.headers, head?.metadata], [content.headers, content.metadata]);
      const [refused, again] = await begin();
      const other = { ...content, metadata: { ...content.metadata, [WRITE_MARK]: 'other' } };
      await assert.rejects(
        own.completeUpload(key, refused, again, 0, other, 'absent', deadline),
        (error) => error instanceof S3Failure && error.kind === 'precondition',
      );
      await own.abortUpload(key, refused, deadline);
      assert.deepEqual(await own.uploadsOf(key, deadline), []);
      // One that is gone is no error.
      await own.abortUpload(key, refused, deadline);
    }
    const uploads = ['CreateMultipartUpload', 'CompleteMultipartUpload', 'AbortMultipartUpload'].map(ours);
    assert.ok(uploads.every((direct) => direct.length >= keys.length));
    assert.ok(uploads.flat().every(Boolean));
    assert.ok(ours('UploadPart').every(Boolean) && ours('GetObject').some(Boolean));

    for (const delimiter of ['', '/'] as const) {
      let token: string | undefined;
      const pages = [];
      do {
        const page = await own.list('quick/', delimiter, token, 3, deadline);
        pages.push(page);
        token = page.next;
      } while (token !== undefined);
      const whole = await server.bucket.client.send(
        new ListObjectsV2Command({
          Bucket: server.bucket.name,
          Prefix: 'quick/',
          ...(delimiter === '' ? {} : { Delimiter: delimiter }),
        }),
      );
      assert.deepEqual(
        pages.flatMap(({ objects }) =>
          objects.map(({ key, etag, size, modified }) => [key, etag, size, modified]),
        ),
        whole.Contents?.map(({ Key, ETag, Size, LastModified }) => [
          Key,
          ETag?.replaceAll('"', ''),
          Size,
          Math.floor(LastModified!.getTime() / 1000),
        ]),
      );
      assert.deepEqual(
        pages.flatMap(({ prefixes }) => prefixes),
        whole.CommonPrefixes?.map(({ Prefix }) => Prefix) ?? [],
      );
    }
    assert.ok(ours('ListObjectsV2').every(Boolean) && ours('ListObjectsV2').length >= 4);
    await mount.close();
  });

  it('encryption, storage class and payment are asked for where an object is made', async () => {
    server.proxy.fault = () => undefined;
    const options = {
      endpoint: server.proxy.endpoint,
      prefix: 'options',
      partSize: '5m',
      storageClass: 'STANDARD',
    };
    const mount = await Mount.open(server.bucket, {
      ...options,
      encryption: 'sse-kms',
      kmsKey: 'key-1',
      requesterPays: true,
    });
    server.proxy.seen.length = 0;
    await mount.put('small', 'small');
    await mount.put('large', pattern(12 * 2 ** 20));
    await mount.backend.rename(mount.root, 'small', mount.root, 'renamed', 0, context);
    const making = ['PutObject', 'CreateMultipartUpload', 'CopyObject'];
    const made = server.proxy.seen.filter(({ operation }) => making.includes(operation));
    assert.deepEqual([...new Set(made.map(({ operation }) => operation))].sort(), [...making].sort());
    for (const { headers } of made) {
      assert.equal(headers['x-amz-server-side-encryption'], 'aws:kms');
      assert.equal(headers['x-amz-server-side-encryption-aws-kms-key-id'], 'key-1');
      assert.equal(headers['x-amz-storage-class'], 'STANDARD');
    }
    for (const { headers } of server.proxy.seen) assert.equal(headers['x-amz-request-payer'], 'requester');
    await mount.close();
    const own = await Mount.open(server.bucket, { ...options, encryption: 'sse-s3' });
    server.proxy.seen.length = 0;
    await own.put('own', 'own');
    assert.equal(server.proxy.seen.at(-1)?.headers['x-amz-server-side-encryption'], 'AES256');
    await own.close();
  });

  it("objects that are encrypted with the customer's key are read, changed, copied and moved with it", async () => {
    const customerKeyFile = join(await temporaryFolder(), 'key');
    await writeFile(customerKeyFile, pattern(32));
    const options = { prefix: 'secret', partSize: '5m', diskCache: 0, encryption: 'sse-c', customerKeyFile };
    const bytes = pattern(12 * 2 ** 20);
    const mount = await Mount.open(server.bucket, options);
    await mount.put('small', 'small');
    await mount.put('large', bytes);
    const large = await mount.openFile('large');
    await mount.write(large, 6_000_000, 'changed');
    bytes.write('changed', 6_000_000);
    await mount.fsync(large);
    await mount.release(large);
    await mount.backend.rename(mount.root, 'small', mount.root, 'renamed', 0, context);
    await mount.backend.mkdir(mount.root, 'directory', 0o700, context);
    await mount.put('directory/file', 'below');
    await mount.backend.rename(mount.root, 'directory', mount.root, 'moved', 0, context);
    await mount.close();
    const again = await Mount.open(server.bucket, options);
    assert.equal((await again.content('renamed')).toString(), 'small');
    assert.equal((await again.content('moved/file')).toString(), 'below');
    assert.equal((await again.at('moved')).posix.mode, 0o40700);
    assert.deepEqual(await again.names(''), ['large', 'moved', 'renamed']);
    assert.ok((await again.content('large')).equals(bytes));
    await again.close();
    await assert.rejects(server.bucket.get('secret/renamed'));
  });
});
