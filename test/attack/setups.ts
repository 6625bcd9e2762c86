import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { TestBucket } from '../backends/s3/support.js';

/** A backend of an export. */
export type Options = Readonly<Record<string, unknown>>;

/** A way to serve. */
export interface Setup {
  readonly name: string;
  /** Of the export: queue threads. */
  readonly queueThreads?: number;
  /** Of the export: its own process. */
  readonly isolate?: 'process';
  /** Of the daemon: options of its configuration. */
  daemon?(folder: string): Options;
  /** Options of a backend that has all that it keeps in `folder`, which is there and empty. */
  backend(folder: string): Options | Promise<Options>;
  /** It keeps files open of which guests have gone, while they have names. */
  readonly keepsFiles?: boolean;
  /** Files of its own that it keeps open while nobody uses them, at most. */
  readonly keptFiles?: number;
  /** How long a request of an honest guest may take, in milliseconds: longer, and it was held. */
  readonly heldMs?: number;
  /** How long attackers, and then the daemon, may take to end, in milliseconds. */
  readonly endMs?: number;
}

function passthrough(sharedDir: string, more: object = {}): Options {
  mkdirSync(sharedDir, { recursive: true });
  return { type: 'passthrough', sharedDir, ...more };
}

function overlay(folder: string, upper: Options): Options {
  const lower = join(folder, 'lower');
  const layer = passthrough(lower);
  for (let i = 0; i < 50; i++) writeFileSync(join(lower, `lower-${i}`), new Uint8Array(100_000));
  return { type: 'overlay', lowers: [layer], upper };
}

/** Wrappers, one over the other. */
function wrapped(folder: string, inner: Options): Options {
  const keyFile = join(folder, 'key');
  writeFileSync(keyFile, '1'.repeat(64));
  return { type: 'quota', bytes: '128m', inodes: 50_000, of: { type: 'encrypted', keyFile, of: inner } };
}

/** Directories, volumes and what is written below a cache, with rules on some paths. */
function routed(folder: string): Options {
  return {
    type: 'routed',
    mounts: {
      '/': passthrough(join(folder, 'shared')),
      '/memory': { type: 'memfs', size: '64M' },
      '/wrapped': wrapped(folder, passthrough(join(folder, 'inner'))),
      '/memory/deep/cached': { type: 'cached', bytes: '8m', of: { type: 'memfs', size: '64M' } },
    },
    hidden: ['/hidden'],
    readOnly: ['/memory/fixed'],
    denied: ['/denied'],
    redirected: { '/other': '/memory/real' },
  };
}

/** All ways to serve that are attacked. */
export const setups: readonly Setup[] = [
  { name: 'passthrough', backend: (folder) => passthrough(join(folder, 'shared')) },
  {
    name: 'passthrough with queue threads',
    queueThreads: 2,
    backend: (folder) => passthrough(join(folder, 'shared')),
  },
  {
    name: 'passthrough with io threads',
    backend: (folder) => passthrough(join(folder, 'shared'), { ioThreads: 2 }),
  },
  {
    name: 'passthrough in a process of its own',
    isolate: 'process',
    backend: (folder) => passthrough(join(folder, 'shared')),
  },
  {
    name: 'passthrough with a keeper',
    daemon: () => ({ keep: true }),
    backend: (folder) => passthrough(join(folder, 'shared')),
  },
  { name: 'memfs', backend: () => ({ type: 'memfs', size: '256M' }) },
  {
    name: 'memfs with an access log',
    daemon: (folder) => ({ accessLog: { file: join(folder, 'access.log') } }),
    backend: () => ({ type: 'memfs', size: '256M' }),
  },
  {
    name: 'encrypted passthrough within a quota',
    backend: (folder) => wrapped(folder, passthrough(join(folder, 'shared'))),
  },
  {
    name: 'cached passthrough',
    keepsFiles: true,
    backend: (folder) => ({
      type: 'cached',
      bytes: '8m',
      of: wrapped(folder, passthrough(join(folder, 'shared'))),
    }),
  },
  {
    name: 'several backends in one tree',
    backend: routed,
  },
  {
    name: 'overlay over passthrough',
    backend: (folder) => overlay(folder, passthrough(join(folder, 'upper'))),
  },
  { name: 'overlay with memfs', backend: (folder) => overlay(folder, { type: 'memfs', size: '256M' }) },
  {
    name: 's3',
    // An fsync is an upload to a server that has the same processors.
    heldMs: 30_000,
    // A request waits a minute for the server, and the end of a mount two minutes for uploads.
    endMs: 180_000,
    // Of the disk caches of both exports, 16 each.
    keptFiles: 32,
    async backend(folder) {
      const { name: bucket, endpoint } = await TestBucket.create();
      const cacheDir = join(folder, 'cache');
      // The server's room is the machine's memory.
      return { type: 's3', bucket, endpoint, pathStyle: true, cacheDir, maxFile: '24m' };
    },
  },
];
