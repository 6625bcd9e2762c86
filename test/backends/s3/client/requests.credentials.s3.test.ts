import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { ACCESS_KEY, SECRET_KEY } from '../../../s3-server/radosgw.js';
import { Proxy } from '../proxy.js';
import { context, Mount, removeFolders, temporaryFolder, TestBucket } from '../support.js';

const ROLE = 'arn:aws:iam::123456789012:role/mount';
const METADATA = '/latest/meta-data/iam/security-credentials/';

/**
 * A server that gives credentials away: by the protocols of instance metadata (version 2), of
 * containers, and of AssumeRoleWithWebIdentity. Each time the session is another one.
 */
class CredentialServer {
  readonly url: string;
  /** How often credentials were given away. */
  given = 0;
  /** What was asked otherwise than the protocols say. */
  readonly wrong: string[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.#answer(request).then(
        ([status, body]) => response.writeHead(status).end(body),
        () => response.destroy(),
      );
    });
  }

  static async start(): Promise<CredentialServer> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new CredentialServer(server);
  }

  /** The session token that was given away last. */
  get session(): string {
    return `session-${this.given}`;
  }

  async #answer(request: IncomingMessage): Promise<[number, string]> {
    const { method, url = '', headers } = request;
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    if (url === '/latest/api/token') {
      if (method !== 'PUT' || headers['x-aws-ec2-metadata-token-ttl-seconds'] === undefined)
        this.wrong.push(`${method} ${url}`);
      return [200, 'metadata-token'];
    }
    if (url.startsWith(METADATA)) {
      if (headers['x-aws-ec2-metadata-token'] !== 'metadata-token') {
        this.wrong.push(`${url} without its token`);
        return [401, ''];
      }
      if (url === METADATA) return [200, 'mount'];
      return [200, JSON.stringify({ Code: 'Success', Type: 'AWS-HMAC', ...this.#document() })];
    }
    if (url === '/container') {
      if (headers.authorization !== 'container-token') this.wrong.push(`${url} without its token`);
      return [200, JSON.stringify(this.#document())];
    }
    const form = new URLSearchParams(Buffer.concat(pieces).toString());
    if (form.get('Action') !== 'AssumeRoleWithWebIdentity' || form.get('RoleArn') !== ROLE)
      this.wrong.push(`${method} ${url} ${form.toString()}`);
    if (form.get('WebIdentityToken') !== 'identity-token') return [400, ''];
    const fields = Object.entries({ ...this.#document(), SessionToken: this.session })
      .filter(([name]) => name !== 'Token')
      .map(([name, value]) => `<${name}>${value}</${name}>`);
    return [
      200,
      `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>` +
        `<Credentials>${fields.join('')}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
    ];
  }

  #document(): Record<string, string> {
    this.given += 1;
    return {
      AccessKeyId: ACCESS_KEY,
      SecretAccessKey: SECRET_KEY,
      Token: this.session,
      Expiration: new Date(Date.now() + 6 * 3_600_000).toISOString(),
    };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

describe('credentials that are fetched', () => {
  let bucket: TestBucket;
  let proxy: Proxy;
  let source: CredentialServer;
  let environment: NodeJS.ProcessEnv;

  before(async () => {
    bucket = await TestBucket.create();
    // The SDK of the tests keeps what it finds now.
    await bucket.put('file', 'content');
    proxy = await Proxy.start(bucket.endpoint);
  });
  beforeEach(async () => {
    source = await CredentialServer.start();
    environment = { ...process.env };
    delete process.env['AWS_ACCESS_KEY_ID'];
    delete process.env['AWS_SECRET_ACCESS_KEY'];
    // The server knows one session, and refuses all others as expired.
    proxy.fault = ({ headers }) =>
      headers['x-amz-security-token'] === source.session ? undefined : 'expired';
  });
  afterEach(async () => {
    for (const key of Object.keys(process.env)) if (!(key in environment)) delete process.env[key];
    Object.assign(process.env, environment);
    await source.close();
  });
  after(async () => {
    await proxy.close();
    await removeFolders();
  });

  const open = (options: Record<string, unknown> = {}): Promise<Mount> =>
    Mount.open(bucket, { endpoint: proxy.endpoint, metadataTtl: 0, ...options });

  const useContainer = async (): Promise<void> => {
    const token = join(await temporaryFolder(), 'token');
    await writeFile(token, 'container-token');
    process.env['AWS_CONTAINER_CREDENTIALS_FULL_URI'] = `${source.url}/container`;
    process.env['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'] = token;
  };

  const sources: readonly [string, () => Promise<void>][] = [
    ['instance metadata', async () => void (process.env['AWS_EC2_METADATA_SERVICE_ENDPOINT'] = source.url)],
    ['a container', useContainer],
    [
      'a web identity',
      async () => {
        const token = join(await temporaryFolder(), 'token');
        await writeFile(token, 'identity-token');
        process.env['AWS_WEB_IDENTITY_TOKEN_FILE'] = token;
        process.env['AWS_ROLE_ARN'] = ROLE;
        process.env['AWS_ENDPOINT_URL_STS'] = source.url;
      },
    ],
  ];

  for (const [what, use] of sources)
    it(`come from ${what}, sign every request, and are fetched anew when they have expired`, async () => {
      await use();
      const mount = await open();
      assert.equal(`${await mount.content('file')}`, 'content');
      await mount.put('own', what);
      const before = source.given;
      assert.ok(before > 0);
      // The session ends before its time.
      source.given += 1;
      await mount.put('own', `${what}, again`);
      assert.equal(`${await mount.content('file')}`, 'content');
      await mount.backend.rename(mount.root, 'own', mount.root, `own of ${what}`, 0, context);
      assert.equal(`${await bucket.get(`own of ${what}`)}`, `${what}, again`);
      assert.equal(mount.backend.mounted.services.metrics.conflicts, 0);
      await mount.close();
      assert.deepEqual(source.wrong, []);
    });

  it('are fetched once for all requests that find them expired', async () => {
    await useContainer();
    const names = Array.from({ length: 24 }, (_, i) => `many-${i}`);
    for (const name of names) await bucket.put(name, name);
    const mount = await open({ attributes: 'posix' });
    const before = source.given;
    source.given += 1;
    const contents = await Promise.all(names.map(async (name) => `${await mount.content(name)}`));
    assert.deepEqual(contents, names);
    // One more may have been asked meanwhile: each one that is given away ends the one before.
    assert.ok(source.given - before <= 3, `${source.given - before}`);
    await mount.close();
  });

  it('of a container are asked for again before they expire', async () => {
    let asked = 0;
    proxy.fault = () => undefined;
    const server = createServer((_request, response) => {
      asked += 1;
      // So near that they are taken for expired.
      const Expiration = new Date(Date.now() + 10_000).toISOString();
      const keys = { AccessKeyId: ACCESS_KEY, SecretAccessKey: SECRET_KEY, Token: '', Expiration };
      response.end(JSON.stringify(keys));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    process.env['AWS_CONTAINER_CREDENTIALS_FULL_URI'] = `http://127.0.0.1:${port}/`;
    const mount = await open();
    assert.equal(`${await mount.content('file')}`, 'content');
    const first = asked;
    assert.ok(first > 0);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await mount.put('other', 'more');
    assert.ok(asked > first);
    await mount.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    assert.equal(`${await bucket.get('other')}`, 'more');
  });
});
