import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import environment from '../../examples/environment.js';
import gitCommits from '../../examples/git-commits.js';
import httpDirectory from '../../examples/http-directory.js';
import jsonDocument from '../../examples/json-document.js';
import keyValue from '../../examples/key-value.js';
import passphraseVault from '../../examples/passphrase-vault.js';
import requestLog from '../../examples/request-log.js';
import sqliteTables from '../../examples/sqlite-tables.js';
import tarArchive from '../../examples/tar-archive.js';
import webdavDirectory from '../../examples/webdav-directory.js';
import zipArchive from '../../examples/zip-archive.js';
import type { Backend, BackendPlugin, PluginEnvironment } from '../../core/backend/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import { keepingLog } from './host-mount.js';
import { webdavServer } from './webdav-server.js';

/** What a plugin of an example gets, with which it makes the backends below it. */
export function exampleEnvironment(): PluginEnvironment {
  const log = keepingLog();
  return { log, createBackend: (spec) => new BackendRegistry().create(spec, { log }) };
}

/** An example of a backend, tried by a shell where it is mounted. */
export interface ExampleTrial {
  readonly name: string;
  create(): Promise<Backend>;
  readonly script: string;
  readonly output: string;
}

function trial<Options>(
  name: string,
  plugin: BackendPlugin<Options>,
  options: Options,
  script: string,
  ...output: readonly string[]
): ExampleTrial {
  const create = async (): Promise<Backend> =>
    (await plugin.create(options, exampleEnvironment())) as Backend;
  return { name, create, script, output: output.map((line) => `${line}\n`).join('') };
}

/** Each example with data of its own below a folder. */
export async function exampleTrials(t: TestContext, folder: string): Promise<readonly ExampleTrial[]> {
  const below = (...names: string[]): string => join(folder, ...names);
  process.env['VIRTIOFS_KIT_EXAMPLE'] = 'value';
  writeFileSync(below('document.json'), JSON.stringify({ list: ['one', { two: 2 }] }));
  const tree = below('tree');
  mkdirSync(join(tree, 'deep/er'), { recursive: true });
  writeFileSync(join(tree, 'deep/er/text'), 'text\n'.repeat(40_000));
  symlinkSync('deep/er/text', join(tree, 'link'));
  execFileSync('tar', ['cf', below('archive.tar'), '-C', tree, '.']);
  execFileSync('zip', ['-qry', below('archive.zip'), '.'], { cwd: tree });
  execFileSync('sh', ['-c', 'git init -qb main && git add . && git commit -qm one'], {
    cwd: tree,
    env: { ...process.env, EMAIL: 'a@b', GIT_AUTHOR_NAME: 'a', GIT_COMMITTER_NAME: 'a' },
  });
  execFileSync('sqlite3', [
    below('shop.db'),
    "CREATE TABLE orders (item); INSERT INTO orders VALUES ('tea')",
  ]);
  for (const name of ['shared', 'vault']) mkdirSync(below(name));
  writeFileSync(below('shared/text'), 'text\n');
  writeFileSync(below('passphrase'), 'correct horse\n');
  const { url } = await webServer(t);
  const webdav = await webdavServer();
  t.after(() => webdav[Symbol.asyncDispose]());
  const archived = 'wc -c < deep/er/text; tail -c 5 link; readlink link; ls';
  const shown = ['200000', 'text', 'deep/er/text', 'deep', 'link'];
  return [
    trial(
      'environment',
      environment,
      { prefix: 'VIRTIOFS_KIT_E' },
      'ls; cat *',
      'VIRTIOFS_KIT_EXAMPLE',
      'value',
    ),
    trial(
      'json-document',
      jsonDocument,
      { file: below('document.json') },
      'cat list/0 list/1/two',
      'one',
      '2',
    ),
    trial('key-value', keyValue, { store: below('store') }, 'echo 42 > a; mv a b; ls; cat b', 'b', '42'),
    trial(
      'git-commits',
      gitCommits,
      { repository: tree },
      'cd main; wc -c < link; readlink link',
      '200000',
      'deep/er/text',
    ),
    trial(
      'http-directory',
      httpDirectory,
      { url, seconds: 60 },
      "cat 'a b/deep'; wc -c < file",
      'deep',
      '800000',
    ),
    trial('zip-archive', zipArchive, { archive: below('archive.zip') }, archived, ...shown),
    trial('tar-archive', tarArchive, { archive: below('archive.tar') }, archived, ...shown),
    trial(
      'sqlite-tables',
      sqliteTables,
      { database: below('shop.db') },
      `cd orders; echo '{"item":"salt"}' > new && mv new 2.json; cat 1.json 2.json | grep item; rm 1.json; ls`,
      '  "item": "tea"',
      '  "item": "salt"',
      '2.json',
    ),
    trial(
      'request-log',
      requestLog,
      { directory: below('shared') },
      `cat files/text; mkdir -p files/a/b; rmdir files/a 2> /dev/null; cut -d ' ' -f 2-3,6 requests/failed | tail -n 1`,
      'text',
      'rmdir "a" ENOTEMPTY',
    ),
    trial(
      'webdav-directory',
      webdavDirectory,
      { url: webdav.url, seconds: 5 },
      'mkdir d; echo one > d/file; echo two >> d/file; mv d/file "d/a file"; cat "d/a file"; ls d',
      'one',
      'two',
      'a file',
    ),
    trial(
      'passphrase-vault',
      passphraseVault,
      { directory: below('vault'), passphraseFile: below('passphrase') },
      'echo secret > diary; mkdir d; mv diary d; cat d/diary; ls',
      'secret',
      'd',
    ),
  ];
}

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

/** A web server with a directory that is listed, and the requests that it gets. */
export async function webServer(
  t: TestContext,
): Promise<{ readonly url: string; readonly requests: string[]; readonly file: string }> {
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
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/pub/`;
  return { url, requests, file: FILES['/pub/file']! };
}
