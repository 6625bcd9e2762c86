import assert from 'node:assert/strict';
import { appendFileSync, chmodSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { MemfsVolume } from '../../backends/memfs/index.js';
import { type Backend, Errno } from '../../core/backend/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { BackendRegistry, MountedExport } from '../../core/plugins/index.js';
import { cached, encrypted, routed, watched } from '../../core/wrappers/index.js';
import { withFewDescriptors } from '../support/descriptor-limit.js';
import { engine, MemoryLog } from '../support/engine.js';
import { type FuseClient, rejectsWith, ROOT } from '../support/fuse-client.js';
import { keepingLog, shell, temporaryDirectory } from '../support/host-mount.js';

const CONTROL = '.virtiofs-kit-events';
const registry = new BackendRegistry();

function directory(sharedDir: string): Promise<Backend> {
  return registry.create({ type: 'passthrough', sharedDir }, { log: new MemoryLog() });
}

/** A guest whose agent reads what has changed. */
class Agent implements AsyncDisposable {
  readonly client: FuseClient;
  readonly #end: () => Promise<void>;
  #nodeid = 0n;
  #fh = 0n;

  private constructor(client: FuseClient, end: () => Promise<void>) {
    this.client = client;
    this.#end = end;
  }

  static async of(backend: Backend): Promise<Agent> {
    const running = await engine(backend);
    const { client, session } = running.guest();
    await client.init();
    const agent = new Agent(client, async () => {
      await session.close();
      await running.export.close();
      assert.deepEqual(running.log.errors, []);
    });
    agent.#nodeid = (await client.lookup(ROOT, CONTROL)).nodeid;
    agent.#fh = (await client.open(agent.#nodeid)).fh;
    return agent;
  }

  /** What has changed, once something has. */
  async events(size = 65_536): Promise<string[]> {
    const bytes = await this.client.read(this.#nodeid, this.#fh, 0, size);
    return Buffer.from(bytes).toString().trimEnd().split('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
  }
}

/** Events of several reads, until there are so many. */
async function several(agent: Agent, count: number): Promise<string[]> {
  const all = new Set<string>();
  while (all.size < count) for (const event of await agent.events()) all.add(event);
  return [...all].sort();
}

describe('watched', () => {
  it('tells an agent what others change in directories that the guest knows', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    mkdirSync(join(host.path, 'known'));
    mkdirSync(join(host.path, 'unknown'));
    writeFileSync(join(host.path, 'known/file'), 'x');
    await using agent = await Agent.of(watched(await directory(host.path)));
    await agent.client.walk('known');
    appendFileSync(join(host.path, 'known/file'), 'more');
    assert.deepEqual(await agent.events(), ['content known/file']);
    chmodSync(join(host.path, 'known/file'), 0o600);
    assert.deepEqual(await agent.events(), ['attributes known/file']);
    writeFileSync(join(host.path, 'unknown/file'), 'x');
    writeFileSync(join(host.path, 'known/new one'), 'x');
    assert.deepEqual(await agent.events(), ['made known/new one']);
    renameSync(join(host.path, 'known/file'), join(host.path, 'at the root'));
    assert.deepEqual(await several(agent, 2), ['made at the root', 'removed known']);
  });

  it('tells nothing of what a guest does itself', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    await using agent = await Agent.of(watched(await directory(host.path)));
    const { entry, open } = await agent.client.create(ROOT, 'own');
    await agent.client.write(entry.nodeid, open.fh, 0, Buffer.from('x'));
    await agent.client.mkdir(ROOT, 'own directory');
    await agent.client.rename(ROOT, 'own', ROOT, 'renamed');
    await agent.client.unlink(ROOT, 'renamed');
    writeFileSync(join(host.path, 'other'), 'x');
    assert.deepEqual(await agent.events(), ['made other']);
  });

  it('absorbs one touch of what it has told, and no other change', async () => {
    const volume = new MemfsVolume();
    volume.writeFileSync('/file', 'x');
    await using agent = await Agent.of(watched(volume.backend) as Backend);
    const { nodeid } = await agent.client.lookup(ROOT, 'file');
    volume.appendFileSync('/file', 'more');
    assert.deepEqual(await agent.events(), ['content file']);
    const before = await agent.client.getattr(nodeid);
    await setTimeout(10);
    assert.equal((await agent.client.setattr(nodeid, { mtime: 'now' })).mtimensec, before.mtimensec);
    assert.notEqual((await agent.client.setattr(nodeid, { mtime: 'now' })).mtimensec, before.mtimensec);
    volume.appendFileSync('/file', 'more');
    await setTimeout(200);
    volume.appendFileSync('/file', 'more');
    await agent.events();
    assert.equal((await agent.client.setattr(nodeid, { mode: 0o600 })).mode & 0o777, 0o600);
  });

  it('has a control file that nothing lists, changes or removes, and whose read can be given up', async () => {
    await using agent = await Agent.of(watched(new MemfsVolume().backend) as Backend);
    const { client } = agent;
    assert.deepEqual(await client.list(ROOT), []);
    const { nodeid } = await client.lookup(ROOT, CONTROL);
    await rejectsWith(client.open(nodeid, 1), Errno.EACCES);
    await rejectsWith(client.unlink(ROOT, CONTROL), Errno.EPERM);
    await rejectsWith(client.rename(ROOT, CONTROL, ROOT, 'other'), Errno.EPERM);
    await rejectsWith(client.setattr(nodeid, { size: 0 }), Errno.EPERM);
    const waiting = agent.events();
    await client.interrupt(client.unique);
    await rejectsWith(waiting, Errno.EINTR);
    for (let i = 1; i < 64; i++) await client.open(nodeid);
    await rejectsWith(client.open(nodeid), Errno.EBUSY);
  });

  it('keeps no more than 64 KiB of events, and counts the rest', async () => {
    const volume = new MemfsVolume();
    const backend = watched(volume.backend) as Backend;
    await using agent = await Agent.of(backend);
    const figure = (name: string): number =>
      backend.metrics!().find((metric) => metric.name === `watch_${name}_total`)!.value;
    for (let round = 0; figure('dropped_events') === 0; round++) {
      for (let i = 0; i < 1000; i++) volume.writeFileSync(`/${'long '.repeat(20)}${round} ${i}`, 'x');
      await setTimeout(20);
    }
    let bytes = 0;
    while (bytes < 60_000) bytes += (await agent.events()).join('\n').length;
    assert.ok(bytes <= 65_536, `${bytes} bytes`);
  });

  it('watches no more directories than it may', async () => {
    await using host = await temporaryDirectory('/dev/shm');
    for (const name of ['a', 'b', 'c']) mkdirSync(join(host.path, name));
    await using agent = await Agent.of(watched(await directory(host.path), { directories: 2 }));
    for (const name of ['a', 'b', 'c']) await agent.client.lookup(ROOT, name);
    writeFileSync(join(host.path, 'a/file'), 'x');
    writeFileSync(join(host.path, 'c/file'), 'x');
    assert.deepEqual(await agent.events(), ['made c/file']);
  });

  it('tells of changes through other wrappers, by the names that guests know', async () => {
    const volume = new MemfsVolume();
    const inner = encrypted(volume.backend, { key: Buffer.alloc(32) }) as Backend;
    await using agent = await Agent.of(
      watched(routed({ mounts: { '/': new MemfsVolume().backend, '/safe': cached(inner) } }) as Backend),
    );
    const safe = await agent.client.walk('safe');
    const { entry, open } = await agent.client.create(safe.nodeid, 'secret');
    await agent.client.write(entry.nodeid, open.fh, 0, Buffer.from('x'));
    await setTimeout(200);
    const name = (volume.readdirSync('/') as string[]).find((one) => one !== 'virtiofs-kit.key');
    volume.chmodSync(`/${name}`, 0o640);
    assert.deepEqual(await agent.events(), ['attributes safe/secret']);
    assert.equal((await agent.client.getattr(entry.nodeid)).mode & 0o777, 0o640);
  });
});

it('a directory that cannot be watched for want of descriptors is served all the same', async () => {
  await using host = await temporaryDirectory('/dev/shm');
  const log = new MemoryLog();
  const backend = await registry.create({ type: 'passthrough', sharedDir: host.path }, { log });
  const root = await backend.mount({ log, createBuffer: hostBuffer });
  await withFewDescriptors(0, () => {
    for (let i = 0; i < 3; i++) assert.equal(backend.watch?.(root), undefined);
    return Promise.resolve();
  });
  assert.equal(log.lines.filter(({ level }) => level === 'warn').length, 1);
  const unwatch = backend.watch?.(root);
  assert.ok(unwatch !== undefined);
  unwatch();
  await backend.unmount?.();
});

it('a mount on this host drops what it has cached when something changed', async () => {
  await using point = await temporaryDirectory();
  const volume = new MemfsVolume();
  volume.writeFileSync('/file', 'before');
  volume.writeFileSync('/gone', 'x');
  const log = keepingLog();
  const mounted = await MountedExport.open({
    directory: point.path,
    backend: volume.backend as Backend,
    watch: true,
    // Nothing else than a notification ends what is cached.
    cache: { entryTimeout: Infinity, negativeTimeout: Infinity, attributeTimeout: Infinity, data: 'always' },
    registry,
    log,
  });
  try {
    const look = 'cat file gone new 2>/dev/null; true';
    const first = await shell(look, point.path);
    assert.equal(first.output, 'beforex');
    volume.writeFileSync('/file', 'after');
    volume.unlinkSync('/gone');
    volume.writeFileSync('/new', 'new');
    let output: string = first.output;
    while (output !== 'afternew') {
      assert.ok(output.startsWith('before') || output.startsWith('after'), output);
      await setTimeout(50);
      ({ output } = await shell(look, point.path));
    }
  } finally {
    await mounted.close();
  }
  assert.deepEqual(log.lines, []);
});
