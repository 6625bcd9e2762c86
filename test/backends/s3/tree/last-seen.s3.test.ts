import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import type { Node } from '../../../../backends/s3/tree/nodes.js';
import { traceOf } from '../../../../backends/s3/tree/last-seen.js';
import type { OpenFile } from '../../../../backends/s3/write/files.js';
import { Proxy } from '../proxy.js';
import { context, Mount, removeFolders, temporaryFolder, TestBucket } from '../support.js';

/**
 * Whether all changes are tried, the process is killed both before and after each request, and
 * files are not uploaded, too. VIRTIOFS_KIT_MOMENTS=all says so.
 */
const ALL = process.env['VIRTIOFS_KIT_MOMENTS'] === 'all';

/** What is done when the process is killed, and the guest does again if it was not done. */
interface Change {
  /** Files that are made before, each with its name as content, and stay open. */
  readonly files: readonly string[];
  /** Directories that are made before. */
  readonly directories?: readonly string[];
  run(mount: Mount): Promise<void>;
  /** The name that the change takes away, and the node that has it before. */
  readonly name: string;
  /** Paths of nodes afterwards, by their paths before. */
  readonly after: Readonly<Record<string, string | undefined>>;
}

const rename = async (mount: Mount, from: string, to: string): Promise<void> =>
  mount.backend.rename(mount.root, from, mount.root, to, 0, context);

const changes: Readonly<Record<string, Change>> = {
  'UNLINK of an open file': {
    files: ['file'],
    run: (mount) => mount.backend.unlink(mount.root, 'file', context),
    name: 'file',
    after: { file: undefined },
  },
  'RENAME of an open file': {
    files: ['file'],
    run: (mount) => rename(mount, 'file', 'new'),
    name: 'file',
    after: { file: 'new' },
  },
  'RENAME over an open file': {
    files: ['file', 'other'],
    run: (mount) => rename(mount, 'file', 'other'),
    name: 'file',
    after: { file: 'other', other: undefined },
  },
  'RENAME of a directory with an open file': {
    files: ['directory/file'],
    directories: ['directory'],
    run: (mount) => rename(mount, 'directory', 'new'),
    name: 'directory',
    after: { directory: 'new', 'directory/file': 'new/file' },
  },
  RMDIR: {
    files: [],
    directories: ['directory'],
    run: (mount) => mount.backend.rmdir(mount.root, 'directory', context),
    name: 'directory',
    after: { directory: undefined },
  },
};

/** What is tried unless everything is asked for. */
const USUAL = ['UNLINK of an open file', 'RENAME over an open file'];

/** Where a process is killed: at this one of its requests, before or after the bucket has it. */
interface Moment {
  readonly request: number;
  readonly isDone: boolean;
}

/** @returns whether the change has made so many requests. */
async function survive(change: Change, isUploaded: boolean, { request, isDone }: Moment): Promise<boolean> {
  const bucket = await TestBucket.create();
  const proxy = await Proxy.start(bucket.endpoint);
  const cacheDir = await temporaryFolder();
  const options = { cacheDir, endpoint: proxy.endpoint, maxDirtyAge: 600, writebackDelay: 600 };
  const first = await Mount.open(bucket, options);
  const opened = new Map<string, OpenFile>();
  const nodes = new Map<string, Node>();
  for (const path of change.directories ?? []) {
    nodes.set(path, (await first.backend.mkdir(first.root, path, 0o755, context)).node);
  }
  for (const path of change.files) {
    const file = await first.create(path);
    await first.write(file, 0, path);
    if (isUploaded) await first.fsync(file);
    opened.set(path, file);
    nodes.set(path, file.node);
  }
  const keys = new Map(Array.from(nodes, ([path, node]) => [path, first.backend.key(node)]));
  const left = join(await temporaryFolder(), 'cache');
  let traces: Map<string, string> | undefined;
  let requests = 0;
  const reached = new Promise<void>((resolve) => {
    proxy.fault = () => {
      requests += 1;
      if (requests < request) return undefined;
      if (requests === request) {
        cpSync(cacheDir, left, { recursive: true, filter: (path) => !path.endsWith('.sock') });
        traces = new Map(Array.from(nodes.values(), (node) => [node.id, traceOf(node)]));
        resolve();
      }
      return requests === request && isDone ? undefined : 'hang';
    };
  });
  const ended = change.run(first).catch(() => undefined);
  await Promise.race([reached, ended]);
  await proxy.settled();
  await first.backend.mounted.abandon();
  await proxy.close();
  if (traces === undefined) return false;

  const known = new Map([...traces].filter(([, trace]) => trace !== ''));
  const next = await Mount.open(bucket, { cacheDir: left, maxDirtyAge: 600 }, known);
  const { recovery } = next.backend;
  const again = new Map<string, Node>();
  for (const [path, key] of keys) again.set(path, await recovery.recover!(key));
  const files = new Map<string, OpenFile>();
  for (const path of opened.keys())
    files.set(path, (await next.backend.open(again.get(path)!, 2, context)).file);
  recovery.recovered!();
  const moment = `request ${request}${isDone ? ', which was carried out' : ''}`;
  const check = async (when: string): Promise<void> => {
    for (const [path, file] of files)
      assert.equal((await next.read(file, 0, 100)).toString(), path, `${path} ${when} ${moment}`);
  };
  await check('after');
  // It has happened, or it can be done again.
  const isThere = (await next.node(change.name)) === again.get(change.name);
  if (isThere) await change.run(next);
  await check('at the end, after');
  for (const [path, target] of Object.entries(change.after)) {
    const node = again.get(path)!;
    if (target === undefined) assert.equal(node.removed, true, `${path} after ${moment}`);
    else assert.equal(await next.node(target), node, `${target} after ${moment}`);
  }
  for (const file of files.values()) await next.release(file);
  await next.backend.syncfs(context);
  const expected = Object.entries(change.after).flatMap(([path, target]) =>
    target === undefined ? [] : [change.files.includes(path) ? target : `${target}/`],
  );
  assert.deepEqual((await bucket.keys()).sort(), expected.sort(), `after ${moment}`);
  await next.close();
  await rm(left, { recursive: true });
  return true;
}

describe('a process that is killed at any request of a change', () => {
  after(removeFolders);

  for (const [name, change] of Object.entries(changes)) {
    if (!ALL && !USUAL.includes(name)) continue;
    for (const isUploaded of ALL ? [true, false] : [true]) {
      it(`is followed by one that finds every file, ${name}, ${isUploaded ? '' : 'not '}uploaded`, async (t) => {
        let request = 1;
        const reach = (isDone: boolean): Promise<boolean> => survive(change, isUploaded, { request, isDone });
        while (await reach(request % 2 === 0)) {
          if (ALL) await reach(request % 2 === 1);
          request += 1;
        }
        t.diagnostic(`${request - 1} requests`);
      });
    }
  }
});
