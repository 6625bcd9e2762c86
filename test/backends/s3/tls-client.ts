/**
 * Writes to a mounted bucket, and compares what another mount reads of it. See
 * `client/bucket.tls.s3.test.ts`.
 */
import assert from 'node:assert/strict';
import { Mount, pattern, removeFolders, TestBucket } from './support.js';

const [name = '', endpoint = ''] = process.argv.slice(2);
const bucket = TestBucket.open(name, endpoint);
const large = pattern(12 * 2 ** 20, 1);

const writer = await Mount.open(bucket, { prefix: 'p', partSize: '5m' });
for (let i = 0; i < 4; i++) await writer.put(`small ${i}`, `content ${i}`);
const file = await writer.create('large');
for (let at = 0; at < large.length; at += 2 ** 20) {
  await writer.write(file, at, large.subarray(at, at + 2 ** 20));
}
await writer.fsync(file);
await writer.release(file);
await writer.close();

const reader = await Mount.open(bucket, { prefix: 'p', readOnly: true });
assert.deepEqual(await reader.names(''), ['large', 'small 0', 'small 1', 'small 2', 'small 3']);
for (let i = 0; i < 4; i++) assert.equal((await reader.content(`small ${i}`)).toString(), `content ${i}`);
assert.ok((await reader.content('large')).equals(large));
await reader.close();
await removeFolders();
