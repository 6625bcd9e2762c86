import { spawn } from 'node:child_process';
import { chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { freePort } from './free-port.js';
import { temporaryDirectory } from './host-mount.js';

/** Owner of files of an Apache that root has started: `www-data` of Debian. */
const WWW_DATA = 33;
const MODULES = ['mpm_event', 'authz_core', 'dav', 'dav_fs'];

/** An Apache with mod_dav, of Debian's package `apache2-bin`. */
export interface WebdavServer extends AsyncDisposable {
  /** Address of the directory. */
  readonly url: string;
  /** The directory on this host. */
  readonly directory: string;
}

/** Starts a server with an empty directory. */
export async function webdavServer(): Promise<WebdavServer> {
  const folder = await temporaryDirectory();
  const directory = join(folder.path, 'www');
  const isRoot = process.getuid!() === 0;
  for (const path of [directory, join(folder.path, 'locks')]) mkdirSync(path);
  for (const path of isRoot ? [folder.path, directory, join(folder.path, 'locks')] : [])
    chownSync(path, WWW_DATA, WWW_DATA);
  const port = await freePort();
  const log = join(folder.path, 'log');
  const configuration = [
    `ServerName localhost`,
    `ServerRoot ${folder.path}`,
    `PidFile ${join(folder.path, 'pid')}`,
    `ErrorLog ${log}`,
    `Listen 127.0.0.1:${port}`,
    ...MODULES.map((name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`),
    ...(isRoot ? ['User www-data', 'Group www-data'] : []),
    'StartServers 1',
    `DocumentRoot ${directory}`,
    `DavLockDB ${join(folder.path, 'locks/db')}`,
    `<Directory ${directory}>`,
    'Dav On',
    'Require all granted',
    '</Directory>',
  ];
  const file = join(folder.path, 'apache.conf');
  writeFileSync(file, `${configuration.join('\n')}\n`);
  const server = spawn('apache2', ['-f', file, '-DFOREGROUND'], { stdio: 'inherit' });
  const ended = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  const url = `http://127.0.0.1:${port}/`;
  while (
    !(await fetch(url, { method: 'OPTIONS' }).then(
      () => true,
      () => false,
    ))
  ) {
    if (server.exitCode !== null) throw new Error(`apache2 ended with ${server.exitCode}`);
    await setTimeout(20);
  }
  return {
    url,
    directory,
    async [Symbol.asyncDispose]() {
      server.kill('SIGTERM');
      await ended;
      await folder[Symbol.asyncDispose]();
    },
  };
}
