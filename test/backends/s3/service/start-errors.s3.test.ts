import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { RequestListener, ServerResponse } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import type { Server as TcpServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { PutBucketAclCommand } from '@aws-sdk/client-s3';
import { optionsSchema, type S3Options } from '../../../../backends/s3/options.js';
import { ReadingBackend } from '../../../../backends/s3/reading-backend.js';
import { UsageError } from '../../../../core/backend/index.js';
import { keepingLog } from '../../../support/host-mount.js';
import { freePort } from '../../../s3-server/radosgw.js';
import { Proxy } from '../proxy.js';
import { Mount, optionsOf, removeFolders, temporaryFolder, TestBucket } from '../support.js';

/** A server on loopback that answers in one way, for as long as `use` runs. */
async function answering(listener: RequestListener, use: (endpoint: string) => Promise<void>): Promise<void> {
  const port = await freePort();
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  try {
    await use(`http://127.0.0.1:${port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** As {@link answering}, with a server of bytes. */
async function listening(server: TcpServer, use: (endpoint: string) => Promise<void>): Promise<void> {
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  try {
    await use(`http://127.0.0.1:${port}`);
  } finally {
    server.close();
  }
}

/** Runs with changed variables of the environment. */
async function withVariables(changes: Record<string, string>, run: () => Promise<void>): Promise<void> {
  const before = { ...process.env };
  Object.assign(process.env, changes);
  try {
    await run();
  } finally {
    for (const name of Object.keys(changes)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

describe('a start that fails says why, and what to do', () => {
  let bucket: TestBucket;
  before(async () => void (bucket = await TestBucket.create()));
  after(removeFolders);

  async function fails(options: Record<string, unknown>, expected: RegExp): Promise<void> {
    await assert.rejects(Mount.open(bucket, options), (error) => {
      assert.ok(error instanceof UsageError, String(error));
      assert.match(error.message, expected);
      return true;
    });
  }

  it('a port where nothing listens', async () => {
    await fails({ endpoint: `http://127.0.0.1:${await freePort()}` }, /nothing listens there.*--endpoint/);
    await fails({ endpoint: `http://localhost:${await freePort()}` }, /nothing listens there/);
  });

  it('a host that drops what is sent to it', { timeout: 30_000 }, async (t) => {
    const port = await freePort();
    // Linux drops connections to a socket whose queue is full, and nobody takes any from it.
    const listen = `require('net').createServer().listen({ port: ${port}, host: '127.0.0.1', backlog: 1 }, () =>
      console.log('listening'))`;
    const server = spawn(process.execPath, ['-e', listen], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => server.kill('SIGKILL'));
    await once(server.stdout, 'data');
    server.kill('SIGSTOP');
    const waiting = Array.from({ length: 8 }, () => connect(port, '127.0.0.1').on('error', () => undefined));
    t.after(() => waiting.forEach((socket) => socket.destroy()));
    await once(waiting[0]!, 'connect');
    await fails({ endpoint: `http://127.0.0.1:${port}` }, /no answer in time.*ETIMEDOUT.*firewalls/);
  });

  it('a host that does not exist', async () => {
    await fails({ endpoint: 'http://nowhere.invalid' }, /can't be found/);
    await fails({ endpoint: 'http://nowhere.invalid', pathStyle: false }, /can't be found.*--path-style/);
  });

  it('a proxy that is no URL, and an endpoint that is none', async () => {
    await withVariables({ HTTP_PROXY: 'http://' }, () => fails({}, /HTTP_PROXY: is no URL of a proxy/));
    await withVariables({ AWS_ENDPOINT_URL: 's3.example' }, () =>
      fails({ endpoint: undefined }, /endpoint s3\.example: is no URL/),
    );
  });

  it('a bucket that is no name', async () => {
    const said = (name: string): string => String(optionsSchema.safeParse({ bucket: name }).error?.message);
    assert.match(said('s3://bucket'), /without s3:\/\//);
    assert.match(said('bucket/below'), /the name alone/);
    await fails({ bucket: 'arn:aws:s3:eu-west-1:123456789012:accesspoint/name' }, /leave --endpoint out/);
  });

  it('a bucket that is not there', async () => {
    await fails({ bucket: 'nowhere-at-all' }, /no such bucket; --create-bucket/);
  });

  it('a wrong key, a wrong secret, none at all', async () => {
    await withVariables({ AWS_ACCESS_KEY_ID: 'unknown' }, () => fails({}, /does not know the access key/));
    await withVariables({ AWS_SECRET_ACCESS_KEY: 'other' }, () => fails({}, /secret key is not that of/));
  });

  it('redirects in a circle', async () => {
    const listener: RequestListener = ({ url, headers }, response) => {
      response.writeHead(307, { location: `http://${headers.host}${url}` }).end();
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /sends us elsewhere.*--endpoint/));
  });

  it('a web page in the place of the server', async () => {
    const listener: RequestListener = (_, response) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Log in</html>');
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /no S3 server: a web page/));
  });

  it('a server that wants TLS, and one that has none', async () => {
    const listener: RequestListener = (_, response) => void response.writeHead(403).end();
    await answering(listener, (endpoint) =>
      fails({ endpoint: endpoint.replace('http:', 'https:') }, /does not speak TLS.*http:\/\//),
    );
    const server = createTcpServer((socket) => void socket.once('data', () => socket.destroy()));
    await listening(server, (endpoint) => fails({ endpoint }, /breaks off the connection.*https:\/\//));
  });

  it('credentials that have expired', async () => {
    const listener: RequestListener = (_, response) => {
      response.writeHead(400, { 'content-type': 'application/xml' });
      response.end('<?xml version="1.0"?><Error><Code>ExpiredToken</Code><Message>no</Message></Error>');
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /ExpiredToken.*check the credentials/));
  });

  it('a clock that is an hour off, by the date of the answer', async () => {
    const listener: RequestListener = (_, response) => {
      const date = new Date(Date.now() + 3_600_000).toUTCString();
      response.writeHead(403, { 'content-type': 'application/xml', date });
      response.end('<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>');
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /differ by 3[56]\d\d seconds/));
  });

  it('a clock that the server takes for wrong, whatever date is sent', async () => {
    const listener: RequestListener = (_, response) => {
      response.writeHead(403, { 'content-type': 'application/xml' });
      response.end('<?xml version="1.0"?><Error><Code>RequestTimeTooSkewed</Code></Error>');
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /clock is wrong.*NTP/));
  });

  it('another region', async () => {
    const listener: RequestListener = (_, response) => {
      response.writeHead(400, { 'content-type': 'application/xml' });
      response.end(
        '<?xml version="1.0"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message><Region>eu-west-3</Region></Error>',
      );
    };
    await answering(listener, (endpoint) => fails({ endpoint }, /in region eu-west-3; --region eu-west-3/));
  });

  it('no right to write', async () => {
    const proxy = await Proxy.start(bucket.endpoint);
    proxy.fault = ({ method }) => (method === 'PUT' ? 'denied' : undefined);
    await fails({ endpoint: proxy.endpoint }, /may not write.*--read-only/);
    await (await Mount.open(bucket, { endpoint: proxy.endpoint, readOnly: true })).close();
    await proxy.close();
  });
});

describe('a start that waits says for what', () => {
  after(removeFolders);

  /** Resolves with the mount when `answer` was called after a line of its log. */
  async function told(options: S3Options, line: RegExp, answer: () => void): Promise<void> {
    const backend = new ReadingBackend(options);
    const log = keepingLog();
    const mounting = backend.mount({ log, createBuffer: () => assert.fail('nothing is read') });
    while (!log.lines.some((text) => line.test(text))) await sleep(50);
    answer();
    await mounting;
    await backend.unmount();
  }

  it('a server that takes requests and does not answer', async () => {
    const bucket = await TestBucket.create();
    const proxy = await Proxy.start(bucket.endpoint);
    proxy.fault = () => 'hang';
    const options = await optionsOf(bucket, { endpoint: proxy.endpoint, readOnly: true, requestTimeout: 6 });
    await told(options, /the server does not answer yet/, () => (proxy.fault = () => undefined));
    await proxy.close();
  });

  it('a server that is too busy', async () => {
    const bucket = await TestBucket.create();
    const proxy = await Proxy.start(bucket.endpoint);
    proxy.fault = () => 'slow-down';
    const options = await optionsOf(bucket, { endpoint: proxy.endpoint, readOnly: true });
    await told(options, /not mounted yet.*503/, () => (proxy.fault = () => undefined));
    await proxy.close();
  });

  it('a source of credentials that does not answer', async () => {
    const bucket = await TestBucket.create();
    const { AWS_ACCESS_KEY_ID: AccessKeyId, AWS_SECRET_ACCESS_KEY: SecretAccessKey } = process.env;
    const asked: ServerResponse[] = [];
    const Expiration = new Date(Date.now() + 3_600_000).toISOString();
    const answer = JSON.stringify({ AccessKeyId, SecretAccessKey, Token: '', Expiration });
    await answering(
      (_, response) => void asked.push(response),
      async (endpoint) => {
        const changes = {
          AWS_ACCESS_KEY_ID: '',
          AWS_SECRET_ACCESS_KEY: '',
          AWS_CONTAINER_CREDENTIALS_FULL_URI: `${endpoint}/credentials`,
        };
        await withVariables(changes, async () => {
          await told(
            await optionsOf(bucket, { readOnly: true }),
            /the source of the credentials does not answer yet/,
            () => asked.forEach((response) => response.end(answer)),
          );
        });
      },
    );
  });
});

describe('what the environment says', () => {
  after(removeFolders);

  it('localhost and addresses need no --path-style, and a public bucket no credentials', async () => {
    const bucket = await TestBucket.create();
    const { client, name } = bucket;
    await client.send(new PutBucketAclCommand({ Bucket: name, ACL: 'public-read' }));
    await bucket.put('there', 'content', { ACL: 'public-read' });
    const mount = await Mount.open(bucket, { pathStyle: false, anonymous: true, readOnly: true });
    assert.deepEqual(await mount.names(''), ['there']);
    assert.equal((await mount.content('there')).toString(), 'content');
    await mount.close();
    const local = bucket.endpoint.replace('127.0.0.1', 'localhost');
    await (await Mount.open(bucket, { pathStyle: false, endpoint: local })).close();
  });

  it("a profile's endpoint_url is where its bucket is", async () => {
    const bucket = await TestBucket.create();
    const folder = await temporaryFolder();
    const config = join(folder, 'config');
    await mkdir(folder, { recursive: true });
    await writeFile(
      config,
      `[profile own]\nendpoint_url = ${bucket.endpoint}\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n`,
    );
    await withVariables({ AWS_CONFIG_FILE: config }, async () => {
      const mount = await Mount.open(bucket, { endpoint: undefined, profile: 'own' });
      await mount.put('file', 'content');
      assert.equal((await bucket.get('file')).toString(), 'content');
      await mount.close();
    });
  });
});
