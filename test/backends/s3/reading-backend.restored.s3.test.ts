import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { DAEMON } from '../../../core/backend/index.js';
import { traceOf } from '../../../backends/s3/tree/last-seen.js';
import type { Node } from '../../../backends/s3/tree/nodes.js';
import type { OpenFile } from '../../../backends/s3/write/files.js';
import { Proxy } from './proxy.js';
import { context, denied, Mount, removeFolders, temporaryFolder, TestBucket } from './support.js';

/** What a process has left that was killed. */
interface Left {
  /** By the paths of nodes: their keys. */
  readonly keys: ReadonlyMap<string, string>;
  readonly traces: ReadonlyMap<string, string>;
}

/** Kills a process that guests know nodes of. */
async function kill(mount: Mount, nodes: ReadonlyMap<string, Node>): Promise<Left> {
  const keys = new Map(Array.from(nodes, ([path, node]) => [path, mount.backend.key(node)]));
  const traces = new Map(Array.from(nodes.values(), (node) => [node.id, traceOf(node)]));
  await mount.backend.mounted.abandon();
  return { keys, traces };
}

/** The process that follows. */
interface Next {
  readonly mount: Mount;
  /** By their paths before. */
  readonly nodes: ReadonlyMap<string, Node>;
  readonly files: ReadonlyMap<string, OpenFile>;
}

async function follow(
  bucket: TestBucket,
  options: Record<string, unknown>,
  { keys, traces }: Left,
  opened: readonly string[] = [],
): Promise<Next> {
  const mount = await Mount.start(bucket, options, traces);
  const { recovery } = mount.backend;
  const nodes = new Map<string, Node>();
  for (const [path, key] of keys) nodes.set(path, await recovery.recover!(key));
  const files = new Map<string, OpenFile>();
  for (const path of opened) files.set(path, (await mount.backend.open(nodes.get(path)!, 2, DAEMON)).file);
  recovery.recovered!();
  return { mount, nodes, files };
}

/** A mount by way of a proxy, that has looked up some paths. */
async function begin(
  paths: readonly string[],
  more: readonly string[] = [],
  own: Record<string, unknown> = {},
) {
  const bucket = await TestBucket.create();
  for (const path of [...paths, ...more]) if (!path.endsWith('/')) await bucket.put(path, path);
  const proxy = await Proxy.start(bucket.endpoint);
  const cacheDir = await temporaryFolder();
  const options = { cacheDir, endpoint: proxy.endpoint, maxDirtyAge: 600, ...own };
  const mount = await Mount.open(bucket, options);
  const nodes = new Map<string, Node>();
  for (const path of paths) {
    const name = path.replace(/\/$/, '');
    nodes.set(name, await mount.at(name));
  }
  return { bucket, proxy, options, mount, nodes };
}

const getattr = async ({ mount, nodes }: Next, path: string) =>
  mount.backend.getattr(nodes.get(path)!, undefined, context);

const open = async ({ mount, nodes }: Next, path: string): Promise<OpenFile> =>
  (await mount.backend.open(nodes.get(path)!, 0, context)).file;

/** As at other times: a deadline has passed, or nobody has answered. */
const isUnanswered = (error: unknown): boolean => denied('ETIMEDOUT')(error) || denied('EIO')(error);

describe('a process that follows one that was killed', () => {
  after(removeFolders);

  it('asks the bucket for what guests use, and for no other of 5,000 nodes', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['d/', 'd/used', 'd/opened'], ['d/other']);
    const known = await kill(mount, nodes);
    const [keys, traces] = [new Map(known.keys), new Map(known.traces)];
    for (let i = 0; i < 5000; i++) {
      const path = `d/${i % 50}/file${i}`;
      keys.set(path, path).set(`d/${i % 50}`, `d/${i % 50}`);
      traces.set(path, 'f').set(`d/${i % 50}`, 'd');
    }
    proxy.fault = () => 'delay';
    proxy.seen.length = 0;
    const next = await follow(bucket, options, { keys, traces }, ['d/opened']);
    assert.deepEqual(proxy.seen.length, 0);
    assert.equal(next.nodes.size, 5053);
    assert.equal((await getattr(next, 'd/used')).size, 6);
    assert.equal((await next.mount.read(next.files.get('d/opened')!, 0, 100)).toString(), 'd/opened');
    const asked = proxy.seen.map(({ operation, path, query }) => `${operation} ${path}?${query}`);
    // Two for each of the files, and one for the content.
    assert.ok(asked.length <= 5, asked.join('\n'));
    assert.equal(await next.mount.node('d/used'), next.nodes.get('d/used'));
    await assert.rejects(getattr(next, 'd/7/file7'), denied('ESTALE'));
    await next.mount.close();
    await proxy.close();
  });

  it('gives one look-up to all who wait for a node', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['file']);
    const left = await kill(mount, nodes);
    const next = await follow(bucket, options, left);
    proxy.seen.length = 0;
    const node = next.nodes.get('file')!;
    const sizes = await Promise.all([
      getattr(next, 'file').then(({ size }) => size),
      open(next, 'file').then((file) => file.node.size),
      next.mount.backend.listxattr(node, context),
      next.mount.backend.setattr(node, { mode: 0o600 }, undefined, context).then(({ size }) => size),
    ]);
    assert.deepEqual(sizes, [4, 4, [], 4]);
    assert.ok(proxy.seen.length <= 2, JSON.stringify(proxy.seen.map(({ operation }) => operation)));
    await next.mount.close();
    await proxy.close();
  });

  it('has nothing wrong where others have changed what is in the bucket', async () => {
    const paths = ['gone', 'replaced', 'emptied/', 'emptied/file', 'renamed', 'changed', 'read', 'same'];
    const { bucket, proxy, options, mount, nodes } = await begin(paths, [], { openTtl: 0, metadataTtl: 0 });
    const opened = ['gone', 'changed', 'read', 'same'];
    for (const path of opened) await mount.openFile(path);
    const left = await kill(mount, nodes);
    for (const path of ['gone', 'replaced', 'emptied/file', 'renamed']) await bucket.remove(path);
    await bucket.put('replaced/below', 'directory now');
    await bucket.put('emptied', 'file now');
    await bucket.put('elsewhere', 'renamed');
    for (const path of ['changed', 'read']) await bucket.put(path, 'by another');
    const next = await follow(bucket, options, left, opened);
    const { mount: after, files } = next;
    // What was read of the version that was open before is not mixed with the new one.
    await assert.rejects(after.read(files.get('read')!, 0, 100), denied('ESTALE'));
    for (const path of ['gone', 'replaced', 'emptied', 'emptied/file', 'renamed'])
      for (const _ of [1, 2]) await assert.rejects(getattr(next, path), denied('ESTALE'), path);
    await assert.rejects(open(next, 'gone'), denied('ESTALE'));
    await assert.rejects(after.write(files.get('gone')!, 0, 'mine'), denied('ESTALE'));
    await assert.rejects(after.write(files.get('changed')!, 0, 'mine'), denied('ESTALE'));
    assert.equal((await getattr(next, 'changed')).size, 10);
    assert.equal((await after.content('changed')).toString(), 'by another');
    assert.equal((await after.read(files.get('same')!, 0, 100)).toString(), 'same');
    await after.write(files.get('same')!, 0, 'mine');
    await after.fsync(files.get('same')!);
    // Others have their names now, under ids of their own.
    for (const [path, size] of [
      ['replaced', undefined],
      ['emptied', 8],
      ['elsewhere', 7],
    ] as const) {
      const node = await after.at(path);
      assert.notEqual(node, next.nodes.get(path));
      if (size !== undefined)
        assert.equal((await after.backend.getattr(node, undefined, context)).size, size);
    }
    assert.equal((await bucket.get('same')).toString(), 'mine');
    assert.equal((await bucket.get('changed')).toString(), 'by another');
    await after.close();
    await proxy.close();
  });

  it('goes on when it is killed before anything was used', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['d/', 'd/file', 'other']);
    const file = await mount.openFile('d/file');
    await mount.write(file, 0, 'written');
    await mount.fsync(file);
    await mount.backend.rename(mount.root, 'd', mount.root, 'e', 0, context);
    let left = await kill(mount, nodes);
    for (const _ of [1, 2]) {
      const next = await follow(bucket, options, left, ['d/file']);
      left = await kill(next.mount, next.nodes);
    }
    await bucket.put('other', 'by another');
    const last = await follow(bucket, options, left, ['d/file']);
    assert.equal((await last.mount.read(last.files.get('d/file')!, 0, 100)).toString(), 'written');
    await last.mount.write(last.files.get('d/file')!, 0, 'WRI');
    await last.mount.fsync(last.files.get('d/file')!);
    assert.equal(await last.mount.node('e'), last.nodes.get('d'));
    assert.equal(await last.mount.node('e/file'), last.nodes.get('d/file'));
    assert.equal((await getattr(last, 'other')).size, 10);
    assert.equal((await bucket.get('e/file')).toString(), 'WRItten');
    await last.mount.close();
    await proxy.close();
  });

  it('loses no node for a bucket that does not answer', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['d/', 'd/file', 'd/new'], [], {
      operationTimeout: 1,
    });
    await mount.openFile('d/file');
    const left = await kill(mount, nodes);
    proxy.fault = () => 'reset-before';
    const next = await follow(bucket, options, left, ['d/file']);
    const { backend } = next.mount;
    await assert.rejects(getattr(next, 'd/file'), isUnanswered);
    await assert.rejects(next.mount.read(next.files.get('d/file')!, 0, 100), isUnanswered);
    await assert.rejects(backend.readdir(next.nodes.get('d')!, context), isUnanswered);
    await assert.rejects(backend.unlink(next.nodes.get('d')!, 'new', context), isUnanswered);
    proxy.fault = () => undefined;
    assert.equal((await getattr(next, 'd/file')).size, 6);
    assert.equal((await next.mount.read(next.files.get('d/file')!, 0, 100)).toString(), 'd/file');
    assert.deepEqual(await next.mount.names('d'), ['file', 'new']);
    assert.equal(await next.mount.node('d'), next.nodes.get('d'));
    await backend.unlink(next.nodes.get('d')!, 'new', context);
    assert.equal((await getattr(next, 'd/new')).nlink, 0);
    await next.mount.close();
    await proxy.close();
  });

  it('finds what a guest has renamed or removed before it was used', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin([
      'a/',
      'a/b/',
      'a/b/file',
      'a/b/open',
      'a/x',
      'a/y',
    ]);
    await mount.openFile('a/b/open');
    const left = await kill(mount, nodes);
    const next = await follow(bucket, options, left, ['a/b/open']);
    const { backend, root } = next.mount;
    await backend.rename(root, 'a', root, 'new', 0, context);
    await backend.rename(next.nodes.get('a')!, 'x', root, 'z', 0, context);
    await backend.unlink(next.nodes.get('a')!, 'y', context);
    assert.equal((await getattr(next, 'a/b/file')).size, 8);
    assert.equal((await getattr(next, 'a/x')).size, 3);
    assert.equal(await next.mount.node('new/b/file'), next.nodes.get('a/b/file'));
    assert.equal(await next.mount.node('z'), next.nodes.get('a/x'));
    const opened = next.files.get('a/b/open')!;
    assert.equal((await next.mount.read(opened, 0, 100)).toString(), 'a/b/open');
    await next.mount.write(opened, 0, 'A');
    await next.mount.fsync(opened);
    assert.equal((await bucket.get('new/b/open')).toString(), 'A/b/open');
    await next.mount.close();
    await proxy.close();
  });

  it('finds a file whose directory is renamed while it is looked for', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['a/', 'a/file']);
    const left = await kill(mount, nodes);
    const next = await follow(bucket, options, left);
    const { backend, root } = next.mount;
    proxy.seen.length = 0;
    // The answer is of a time when the file has left its place.
    proxy.fault = ({ method, path, query }) =>
      (method === 'HEAD' && path.endsWith('/a/file')) || query.get('prefix') === 'a/file/'
        ? 'late'
        : undefined;
    const found = getattr(next, 'a/file');
    while (proxy.seen.every(({ path }) => !path.endsWith('/a/file')))
      await new Promise((resolve) => setTimeout(resolve, 5));
    proxy.fault = () => undefined;
    await backend.rename(root, 'a', root, 'b', 0, context);
    assert.equal((await found).size, 6);
    assert.equal(await next.mount.node('b/file'), next.nodes.get('a/file'));
    await next.mount.close();
    await proxy.close();
  });

  it('asks for a node at once of which a process of an earlier version has told no kind', async () => {
    const { bucket, proxy, options, mount, nodes } = await begin(['d/', 'd/file', 'gone']);
    const left = await kill(mount, nodes);
    const traces = new Map([['old', JSON.stringify({ path: 'd' })]]);
    const keys = new Map([
      ['d', 'old'],
      ['d/file', 'd/file'],
    ]);
    const next = await follow(bucket, options, { keys, traces });
    assert.equal(next.nodes.get('d')!.kind, 'directory');
    assert.equal((await getattr(next, 'd/file')).size, 6);
    assert.equal(left.keys.size, 3);
    await next.mount.close();
    await proxy.close();
  });
});
