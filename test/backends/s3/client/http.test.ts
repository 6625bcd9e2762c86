import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { readListing } from '../../../../backends/s3/client/listing.js';
import { connectionsTo } from '../../../../backends/s3/client/connections.js';
import { DirectConnections } from '../../../../backends/s3/client/direct.js';
import { Collected, exchange as exchangeBy, into } from '../../../../backends/s3/client/http.js';
import type { Sink, WireAnswer, WireRequest } from '../../../../backends/s3/client/http.js';

const signal = (): AbortSignal => new AbortController().signal;

type Exchange = (
  request: WireRequest,
  signal: AbortSignal,
  accept: (answer: WireAnswer) => Sink | undefined,
) => Promise<WireAnswer>;

const LONG_CHUNK_LINE = `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;${'x'.repeat(100_000)}\r\n`;

/** How requests are sent: by way of proxies, and without. */
const ways: Readonly<Record<string, (port: number) => { exchange: Exchange; close: () => void }>> = {
  undici: (port) => {
    const origin = connectionsTo(`http://127.0.0.1:${port}`, 1);
    return { exchange: (...sent) => exchangeBy(origin, ...sent), close: () => void origin.destroy() };
  },
  'connections of our own': (port) => {
    const direct = new DirectConnections({ protocol: 'http:', hostname: '127.0.0.1', port }, undefined);
    return { exchange: (...sent) => direct.exchange(...sent), close: () => direct.close() };
  },
};

for (const [way, open] of Object.entries(ways))
  describe(`answers as they come over a connection, by ${way}`, () => {
    let server: Server;
    let exchange: Exchange;
    let close: () => void;
    let connections = 0;
    /** What the server sends for each request, in pieces. */
    let answer: readonly string[] = [];
    let end = false;
    const sockets = new Set<Socket>();

    before(async () => {
      server = createServer((socket) => {
        connections += 1;
        sockets.add(socket);
        socket.setNoDelay(true);
        socket.on('error', () => undefined);
        socket.on('data', () => void send(socket));
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      ({ exchange, close } = open(port));
    });
    after(async () => {
      close();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    });

    async function send(socket: Socket): Promise<void> {
      for (const piece of answer) {
        await new Promise((resolve) => socket.write(piece, 'latin1', resolve));
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (end) socket.end();
    }

    async function ask(method: 'GET' | 'HEAD', ...pieces: string[]): Promise<[WireAnswer, string]> {
      answer = pieces;
      const body = new Collected();
      const request = { method, path: '/', headers: { host: 'here' } };
      return [await exchange(request, signal(), () => body), body.toString()];
    }

    it('are the same however they are cut', async () => {
      const plain = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a:2 \r\n\r\nhello';
      const chunks =
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: t\r\n\r\n';
      for (const text of [plain, chunks]) {
        for (let at = 1; at < text.length; at++) {
          const [{ status }, body] = await ask('GET', text.slice(0, at), text.slice(at));
          assert.deepEqual([status, body], [200, 'hello'], `cut at ${at}`);
        }
      }
      const [{ headers }] = await ask('GET', ...plain);
      assert.equal(headers.get('x-a'), '1, 2');
      assert.equal(connections, 1);
    });

    it('have no body where HTTP gives them none', async () => {
      assert.equal((await ask('HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'))[0].status, 200);
      assert.equal((await ask('GET', 'HTTP/1.1 204 None\r\n\r\n'))[1], '');
    });

    it('that end early, were not asked for or are none are errors, and their connection is not used again', async () => {
      const before = connections;
      const bad = [
        'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n',
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n',
        'HTTP/1.1 200 OK\r\nno header\r\n\r\n',
        'SSH-2.0\r\n\r\n',
        `HTTP/1.1 200 OK\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`,
      ];
      // undici takes lines of any length, and waits for what follows.
      if (way !== 'undici') bad.push(LONG_CHUNK_LINE);
      for (const text of bad) await assert.rejects(ask('GET', text));
      end = true;
      await assert.rejects(ask('GET', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello'));
      await assert.rejects(ask('GET', 'HTTP/1.1 200'));
      await assert.rejects(ask('GET', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nh'));
      end = false;
      assert.ok(connections >= before + bad.length + 2);
    });

    it('of unknown length end with their connection', async () => {
      end = true;
      const [{ status }, body] = await ask('GET', 'HTTP/1.1 200 OK\r\n\r\nhel', 'lo');
      assert.deepEqual([status, body], [200, 'hello']);
      end = false;
    });

    it('that nobody wants are read away, and bodies go where they belong', async () => {
      answer = ['HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello'];
      const request = { method: 'GET', path: '/', headers: { host: 'here' } } as const;
      assert.equal((await exchange(request, signal(), () => undefined)).status, 404);
      const before = connections;
      const target = Buffer.alloc(5);
      await exchange(request, signal(), () => into(target));
      assert.deepEqual([target.toString(), connections], ['hello', before]);
      await assert.rejects(
        exchange(request, signal(), () => into(Buffer.alloc(4))),
        /longer/,
      );
      const refused = new Error('refused');
      const refuse = (): never => {
        throw refused;
      };
      await assert.rejects(exchange(request, signal(), refuse), refused);
      answer = ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'hello'];
      const full: Sink = { room: refuse, took: refuse };
      await assert.rejects(
        exchange(request, signal(), () => full),
        refused,
      );
    });

    it('are collected up to so many bytes, and one that has more is an error', async () => {
      const request = { method: 'GET', path: '/', headers: { host: 'here' } } as const;
      const [long, short] = ['x'.repeat(100_001), 'x'.repeat(100_000)];
      const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
      for (const body of [long, short]) {
        const chunk = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
        for (const text of [
          `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
          `${chunked}${chunk}`,
        ]) {
          answer = [text];
          const collected = new Collected(100_000);
          const asked = exchange(request, signal(), () => collected);
          if (body === long) await assert.rejects(asked, /longer/);
          else assert.equal((await asked).status, 200);
          assert.equal(collected.toString(), short);
        }
      }
    });

    it('have values without the blanks around them, however many are within', async () => {
      const value = `a${' \t'.repeat(6_000)}b`;
      const [{ headers }] = await ask('GET', `HTTP/1.1 204 None\r\nx-a:\t  ${value}\t \r\nx-b: \r\n\r\n`);
      assert.deepEqual([headers.get('x-a'), headers.get('x-b')], [value, '']);
    });

    it('that do not come are given up with the reason', async () => {
      answer = [];
      const controller = new AbortController();
      const request = { method: 'HEAD', path: '/', headers: { host: 'here' } } as const;
      const waiting = exchange(request, controller.signal, () => undefined);
      const reason = new Error('enough');
      controller.abort(reason);
      await assert.rejects(waiting, reason);
    });
  });

describe('listings', () => {
  const object = (key: string): string =>
    `<Contents><Key>${key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size></Contents>`;
  const page = (inner: string): string =>
    `<?xml version="1.0"?><ListBucketResult xmlns="x"><Prefix>p</Prefix><EncodingType>url</EncodingType>${inner}</ListBucketResult>`;

  it('are read as servers write them', () => {
    const groups = '<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>';
    const more = '<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b&#65;</NextContinuationToken>';
    const found = readListing(page(object('a%20b') + groups + more), decodeURIComponent);
    const modified = Date.UTC(2026, 0, 2, 3, 4, 5) / 1000;
    assert.deepEqual(found, {
      objects: [{ key: 'a b', etag: 'e', size: 7, modified, storageClass: undefined }],
      prefixes: ['d/'],
      next: 'a&bA',
    });
  });

  it('that are cut off, miscounted or of another kind are not read', () => {
    const whole = page(`${object('a')}<IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>`);
    assert.equal(readListing(whole, String)?.objects.length, 1);
    for (const other of [
      whole.slice(0, -3),
      whole.replace('<KeyCount>1', '<KeyCount>2'),
      whole.replace('<EncodingType>url</EncodingType>', ''),
      whole.replace('<Size>7', '<Size>seven'),
      whole.replace('<Key>', '<!-- x --><Key>'),
      whole.replace('false', 'true'),
      '<Error/>',
    ]) {
      assert.equal(readListing(other, String), undefined);
    }
  });
});
