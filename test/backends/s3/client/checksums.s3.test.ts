import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import type { ChecksumAlgorithm } from '@aws-sdk/client-s3';
import { checksum, CHECKSUMS, checksumOf } from '../../../../backends/s3/client/checksums.js';
import type { ChecksumName } from '../../../../backends/s3/client/checksums.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, denied, Mount, pattern, TestBucket } from '../support.js';

/** Check values of the algorithms' definitions: of the digits 1 to 9. */
const KNOWN: Readonly<Record<ChecksumName, string>> = {
  crc32: 'cbf43926',
  crc32c: 'e3069283',
  crc64nvme: 'ae8b14860a799888',
  sha1: 'f7c3bc1d808e04732adf679965ccc34ca7ae3441',
  sha256: '15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225',
};

describe('checksums of objects', () => {
  const server = proxiedBucket();
  const beside = (): TestBucket => TestBucket.open(server.bucket.name, server.proxy.endpoint);
  const sdkName = (name: ChecksumName): ChecksumAlgorithm => name.toUpperCase() as ChecksumAlgorithm;

  it('are those of their definitions, however the bytes come', async () => {
    for (const name of CHECKSUMS) {
      const value = await checksum(name, [Buffer.from('1234'), Buffer.from('56789')]);
      assert.equal(Buffer.from(value, 'base64').toString('hex'), KNOWN[name], name);
    }
  });

  it('of several parts say nothing of the whole', () => {
    const of = (value: string, type?: string): unknown =>
      checksumOf(
        new Map([['x-amz-checksum-crc32', value], ...(type ? [['x-amz-checksum-type', type] as const] : [])]),
      );
    assert.deepEqual(of('AAAAAA=='), { name: 'crc32', value: 'AAAAAA==', isComposite: false });
    assert.deepEqual(of('AAAAAA==-1'), { name: 'crc32', value: 'AAAAAA==', isComposite: true });
    assert.equal(of('AAAAAA==-2'), undefined);
    assert.equal(of('AAAAAA==', 'COMPOSITE'), undefined);
  });

  for (const readOnly of [false, true]) {
    it(`keep changed bytes from the reader where the ETag is no digest${readOnly ? ', read-only' : ''}`, async () => {
      server.proxy.fault = () => undefined;
      const { client, name: Bucket } = beside();
      const bytes = pattern(200_000);
      for (const name of CHECKSUMS) {
        const at = { Bucket, Key: `parts-${name}` };
        const ChecksumAlgorithm = sdkName(name);
        const { UploadId } = await client.send(
          new CreateMultipartUploadCommand({ ...at, ChecksumAlgorithm }),
        );
        const part = { ...at, UploadId, PartNumber: 1, Body: bytes, ChecksumAlgorithm };
        const { ETag } = await client.send(new UploadPartCommand(part));
        const MultipartUpload = { Parts: [{ PartNumber: 1, ETag }] };
        await client.send(new CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload }));
      }
      const mount = await Mount.open(server.bucket, {
        endpoint: server.proxy.endpoint,
        readOnly,
        diskCache: 0,
      });
      for (const name of CHECKSUMS) {
        let count = 0;
        server.proxy.fault = ({ operation }) =>
          operation === 'GetObject' && count++ < 1 ? 'flip' : undefined;
        assert.ok((await mount.content(`parts-${name}`)).equals(bytes), name);
        assert.equal(count, 2, name);
      }
      assert.equal(mount.backend.mounted.services.metrics.corruptReads, CHECKSUMS.length);
      await mount.close();
    });
  }

  it('that do not agree in the end are EIO', async () => {
    server.proxy.fault = () => undefined;
    const { client, name: Bucket } = beside();
    const at = { Bucket, Key: 'wrong' };
    const { UploadId } = await client.send(
      new CreateMultipartUploadCommand({ ...at, ChecksumAlgorithm: 'CRC64NVME' }),
    );
    const part = { ...at, UploadId, PartNumber: 1, Body: pattern(1000) };
    const { ETag } = await client.send(new UploadPartCommand({ ...part, ChecksumAlgorithm: 'CRC64NVME' }));
    const MultipartUpload = { Parts: [{ PartNumber: 1, ETag }] };
    await client.send(new CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload }));
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint, diskCache: 0 });
    server.proxy.fault = ({ operation }) => (operation === 'GetObject' ? 'flip' : undefined);
    await assert.rejects(mount.content('wrong'), denied('EIO'));
    server.proxy.fault = () => undefined;
    assert.ok((await mount.content('wrong')).equals(pattern(1000)));
    await mount.close();
  });

  it('are written where the options say so, in one request, in parts and by copies', async () => {
    server.proxy.fault = () => undefined;
    for (const name of ['crc64nvme', 'crc32c'] as const) {
      const options = { endpoint: server.proxy.endpoint, checksums: name, partSize: '5m', prefix: name };
      const mount = await Mount.open(server.bucket, options);
      const from = server.proxy.seen.length;
      await mount.put('small', 'content');
      const large = pattern(11 * 2 ** 20);
      await mount.put('large', large);
      await mount.backend.rename(mount.root, 'small', mount.root, 'moved', 0, context);
      const seen = server.proxy.seen.slice(from).filter(({ path }) => !path.includes('/.virtiofs-kit/'));
      const header = `x-amz-checksum-${name}`;
      const of = (operation: string, field: string): unknown[] =>
        seen.filter((one) => one.operation === operation).map(({ headers }) => headers[field]);
      const value = await checksum(name, [Buffer.from('content')]);
      assert.ok(of('PutObject', header).includes(value), name);
      assert.ok(of('PutObject', header).every((one) => typeof one === 'string'));
      assert.equal(of('UploadPart', header).length, 3);
      assert.ok(of('UploadPart', header).every((one) => typeof one === 'string'));
      // The SDK makes the first of a kind, and shows how; the others cost a fraction of that.
      const bySdk = (operation: string): number =>
        of(operation, 'amz-sdk-request').filter((one) => one !== undefined).length;
      assert.ok(bySdk('PutObject') <= 1);
      assert.ok(bySdk('UploadPart') < 3);
      assert.deepEqual(of('CreateMultipartUpload', 'x-amz-checksum-algorithm'), [sdkName(name)]);
      assert.deepEqual(of('CopyObject', 'x-amz-checksum-algorithm'), [sdkName(name)]);
      await mount.close();
      assert.ok((await server.bucket.get(`${name}/large`)).equals(large));
    }
  });

  it('of one object are no business of the next', async () => {
    const mount = await Mount.open(server.bucket, { endpoint: server.proxy.endpoint, prefix: 'tags' });
    await server.bucket.put('tags/theirs', 'theirs', { Tagging: 'a=b' });
    const file = await mount.openFile('theirs');
    let refused = 0;
    // After a refusal the next request of this kind is made by the SDK.
    server.proxy.fault = ({ operation }) =>
      operation === 'PutObject' && refused++ === 0 ? 'bad-digest' : undefined;
    await mount.write(file, 0, 'T');
    await mount.fsync(file);
    await mount.release(file);
    const from = server.proxy.seen.length;
    await mount.put('ours', 'ours');
    const seen = server.proxy.seen.slice(from).find(({ operation }) => operation === 'PutObject');
    assert.equal(seen?.headers['x-amz-tagging'], undefined);
    await mount.close();
  });
});
