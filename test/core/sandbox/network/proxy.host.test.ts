import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createPlain, type RequestListener, type Server } from 'node:http';
import { createServer as createSecure, globalAgent } from 'node:https';
import { type AddressInfo, createServer as createSocketServer, type Server as SocketServer } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Folder, Sink, Source } from '../../../../core/sandbox/control-share.js';
import { NetworkProxy, type NetworkOptions } from '../../../../core/sandbox/network/proxy.js';
import { temporaryDirectory } from '../../../support/host-mount.js';
import { until } from '../../../support/vhost-user.js';

const silent = (): void => {};
const LOG = { debug: silent, info: silent, warn: silent, error: silent };

async function listening(server: Server | SocketServer): Promise<number> {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** Answers with what was asked. */
const echo: RequestListener = (request, response) => {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => {
    const { method, url, headers } = request;
    response.setHeader('X-Asked', JSON.stringify({ method, url, headers }));
    response.end(Buffer.concat(parts));
  });
};

/** A connection as the guest makes it, through the share. */
class GuestSide {
  readonly #folder: Folder;
  readonly #reader: ReturnType<Source['open']>;

  private constructor(folder: Folder) {
    this.#folder = folder;
    this.#reader = (folder.entries.get('in') as Source).open();
  }

  static async open({ share }: NetworkProxy): Promise<GuestSide | undefined> {
    // As a shell's `read` does.
    const names = (share.root.entries.get('new') as Source).open();
    let id = '';
    while (!id.endsWith('\n')) {
      const byte = await names.read(1);
      if (byte.length === 0) return undefined;
      assert.equal(byte.length, 1);
      id += Buffer.from(byte).toString();
    }
    return new GuestSide(share.root.entries.get(id.trim()) as Folder);
  }

  async say(bytes: string | Buffer): Promise<void> {
    await (this.#folder.entries.get('out') as Sink).write(Buffer.from(bytes));
  }

  hangUp(): void {
    (this.#folder.entries.get('out') as Sink).closed();
  }

  async hear(until = ''): Promise<string> {
    let all = '';
    for (;;) {
      const part = await this.#reader.read(65_536);
      if (part.length === 0) return all;
      all += Buffer.from(part).toString('latin1');
      if (until !== '' && all.includes(until)) return all;
    }
  }
}

async function said(proxy: NetworkProxy, request: string | Buffer, until = ''): Promise<string> {
  const guest = (await GuestSide.open(proxy))!;
  const [answer] = await Promise.all([guest.hear(until), guest.say(request)]);
  guest.hangUp();
  return answer;
}

function proxyOf(options: NetworkOptions): NetworkProxy {
  const proxy = new NetworkProxy(options, LOG);
  after(() => proxy.close());
  return proxy;
}

const get = (url: string, more = ''): string => `GET ${url} HTTP/1.1\r\nConnection: close\r\n${more}\r\n`;

test('a request goes to what is allowed, and to nothing else', async () => {
  const port = await listening(createPlain(echo));
  const proxy = proxyOf({
    allow: [`127.0.0.1:${port}`, 'EXAMPLE.com', '*.example.org', `host.internal:${port}`],
  });
  const allowed = await said(
    proxy,
    get(`http://127.0.0.1:${port}/a?b`, 'Host: x\r\nProxy-Authorization: y\r\n'),
  );
  assert.match(allowed, /^HTTP\/1.1 200 /);
  assert.match(allowed, new RegExp(`"url":"/a\\?b","headers":\\{"host":"127.0.0.1:${port}"`));
  assert.doesNotMatch(allowed, /proxy-auth/i);
  assert.match(await said(proxy, get(`http://host.internal:${port}/`)), /^HTTP\/1.1 200 /);
  for (const url of [
    `http://localhost:${port}/`,
    `http://127.0.0.1:${port + 1}/`,
    `http://127.0.0.1/`,
    'http://example.com:8080/',
    'http://www.example.com/',
    'http://example.org/',
    'http://badexample.org/',
    'http://user@other.net/',
  ])
    assert.match(await said(proxy, get(url)), /^HTTP\/1.1 403 [^]*not allowed by this sandbox/, url);
  assert.match(await said(proxy, get('/local')), /^HTTP\/1.1 400 /);
  assert.match(await said(proxy, 'nonsense\r\n\r\n'), /^HTTP\/1.1 400 /);
  const below = proxyOf({ allow: [`*.internal:${port}`, `*.net:${port}`] });
  assert.match(await said(below, get(`http://host.internal:${port}/`)), /^HTTP\/1.1 403 /);
  for (const name of ['a b', '', '*', '*.*', 'http://a', 'a:0', 'a:65536', 'a:b', '*.0.0.1', '*.1:80'])
    assert.throws(() => proxyOf({ allow: [name] }), /no name that can be allowed/, name);
});

test('a name that leads to a private address is refused, if that is not wanted', async () => {
  const port = await listening(createPlain(echo));
  const allow = [`localhost:${port}`];
  assert.match(
    await said(proxyOf({ allow }), get(`http://localhost:${port}/`)),
    /^HTTP\/1.1 502 [^]*not of the public/,
  );
  const connect = `CONNECT localhost:${port} HTTP/1.1\r\n\r\n`;
  assert.match(await said(proxyOf({ allow }), connect), /^HTTP\/1.1 502 [^]*not of the public/);
  const open = proxyOf({ allow, internal: true });
  assert.match(await said(open, get(`http://localhost:${port}/`)), /^HTTP\/1.1 200 /);
});

test('megabytes pass in both directions, at the pace of whoever reads', async () => {
  const port = await listening(createPlain(echo));
  const proxy = proxyOf({ allow: [`host.internal:${port}`] });
  const body = Buffer.alloc(3_000_000, 'some text that is not the same everywhere ');
  const head = `POST http://host.internal:${port}/ HTTP/1.1\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
  const answer = await said(proxy, Buffer.concat([Buffer.from(head), body]));
  assert.ok(answer.endsWith(body.toString('latin1')), answer.slice(0, 300));
});

test('CONNECT makes a tunnel to what is allowed, which ends with either side', async () => {
  const port = await listening(
    createSocketServer((socket) => {
      socket.on('data', (bytes: Buffer) => socket.write(bytes.toString().toUpperCase()));
    }),
  );
  const proxy = proxyOf({ allow: [`host.internal:${port}`] });
  const guest = (await GuestSide.open(proxy))!;
  await guest.say(`CONNECT host.internal:${port} HTTP/1.1\r\nHost: x\r\n\r\nearly `);
  assert.match(await guest.hear('EARLY '), /^HTTP\/1.1 200 [^]*\r\n\r\nEARLY $/);
  await guest.say('late');
  assert.equal(await guest.hear('LATE'), 'LATE');
  guest.hangUp();
  assert.equal(await guest.hear(), '');
  for (const place of [`host.internal:${port + 1}`, `127.0.0.1:${port}`, 'nonsense', 'a:99999'])
    assert.match(await said(proxy, `CONNECT ${place} HTTP/1.1\r\n\r\n`), /^HTTP\/1.1 (403|400) /, place);
  // What has ended takes no place.
  await setImmediate();
  const all = await Promise.all(Array.from({ length: 64 }, () => GuestSide.open(proxy)));
  assert.ok(all.every((side) => side !== undefined));
  assert.equal(await GuestSide.open(proxy), undefined);
  proxy.close();
  await setImmediate();
  assert.deepEqual(
    [...proxy.share.readdir(proxy.share.root)].map(({ name }) => name),
    ['connect', 'new'],
  );
});

test('a secret header is added on the way, over TLS where its address says so', async () => {
  await using host = await temporaryDirectory();
  const [keyFile, file] = [join(host.path, 'key'), join(host.path, 'cert')];
  const name = ['-subj', '/CN=host.internal', '-addext', 'subjectAltName=DNS:host.internal'];
  const kind = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-days',
    '2',
  ];
  execFileSync('openssl', [...kind, ...name, '-keyout', keyFile, '-out', file], { stdio: 'ignore' });
  const certificate = readFileSync(file);
  const { ca } = globalAgent.options;
  globalAgent.options.ca = certificate;
  after(() => (globalAgent.options.ca = ca));
  const secure = await listening(createSecure({ key: readFileSync(keyFile), cert: certificate }, echo));
  const plain = await listening(createPlain(echo));
  const proxy = proxyOf({
    allow: [secure, plain].map((port) => `host.internal:${port}`),
    headers: { [`https://host.internal:${secure}`]: { Authorization: 'Bearer secret' } },
  });
  const forged = 'authorization: mine\r\n';
  const answer = await said(proxy, get(`http://host.internal:${secure}/`, forged));
  assert.match(answer, /^HTTP\/1.1 200 [^]*"authorization":"Bearer secret"/i);
  assert.doesNotMatch(answer, /mine/);
  assert.doesNotMatch(await said(proxy, get(`http://host.internal:${plain}/`)), /secret/);
  assert.throws(() => proxyOf({ allow: [], headers: { 'ftp://a': {} } }), /must be http:\/\/NAME/);
  // Such as a file of a secret has at its end.
  const badly: Record<string, string>[] = [{ Authorization: 'secret\n' }, { 'a b': 'secret' }];
  for (const headers of badly)
    assert.throws(
      () => proxyOf({ allow: [], headers: { 'https://a': headers } }),
      (error: Error) => error.name === 'UsageError' && !error.message.includes('secret'),
    );
});

test('a request is one request there, whatever its method, and has a connection of its own', async () => {
  const asked: string[] = [];
  const server = createPlain((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.connection}`);
    echo(request, response);
  });
  const port = await listening(server);
  let connections = 0;
  server.on('connection', () => (connections += 1));
  const proxy = proxyOf({ allow: [`host.internal:${port}`] });
  const hidden = 'GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n';
  const chunk = `${hidden.length.toString(16)}\r\n${hidden}\r\n0\r\n\r\n`;
  const url = `http://host.internal:${port}/seen`;
  for (const method of ['GET', 'DELETE', 'POST']) {
    const head = `${method} ${url} HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n`;
    assert.match(await said(proxy, head + chunk), /^HTTP\/1.1 200 [^]*GET \/hidden/, method);
  }
  assert.deepEqual(asked, ['GET /seen close', 'DELETE /seen close', 'POST /seen close']);
  assert.equal(connections, 3);
});

test('a server that answers with what is no HTTP does not end the proxy', async () => {
  const answers = [
    'HTTP/1.1 000 Odd\r\n\r\n',
    'HTTP/1.1 099 Odd\r\n\r\n',
    'nonsense',
    'HTTP/1.1 101 Odd\r\n\r\n',
  ];
  for (let byte = 0; byte < 256; byte++) {
    const odd = String.fromCharCode(byte);
    answers.push(`HTTP/1.1 200 OK\r\nA: b${odd}c\r\n\r\n`, `HTTP/1.1 200 OK\r\nA${odd}b: c\r\n\r\n`);
  }
  const port = await listening(
    createSocketServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end(Buffer.from(answers.shift()!, 'latin1')));
    }),
  );
  const proxy = proxyOf({ allow: [`host.internal:${port}`] });
  while (answers.length > 0) {
    const [next] = answers;
    assert.match(await said(proxy, get(`http://host.internal:${port}/`)), /^HTTP\/1.1 (200|502) /, next);
  }
});

test('a flood of requests that wait for an answer is cut off, with all that they hold', async () => {
  let open = 0;
  let most = 0;
  const port = await listening(
    createSocketServer((socket) => {
      most = Math.max(most, (open += 1));
      socket
        .on('error', () => {})
        .on('close', () => (open -= 1))
        .resume();
    }),
  );
  const proxy = proxyOf({ allow: [`host.internal:${port}`] });
  const guest = (await GuestSide.open(proxy))!;
  const request = `GET http://host.internal:${port}/ HTTP/1.1\r\n\r\n`;
  await guest.say(request.repeat(10));
  await until(() => open === 10, 'ten requests under way');
  await guest.say(request.repeat(5000));
  assert.equal(await guest.hear(), '');
  await until(() => open === 0, 'the end of all requests');
  assert.ok(most <= 16, String(most));
});

test('bytes are held until they are wanted, and no more meanwhile, though the guest gives up its writes', async () => {
  const port = await listening(createSocketServer((socket) => socket.resume().on('error', () => {})));
  const guest = (await GuestSide.open(proxyOf({ allow: [`host.internal:${port}`] })))!;
  await guest.say(`CONNECT host.internal:${port} HTTP/1.1\r\n\r\n`);
  await guest.hear('\r\n\r\n');
  const piece = Buffer.alloc(1 << 20);
  const first = guest.say(piece);
  await assert.rejects(guest.say(piece), { code: 'EAGAIN' });
  await first;
});
