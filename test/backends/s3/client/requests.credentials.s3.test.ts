import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, test } from 'node:test';
import { ACCESS_KEY, SECRET_KEY } from '../../../s3-server/radosgw.js';
import { Mount, removeFolders, TestBucket } from '../support.js';

after(removeFolders);

const document = (expires: string): string =>
  JSON.stringify({
    AccessKeyId: ACCESS_KEY,
    SecretAccessKey: SECRET_KEY,
    Token: '',
    Expiration: expires,
  });

test('credentials of a container are asked for again before they expire', async () => {
  const bucket = await TestBucket.create();
  await bucket.put('file', 'content');
  let asked = 0;
  // So near that they are taken for expired.
  const server = createServer((_request, response) => {
    asked += 1;
    response.end(document(new Date(Date.now() + 10_000).toISOString()));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  const before = { ...process.env };
  delete process.env['AWS_ACCESS_KEY_ID'];
  delete process.env['AWS_SECRET_ACCESS_KEY'];
  process.env['AWS_CONTAINER_CREDENTIALS_FULL_URI'] = `http://127.0.0.1:${address.port}/credentials`;
  try {
    const mount = await Mount.open(bucket);
    assert.equal(`${await mount.content('file')}`, 'content');
    const first = asked;
    assert.ok(first > 0);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await mount.put('other', 'more');
    assert.ok(asked > first);
    await mount.close();
  } finally {
    for (const key of Object.keys(process.env)) if (!(key in before)) delete process.env[key];
    Object.assign(process.env, before);
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  assert.equal(`${await bucket.get('other')}`, 'more');
});
