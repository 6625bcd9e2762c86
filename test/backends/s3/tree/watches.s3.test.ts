import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { WritableBackend } from '../../../../backends/s3/writable-backend.js';
import type { NodeChange } from '../../../../core/backend/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { watched } from '../../../../core/wrappers/index.js';
import { engine } from '../../../support/engine.js';
import { ROOT } from '../../../support/fuse-client.js';
import type { Seen } from '../proxy.js';
import { proxiedBucket } from '../proxied-bucket.js';
import { context, Mount, optionsOf, removeFolders, TestBucket } from '../support.js';

const OPTIONS = { watchInterval: 0.1, metadataTtl: 0.2, negativeTtl: 0.2 };

describe('a bucket that is watched', () => {
  const server = proxiedBucket();
  let bucket: TestBucket;
  before(async () => void (bucket = await TestBucket.create()));
  after(removeFolders);

  it('tells what others make, write and remove, once each, and nothing of what the mount does', async () => {
    await bucket.put('d/old', 'x');
    await bucket.put('d/gone', 'x');
    await bucket.put('unwatched/file', 'x');
    const mount = await Mount.open(bucket, OPTIONS);
    const told: string[] = [];
    const changed = (node: object, { kind, name }: NodeChange): void => {
      told.push(`${kind} ${(node as { name: string }).name}/${name}`);
    };
    mount.backend.mounted.watches.mounted({ log: mount.log, createBuffer: hostBuffer, changed });
    const d = await mount.at('d');
    const ends = [mount.root, d].map((directory) => mount.backend.watch(directory));
    const rounds = async (): Promise<void> => {
      const count = mount.requests('ListObjectsV2') + 6;
      while (mount.requests('ListObjectsV2') < count) await setTimeout(20);
    };
    await rounds();
    assert.deepEqual(told, []);

    await mount.put('d/own', 'mine');
    await mount.put('d/own', 'mine again');
    await mount.backend.mkdir(d, 'own directory', 0o755, context);
    await mount.backend.setattr(await mount.at('d/own'), { mode: 0o600 }, undefined, context);
    await mount.backend.rename(d, 'own', d, 'renamed', 0, context);
    await mount.backend.unlink(d, 'renamed', context);
    await rounds();
    assert.deepEqual(told, []);

    await bucket.put('d/old', 'longer');
    await bucket.put('d/new', 'x');
    await bucket.put('directory/file', 'x');
    await bucket.put('unwatched/file', 'longer');
    await bucket.remove('d/gone');
    await rounds();
    const expected = ['content d/old', 'made /directory', 'made d/new', 'removed d/gone'];
    assert.deepEqual(told.splice(0).sort(), expected);

    // Also where a look-up finds it first, and not where nobody watches any more.
    await bucket.put('d/old', 'once more');
    await setTimeout(250);
    await mount.at('d/old');
    await rounds();
    assert.deepEqual(told.splice(0), ['content d/old']);
    for (const end of ends) end!();
    await bucket.put('d/new', 'longer');
    await setTimeout(400);
    const before = mount.requests('ListObjectsV2');
    await setTimeout(400);
    assert.equal(mount.requests('ListObjectsV2'), before);
    assert.deepEqual(told, []);
    await mount.close();
  });

  it('reaches the agent in a guest, which sees the new content', async () => {
    await bucket.put('g/file', 'x');
    const backend = new WritableBackend(await optionsOf(bucket, { ...OPTIONS, prefix: 'g' }));
    const running = await engine(watched(backend));
    const { client, session } = running.guest();
    await client.init();
    const control = await client.lookup(ROOT, '.virtiofs-kit-events');
    const { fh } = await client.open(control.nodeid);
    await client.lookup(ROOT, 'file');
    await client.list(ROOT);
    await bucket.put('g/file', 'longer');
    const events = Buffer.from(await client.read(control.nodeid, fh, 0, 4096)).toString();
    assert.equal(events, 'content file\n');
    assert.equal((await client.lookup(ROOT, 'file')).attr.size, 6);
    await session.close();
    await running.export.close();
    assert.deepEqual(running.log.errors, []);
  });

  it('gives up a directory of more names than it can compare', async () => {
    await server.bucket.put('e/file', 'x');
    const mount = await Mount.open(server.bucket, { ...OPTIONS, endpoint: server.proxy.endpoint });
    const directory = await mount.at('e');
    const isOfAll = ({ query }: Seen): boolean => query.get('prefix') === 'e/' && query.has('delimiter');
    server.proxy.fault = (seen) => (isOfAll(seen) ? 'endless' : undefined);
    const before = server.proxy.seen.length;
    mount.backend.watch(directory);
    while (!mount.log.lines.some((line) => line.includes('too many names'))) await setTimeout(20);
    await setTimeout(300);
    assert.equal(server.proxy.seen.slice(before).filter(isOfAll).length, 100);
    server.proxy.fault = () => undefined;
    await mount.close();
  });

  it('lists nothing of its own accord where the option says so', async () => {
    const mount = await Mount.open(bucket, { watchInterval: 0 });
    assert.equal(mount.backend.watch(mount.root), undefined);
    await mount.close();
  });
});
