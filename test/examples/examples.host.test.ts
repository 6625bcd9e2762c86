import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { Backend } from '../../core/backend/index.js';
import { cases, checkBackend } from '../../core/contract/index.js';
import gitCommits from '../../examples/git-commits.js';
import httpDirectory from '../../examples/http-directory.js';
import keyValue from '../../examples/key-value.js';
import { engine } from '../support/engine.js';
import { type FuseClient, ROOT } from '../support/fuse-client.js';
import { keepingLog, pluginEnvironment, temporaryDirectory } from '../support/host-mount.js';

/** Checks the rules that the example has methods for. */
async function keepsContract(create: () => Backend, least: number): Promise<void> {
  const log = keepingLog();
  const { results, passed } = await checkBackend({ create, log });
  assert.deepEqual(
    results.filter(({ outcome }) => outcome === 'failed').map(({ name, reason }) => `${name}: ${reason}`),
    [],
  );
  assert.ok(passed >= least, `${passed} rules`);
}

async function withGuest(backend: Backend, use: (client: FuseClient) => Promise<void>): Promise<void> {
  const running = await engine(backend);
  const { client, session } = running.guest();
  await client.init();
  await use(client);
  await session.close();
  await running.export.close();
  assert.deepEqual(running.log.errors, []);
}

async function contentOf(client: FuseClient, path: string): Promise<string> {
  const { nodeid, attr } = await client.walk(path);
  const { fh } = await client.open(nodeid);
  let content = Buffer.alloc(0);
  while (content.length < attr.size)
    content = Buffer.concat([content, await client.read(nodeid, fh, content.length, 2 ** 17)]);
  await client.release(nodeid, fh);
  return content.toString();
}

describe('the key-value example', () => {
  it('keeps the contract, each rule with a store of its own: it has no directories', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    let passed = 0;
    for (const [index, { name }] of cases.entries()) {
      const store = join(folder.path, `${index}.json`);
      const create = () => keyValue.create({ store }, pluginEnvironment()) as Backend;
      const log = keepingLog();
      const { results } = await checkBackend({ create, log, only: (one) => one === name });
      for (const { outcome, reason } of results) {
        if (outcome === 'passed') passed += 1;
        if (outcome === 'failed') assert.match(name, KEEPS_NO_MODES, reason);
      }
    }
    assert.ok(passed >= 30, `${passed} rules`);
  });

  it('keeps what was written in its document', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const store = join(folder.path, 'store.json');
    const create = () => keyValue.create({ store }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      const { entry, open } = await client.create(ROOT, 'answer');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('42\n'));
      await client.flush(entry.nodeid, open.fh);
      await client.release(entry.nodeid, open.fh);
      await client.rename(ROOT, 'answer', ROOT, 'the answer');
    });
    assert.deepEqual(JSON.parse(readFileSync(store, 'utf8')), { 'the answer': 'NDIK' });
    await withGuest(create(), async (client) => assert.equal(await contentOf(client, 'the answer'), '42\n'));
  });
});

/** The store has nothing but keys and values. */
const KEEPS_NO_MODES =
  /mode|owner|belongs|times are kept|restart|offsets beyond 4 GiB|random sequences|change of attributes/;

describe('the git example', () => {
  it('shows branches, tags and commits as they are, and keeps the contract', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const { path: repository } = folder;
    const git = (...args: string[]): string =>
      execFileSync('git', ['-C', repository, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args], {
        encoding: 'utf8',
      }).trim();
    git('init', '-q', '-b', 'main');
    execFileSync('sh', ['-c', 'mkdir -p d && echo one > d/file && ln -s d/file link'], { cwd: repository });
    git('add', '.');
    git('commit', '-qm', 'one');
    git('tag', 'v1');
    writeFileSync(join(repository, 'd/file'), 'two\n');
    git('commit', '-qam', 'two');
    const create = () => gitCommits.create({ repository }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['main', 'v1']);
      assert.equal(await contentOf(client, 'main/d/file'), 'two\n');
      assert.equal(await contentOf(client, 'v1/d/file'), 'one\n');
      assert.equal(await contentOf(client, `${git('rev-parse', 'v1')}/d/file`), 'one\n');
      assert.equal(await client.readlink((await client.walk('main/link')).nodeid), 'd/file');
      await assert.rejects(client.walk('--help'));
      await assert.rejects(client.walk('main/none'));
    });
    await keepsContract(create, 10);
  });
});

const FILES: Readonly<Record<string, string>> = {
  '/pub/file': 'content '.repeat(100_000),
  '/pub/a b/deep': 'deep\n',
};

function answer({ url = '/', method, headers }: IncomingMessage, response: ServerResponse): void {
  const path = decodeURIComponent(url);
  const content = FILES[path];
  if (path.endsWith('/')) {
    const names = Object.keys(FILES).flatMap((file) =>
      file.startsWith(path) ? [/^[^/]+\/?/.exec(file.slice(path.length))![0]] : [],
    );
    response.end(
      names.map((name) => `<a href="${encodeURI(name)}">${name}</a>`).join('\n') + '<a href="../">',
    );
  } else if (content === undefined) response.writeHead(404).end();
  else {
    const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
    const part = start === undefined ? content : content.slice(Number(start), Number(end) + 1);
    response.writeHead(start === undefined ? 200 : 206, { 'content-length': part.length });
    response.end(method === 'HEAD' ? undefined : part);
  }
}

async function webServer(t: TestContext): Promise<{ readonly url: string; readonly requests: string[] }> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url} ${request.headers.range ?? ''}`.trim());
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/pub/`, requests };
}

describe('the HTTP example', () => {
  it('reads ranges once, shows directories, and keeps the contract', async (t) => {
    const { url, requests } = await webServer(t);
    const create = () => httpDirectory.create({ url, seconds: 60 }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['a b', 'file']);
      assert.equal(await contentOf(client, 'a b/deep'), 'deep\n');
      assert.equal(await contentOf(client, 'file'), FILES['/pub/file']);
      const before = requests.length;
      assert.equal(await contentOf(client, 'file'), FILES['/pub/file']);
      assert.equal(requests.length, before);
      assert.ok(requests.includes('GET /pub/file bytes=131072-262143'), requests.join('\n'));
      await assert.rejects(client.walk('none'));
    });
    await keepsContract(create, 10);
  });
});
