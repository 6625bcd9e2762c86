import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import { Bucket } from '../../../../backends/s3/client/bucket.js';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { Metrics } from '../../../../backends/s3/client/metrics.js';
import { plainBucket } from '../../../../backends/s3/client/plain-bucket.js';
import { Requests } from '../../../../backends/s3/client/requests.js';
import { optionsSchema, type S3Options } from '../../../../backends/s3/options.js';
import { keepingLog } from '../../../support/host-mount.js';

const KEYS = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' };
const LISTING =
  '<ListBucketResult><Name>data</Name><EncodingType>url</EncodingType><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>';

const optionsWith = (given: object): S3Options =>
  optionsSchema.parse({ bucket: 'data', endpoint: 'https://s3.example:8443', region: 'here', ...given });

/** What a server is asked by a bucket, the signatures left out. */
async function asked(environment: Readonly<Record<string, string>>): Promise<string[]> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { authorization = '', host = '' } = request.headers;
    const signed = authorization.replace(/Signature=.*/, '');
    requests.push(`${request.method} ${request.url} ${host} ${signed}`);
    request.resume();
    if (request.method === 'DELETE') response.writeHead(204).end();
    else if (request.url!.includes('list-type')) response.end(LISTING);
    else response.writeHead(200, { etag: '"e"', 'content-length': '0' }).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const before = { ...process.env };
  Object.assign(process.env, KEYS, environment);
  const options = optionsWith({ endpoint: `http://127.0.0.1:${port}` });
  const log = keepingLog();
  const metrics = new Metrics();
  const client = new Requests(options, log, metrics);
  try {
    const bucket = new Bucket(options, client, metrics, log);
    // The first of each kind is the SDK's, where it is needed.
    for (let i = 0; i < 2; i++) {
      await bucket.head('a b', Deadline.after(20));
      await bucket.list('p/', '/', undefined, 1000, Deadline.after(20));
      await bucket.put('k', Buffer.from('x'), { metadata: {}, headers: {} }, undefined, Deadline.after(20));
      await bucket.remove('k', Deadline.after(20));
    }
  } finally {
    client.close();
    server.closeAllConnections();
    server.close();
    for (const key of Object.keys(process.env)) if (!(key in before)) delete process.env[key];
    Object.assign(process.env, before);
  }
  return requests.map((text) => text.replaceAll(String(port), 'PORT'));
}

describe('a bucket of which options and the environment tell all', () => {
  it('is asked at once as after the requests of the SDK', async () => {
    const plain = await asked({});
    // Such credentials are left to the SDK.
    const learned = await asked({ AWS_CREDENTIAL_EXPIRATION: '2999-01-01T00:00:00Z' });
    assert.deepEqual(plain.slice(4), learned.slice(4));
    assert.deepEqual(plain.slice(0, 4), plain.slice(4));
    assert.notDeepEqual(learned.slice(0, 3), learned.slice(4, 7));
  });

  it('may have a name in that of the host', () => {
    assert.deepEqual(plainBucket(optionsWith({}), KEYS), {
      server: { protocol: 'https:', hostname: 'data.s3.example', port: 8443 },
      host: 'data.s3.example:8443',
      prefix: '',
      region: 'here',
      credentials: { accessKeyId: 'a', secretAccessKey: 'b', sessionToken: undefined },
    });
  });

  it('is left to the SDK where something else tells, too', () => {
    for (const given of [
      { endpoint: undefined },
      { endpoint: 'https://s3.us-east-1.amazonaws.com' },
      { endpoint: 'https://s3.example/below' },
      { bucket: 'a.b' },
      { bucket: 'arn:aws:s3:here:1:accesspoint/a', endpoint: undefined },
      { profile: 'p' },
      { anonymous: true },
      { encryption: 'sse-s3' },
      { storageClass: 'COLD' },
      { requesterPays: true },
    ])
      assert.equal(plainBucket(optionsWith(given), KEYS), undefined, JSON.stringify(given));
    for (const others of [
      { AWS_PROFILE: 'p' },
      { AWS_SECRET_ACCESS_KEY: '' },
      { AWS_CREDENTIAL_EXPIRATION: '2999-01-01T00:00:00Z' },
    ])
      assert.equal(plainBucket(optionsWith({}), { ...KEYS, ...others }), undefined);
  });
});
