import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createServer } from 'node:tls';
import type { Server, TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { program } from '../../../support/program.js';
import { HttpProxy } from '../http-proxy.js';
import { removeFolders, temporaryFolder, TestBucket } from '../support.js';

const client = fileURLToPath(new URL('../tls-client.js', import.meta.url));

/** A certificate for localhost, and its key, that nobody has heard of. */
async function certificate(folder: string): Promise<{ file: string; cert: Buffer; key: Buffer }> {
  const file = join(folder, 'cert.pem');
  const keyFile = join(folder, 'key.pem');
  const kind = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'.split(' ');
  const name = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  await promisify(execFile)('openssl', [...kind, ...name, '-keyout', keyFile, '-out', file]);
  return { file, cert: await readFile(file), key: await readFile(keyFile) };
}

interface Ended {
  readonly code: number | null;
  readonly said: string;
}

/** Runs a program of ours, in an environment without certificates but these. */
async function run(
  words: readonly string[],
  authority: string | undefined,
  variable = 'NODE_EXTRA_CA_CERTS',
  others: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  const own = Object.entries(process.env).filter(
    ([name]) => name !== 'NODE_EXTRA_CA_CERTS' && name !== 'AWS_CA_BUNDLE',
  );
  const child = spawn(process.execPath, words, {
    env: {
      ...Object.fromEntries(own),
      ...(authority === undefined ? {} : { [variable]: authority }),
      ...others,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 120_000,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += String(data)));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, said };
}

describe('a server that is reached over TLS', () => {
  let bucket: TestBucket;
  let server: Server;
  let authority: string;
  let port: number;
  let connections = 0;
  /** Heads of the requests that came through. */
  const heads: string[] = [];
  const sockets = new Set<TLSSocket>();

  before(async () => {
    bucket = await TestBucket.create();
    const { file, cert, key } = await certificate(await temporaryFolder());
    authority = file;
    const target = new URL(bucket.endpoint);
    server = createServer({ cert, key }, (socket) => {
      sockets.add(socket);
      connections += 1;
      const onward = connect(Number(target.port), target.hostname);
      socket.on('data', (data) => {
        const text = data.toString('latin1');
        for (const [head] of text.matchAll(/^(?:HEAD|GET|PUT) \S+ HTTP\/1\.1\r\n(?:.+\r\n)+\r\n/gm))
          heads.push(head);
      });
      socket.pipe(onward).pipe(socket);
      socket.on('error', () => onward.destroy());
      onward.on('error', () => socket.destroy());
    });
    server.on('tlsClientError', () => undefined);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    ({ port } = server.address() as AddressInfo);
  });
  after(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    await removeFolders();
  });

  for (const variable of ['NODE_EXTRA_CA_CERTS', 'AWS_CA_BUNDLE']) {
    it(`serves requests of every kind past the SDK, where ${variable} names its authority`, async () => {
      heads.length = 0;
      const words = [client, bucket.name, `https://localhost:${port}`];
      const { code, said } = await run(words, authority, variable);
      assert.equal(code, 0, said);
      assert.equal((await bucket.get('p/small 3')).toString(), 'content 3');
      assert.equal((await bucket.get('p/large')).length, 12 * 2 ** 20);
      const past = heads.filter((head) => !/^user-agent:/im.test(head));
      const kinds = [
        /^HEAD /,
        /^GET \S+list-type=2/,
        /^GET [^?]+ HTTP/,
        /^PUT [^?]+ HTTP/,
        /^PUT \S+partNumber=/,
      ];
      for (const kind of kinds)
        assert.ok(
          past.some((head) => kind.test(head)),
          String(kind),
        );
      for (const key of await bucket.keys('p/')) await bucket.remove(key);
    });
  }

  it('is reached through the tunnels of a proxy, which sees none of it', async () => {
    heads.length = 0;
    connections = 0;
    const proxy = await HttpProxy.start();
    const words = [client, bucket.name, `https://localhost:${port}`];
    const { code, said } = await run(words, authority, 'AWS_CA_BUNDLE', { HTTPS_PROXY: proxy.url });
    await proxy.close();
    assert.equal(code, 0, said);
    assert.ok(proxy.passed.length > 0);
    assert.ok(proxy.passed.every((line) => line === `CONNECT localhost:${port}`));
    assert.ok(heads.length > 0);
    // Each connection that the server has seen was a tunnel.
    assert.equal(proxy.passed.length, connections);
    for (const key of await bucket.keys('p/')) await bucket.remove(key);
  });

  it("is refused at the start where its certificate is not trusted, or is another name's, and the error says so", async () => {
    const before = heads.length;
    const folder = await temporaryFolder();
    const cache = await temporaryFolder();
    const mount = (host: string): string[] => {
      const options = { bucket: bucket.name, endpoint: `https://${host}:${port}`, 'cache-dir': cache };
      const given = Object.entries(options).flatMap(([option, value]) => [`--${option}`, value]);
      return [program, 'mount', folder, '--backend', 's3', '--path-style', ...given];
    };
    const untrusted = await run(mount('localhost'), undefined);
    assert.deepEqual([untrusted.code, untrusted.said.trim().split('\n').length], [2, 1], untrusted.said);
    assert.match(
      untrusted.said,
      /https:\/\/localhost:\d+: the server's certificate is not trusted \(DEPTH_ZERO_SELF_SIGNED_CERT\); NODE_EXTRA_CA_CERTS/,
    );
    const misnamed = await run(mount('127.0.0.1'), authority);
    assert.equal(misnamed.code, 2, misnamed.said);
    assert.match(misnamed.said, /certificate is not trusted \(ERR_TLS_CERT_ALTNAME_INVALID\)/);
    assert.equal(heads.length, before);
  });
});
