import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, test } from 'node:test';
import { ACCESS_KEY, SECRET_KEY } from '../../../s3-server/radosgw.js';
import { Mount, removeFolders, TestBucket } from '../support.js';

after(removeFolders);

/** Where programs in containers, and on machines of Amazon's, ask for credentials. */
interface Source {
  readonly name: string;
  readonly environment: (address: string) => Readonly<Record<string, string>>;
  readonly answer: (path: string, expires: string) => string | undefined;
}

const document = (expires: string): string =>
  JSON.stringify({
    Code: 'Success',
    AccessKeyId: ACCESS_KEY,
    SecretAccessKey: SECRET_KEY,
    Token: '',
    Expiration: expires,
  });

const sources: readonly Source[] = [
  {
    name: 'a container',
    environment: (address) => ({ AWS_CONTAINER_CREDENTIALS_FULL_URI: `${address}/credentials` }),
    answer: (_path, expires) => document(expires),
  },
  {
    name: 'instance metadata',
    environment: (address) => ({ AWS_EC2_METADATA_SERVICE_ENDPOINT: address }),
    answer: (path, expires) => {
      if (path === '/latest/api/token') return 'token';
      if (path.endsWith('/security-credentials/')) return 'role';
      return path.endsWith('/security-credentials/role') ? document(expires) : undefined;
    },
  },
];

for (const { name, environment, answer } of sources) {
  test(`credentials of ${name} are asked for again before they expire`, async () => {
    const bucket = await TestBucket.create();
    await bucket.put('file', 'content');
    let asked = 0;
    // So near that they are taken for expired.
    const server = createServer(({ url = '' }, response) => {
      const expires = new Date(Date.now() + 10_000).toISOString();
      const body = answer(url, expires);
      if (body?.startsWith('{') === true) asked += 1;
      response.writeHead(body === undefined ? 404 : 200).end(body);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    const before = { ...process.env };
    delete process.env['AWS_ACCESS_KEY_ID'];
    delete process.env['AWS_SECRET_ACCESS_KEY'];
    Object.assign(process.env, environment(`http://127.0.0.1:${address.port}`));
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
}
