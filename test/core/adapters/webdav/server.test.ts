import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fromWebdav, type WebdavOptions } from '../../../../core/adapters/index.js';
import { type Backend, Errno } from '../../../../core/backend/index.js';
import { engine } from '../../../support/engine.js';
import { type FuseClient, rejectsWith, ROOT } from '../../../support/fuse-client.js';

/* Servers that mean harm, or that know less of WebDAV than others. */

/** What a server does in its own way. @returns whether that was all. */
type Odd = (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;

interface OddServer {
  readonly url: string;
  /** Files below `/dav/`, by their names. */
  readonly files: Map<string, string>;
  /** Methods and paths that were asked for. */
  readonly requests: string[];
}

const PROPERTIES = (length: number | undefined): string =>
  length === undefined
    ? '<resourcetype><collection/></resourcetype>'
    : `<resourcetype/><getcontentlength>${length}</getcontentlength>`;

function resource(href: string, length?: number): string {
  return `<response><href>${href}</href><propstat><prop>${PROPERTIES(length)}</prop></propstat></response>`;
}

const multistatus = (...resources: string[]): string =>
  `<multistatus xmlns="DAV:">${resources.join('')}</multistatus>`;

/** A server with files in one directory. */
async function oddServer(t: TestContext, odd: Odd = () => false): Promise<OddServer> {
  const files = new Map<string, string>();
  const requests: string[] = [];
  const server = createServer((request, response) => void answer(request, response));
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '', headers } = request;
    requests.push(`${method} ${url}`);
    const body = (await request.toArray()).join('');
    if (await odd(request, response)) return;
    const name = url.replace('/dav/', '');
    const content = files.get(name);
    if (method === 'PUT') response.writeHead(201).end(void files.set(name, body));
    else if (method === 'PROPFIND' && name === '') {
      const below = headers['depth'] === '0' ? [] : [...files];
      const resources = below.map(([each, { length }]) => resource(`/dav/${each}`, length));
      response.writeHead(207).end(multistatus(resource('/dav/'), ...resources));
    } else if (content === undefined) response.writeHead(404).end();
    else if (method === 'PROPFIND') response.writeHead(207).end(multistatus(resource(url, content.length)));
    else if (method === 'GET') response.end(content);
    else {
      files.delete(name);
      if (method === 'MOVE') files.set(String(headers['destination']).replace(/.*\/dav\//, ''), content);
      response.writeHead(204).end();
    }
  }
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/dav/`, files, requests };
}

/** A promise, and what resolves it. */
function signal(): [Promise<void>, () => void] {
  let resolve!: () => void;
  return [new Promise<void>((done) => (resolve = done)), () => resolve()];
}

async function guestOf(
  t: TestContext,
  url: string,
  options?: WebdavOptions,
): Promise<{ readonly client: FuseClient; readonly errors: () => string }> {
  const running = await engine(fromWebdav(url, options) as Backend);
  const { client, session } = running.guest();
  await client.init();
  t.after(async () => {
    await session.close();
    await running.export.close();
  });
  const errors = (): string =>
    running.log.lines.map(({ fields }) => String((fields as { err?: Error }).err)).join('\n');
  return { client, errors };
}

test('a redirection is followed within the server, and nothing is sent to another one', async (t) => {
  const other = await oddServer(t);
  const server = await oddServer(t, ({ url }, response) => {
    const to = url === '/dav/old' ? '/dav/new' : url === '/dav/away' ? `${other.url}file` : url;
    const isOdd = to !== url || url === '/dav/loop';
    if (isOdd) response.writeHead(307, { location: to }).end();
    return isOdd;
  });
  server.files.set('new', 'content');
  const { client, errors } = await guestOf(t, server.url, { headers: { 'x-token': 'secret' } });
  assert.equal((await client.lookup(ROOT, 'old')).attr.size, 7);
  await rejectsWith(client.lookup(ROOT, 'away'), Errno.EIO);
  assert.match(errors(), /PROPFIND .*away: the server sends it to .*, which is not followed/);
  await rejectsWith(client.lookup(ROOT, 'loop'), Errno.EIO);
  assert.deepEqual(other.requests, []);
});

test('an answer that stops in the middle is ETIMEDOUT', async (t) => {
  const server = await oddServer(t, ({ method }, response) => {
    if (method === 'GET') response.writeHead(206, { 'content-length': 7 }).write('con');
    if (method === 'PROPFIND' && stops) response.writeHead(207).write('<multistatus>');
    return method === 'GET' || stops;
  });
  let stops = false;
  server.files.set('file', 'content');
  const { client } = await guestOf(t, server.url, { timeoutMs: 1000 });
  const { nodeid } = await client.lookup(ROOT, 'file');
  const { fh } = await client.open(nodeid);
  await rejectsWith(client.read(nodeid, fh, 0, 7), Errno.ETIMEDOUT);
  stops = true;
  await rejectsWith(client.list(ROOT), Errno.ETIMEDOUT);
  await rejectsWith(client.lookup(ROOT, 'file'), Errno.ETIMEDOUT);
});

test('an answer without end is EFBIG', async (t) => {
  const part = Buffer.alloc(2 ** 16, '<a/>');
  const server = await oddServer(t, async ({ method }, response) => {
    if (method !== 'PROPFIND') return false;
    response.writeHead(207);
    while (!response.destroyed)
      if (!response.write(part)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
    return true;
  });
  const { client } = await guestOf(t, server.url);
  await rejectsWith(client.lookup(ROOT, 'file'), Errno.EFBIG);
  await rejectsWith(client.list(ROOT), Errno.EFBIG);
});

test('many long answers at a time are ENOMEM, and none is in memory later', async (t) => {
  let ends = false;
  const server = await oddServer(t, ({ headers }, response) => {
    if (headers['depth'] !== '1') return false;
    response.writeHead(207).write(' '.repeat(2 ** 24 - 4096));
    waiting.push(() => response.end(multistatus(resource('/dav/'))));
    if (ends) for (const end of waiting.splice(0)) end();
    return true;
  });
  const waiting: (() => void)[] = [];
  const { client } = await guestOf(t, server.url);
  const listings = Array.from({ length: 6 }, () =>
    client.list(ROOT).then(
      () => 0,
      ({ errno }: { errno: number }) => errno,
    ),
  );
  assert.equal(await Promise.race(listings), Errno.ENOMEM);
  ends = true;
  for (const end of waiting.splice(0)) end();
  const results = await Promise.all(listings);
  assert.ok(results.every((result) => result === 0 || result === Errno.ENOMEM));
  assert.ok(results.filter((result) => result === 0).length >= 3, String(results));
  assert.deepEqual(await client.list(ROOT), []);
});

test('an answer about other paths is an error, not an empty directory', async (t) => {
  const server = await oddServer(t, ({ headers }, response) => {
    if (headers['depth'] === '1')
      response.writeHead(207).end(multistatus(resource('/inner/'), resource('/inner/file', 1)));
    return headers['depth'] === '1';
  });
  const { client, errors } = await guestOf(t, server.url);
  await rejectsWith(client.list(ROOT), Errno.EIO);
  assert.match(errors(), /the answer is about other paths/);
});

test('names that lead elsewhere are none', async (t) => {
  const hrefs = [
    '../x',
    '/dav/%2e%2e%2fx',
    '/dav/a%2Fb',
    '/dav/a%00b',
    '/other/file',
    '/dav/deep/file',
    'http://[',
    '/dav/ok',
  ];
  const server = await oddServer(t, ({ headers }, response) => {
    const resources = hrefs.map((href) => resource(href, 1));
    if (headers['depth'] === '1') response.writeHead(207).end(multistatus(resource('/dav/'), ...resources));
    return headers['depth'] === '1';
  });
  const { client } = await guestOf(t, server.url);
  assert.deepEqual(await client.list(ROOT), ['ok']);
});

test('what is written while a file is moved or replaced goes where the file is', async (t) => {
  const [moving, moved] = signal();
  const [answering, answer] = signal();
  const server = await oddServer(t, async ({ method }, response) => {
    if (method !== 'MOVE') return false;
    server.files.delete('old');
    server.files.set('new', 'first');
    moved();
    await answering;
    response.writeHead(204).end();
    return true;
  });
  server.files.set('old', 'first');
  server.files.set('new', 'replaced');
  const { client } = await guestOf(t, server.url);
  const write = async (name: string): Promise<() => Promise<unknown>> => {
    const { nodeid } = await client.lookup(ROOT, name);
    const { fh } = await client.open(nodeid, 2);
    await client.write(nodeid, fh, 0, Buffer.from('X'));
    return async () => {
      await client.write(nodeid, fh, 0, Buffer.from('Y'));
      return client.flush(nodeid, fh);
    };
  };
  const [again, gone] = [await write('old'), await write('new')];
  const rename = client.rename(ROOT, 'old', ROOT, 'new');
  await moving;
  const flushed = [again(), gone()];
  await setTimeout(50);
  answer();
  await Promise.all([rename, ...flushed]);
  assert.deepEqual(Object.fromEntries(server.files), { new: 'Yirst' });
  assert.equal(server.requests.at(-1), 'PUT /dav/new');
});

test('what was done in part is an error', async (t) => {
  const server = await oddServer(t, ({ method }, response) => {
    if (method === 'MOVE') response.writeHead(207).end(multistatus(resource('/dav/old/child', 1)));
    return method === 'MOVE';
  });
  server.files.set('old', 'x');
  const { client, errors } = await guestOf(t, server.url);
  await client.lookup(ROOT, 'old');
  await rejectsWith(client.rename(ROOT, 'old', ROOT, 'new'), Errno.EIO);
  assert.match(errors(), /MOVE .*: the server did it in part/);
});

test('a file that others have made is not made anew, where a server knows no conditions', async (t) => {
  const server = await oddServer(t);
  server.files.set('file', 'of others');
  const { client } = await guestOf(t, server.url);
  const { entry, open } = await client.create(ROOT, 'file');
  assert.equal(entry.attr.size, 9);
  await client.release(entry.nodeid, open.fh);
  assert.equal(server.files.get('file'), 'of others');
});

test('a file whose length is not said is not replaced by what is written to it', async (t) => {
  const server = await oddServer(t, ({ method, url }, response) => {
    const isOdd = method === 'PROPFIND' && url === '/dav/file';
    if (isOdd) response.writeHead(207).end(multistatus(`<response><href>${url}</href></response>`));
    return isOdd;
  });
  server.files.set('file', 'content');
  const { client } = await guestOf(t, server.url);
  const { nodeid } = await client.lookup(ROOT, 'file');
  const { fh } = await client.open(nodeid, 2);
  await rejectsWith(client.write(nodeid, fh, 0, Buffer.from('X')), Errno.EIO);
  await client.release(nodeid, fh);
  assert.equal(server.files.get('file'), 'content');
});
