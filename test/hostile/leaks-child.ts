import assert from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { queryObjects } from 'node:v8';
import { Session } from '../../core/fuse/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import memfs from '../../backends/memfs/index.js';
import { AddressSpace } from '../../core/memory/index.js';
import { HostMount } from '../../core/mount/index.js';
import { Export, HandleTable, LockTable, NodeTable } from '../../core/state/index.js';
import { UnixConnection } from '../../core/system/index.js';
import { VhostUserDevice } from '../../core/vhost-user/index.js';
import { Virtqueue } from '../../core/virtqueue/index.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { MountedExport, pluginEnvironment } from '../support/host-mount.js';
import { Loopback } from '../support/loopback.js';
import { fuseTransport } from '../support/vhost-user.js';

/*
 * Does the same again and again, and says of what there is more then: objects, descriptors,
 * threads, timers.
 *
 *   node --expose-gc --no-warnings leaks-child.js WHAT FOLDER ROUNDS
 */

const [what, folder, counted] = process.argv.slice(2) as [string, string, string];
const rounds = Number(counted);
const log = createLogger({ level: 'silent', format: 'json' });

function layer(name: string): { readonly type: string } {
  const sharedDir = join(folder, name);
  mkdirSync(sharedDir, { recursive: true });
  return { type: 'passthrough', sharedDir } as { readonly type: string };
}

const backends: Readonly<Record<string, () => { readonly type: string }>> = {
  memfs: () => ({ type: 'memfs' }),
  passthrough: () => layer('shared'),
  overlay: () => ({ type: 'overlay', lowers: [layer('lower')], upper: layer('upper') }) as { type: string },
};

function open(type: string) {
  return openExport(
    backends[type]!(),
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log },
  );
}

/** A little of everything that a guest has. It leaves a file and a directory open, and a lock. */
async function use(client: FuseClient, name: string): Promise<void> {
  await client.init();
  const { entry, open: opened } = await client.create(ROOT, name, 0o644);
  await client.write(entry.nodeid, opened.fh, 0, Uint8Array.of(1));
  const lock = { start: 0n, end: 9n, type: 1, pid: 1 };
  await client.setlk(entry.nodeid, opened.fh, 1n, lock);
  // Waits until the guest is gone.
  client.setlk(entry.nodeid, opened.fh, 2n, lock, true).catch(() => undefined);
  const { fh } = await client.opendir(ROOT);
  await client.readdirplus(ROOT, fh);
  await client.unlink(ROOT, name);
}

/** What is done again and again. */
async function work(): Promise<() => Promise<void>> {
  const [kind, type = 'memfs'] = what.split(' ') as [string, string?];
  if (kind === 'exports') {
    return async () => {
      const shared = await open(type);
      const session = new Session(shared);
      await use(new FuseClient(new Loopback(session)), 'file');
      await session.close();
      await shared.close();
    };
  }
  if (kind === 'sessions') {
    const shared = await open(type);
    return async () => {
      const session = new Session(shared);
      await use(new FuseClient(new Loopback(session)), 'file');
      await session.close();
    };
  }
  if (kind === 'mounts') {
    return async () => {
      const plugin = await memfs.create(memfs.options!.parse({}), pluginEnvironment());
      await using mounted = await MountedExport.open(plugin);
      assert.equal(mounted.mounts.length, 1);
    };
  }
  const socket = join(folder, 'socket');
  const queueThreads = kind === 'threads' ? 1 : 0;
  const exports = [{ tag: 'tag', socket, backend: backends[type]!(), queueThreads }];
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  const isIdle = async (): Promise<boolean> => (await daemon.status()).exports[0]!.guests.length === 0;
  if (kind === 'silent') {
    return async () => {
      UnixConnection.connect(socket).close();
      do await sleep(0);
      while (!(await isIdle()));
    };
  }
  return async () => {
    const frontEnd = await FrontEnd.connect(socket, { memory: 2 ** 20, requestQueues: 1 + queueThreads });
    const client = new FuseClient(fuseTransport(frontEnd));
    // The first request queue is served by the engine's thread, the next one by a queue thread.
    client.caller = { ...client.caller, queue: 1 + queueThreads };
    await use(client, 'file');
    frontEnd.close();
    do await sleep(0);
    while (!(await isIdle()));
  };
}

/** What a guest, a connection or an export consists of. */
const kinds = [
  Session,
  Export,
  NodeTable,
  HandleTable,
  LockTable,
  VhostUserDevice,
  Virtqueue,
  AddressSpace,
  HostMount,
];

/** How many there are, when everything has gone that can go. */
async function living(): Promise<Record<string, number>> {
  for (let i = 0; i < 5; i++) {
    await sleep(20);
    globalThis.gc!();
  }
  const counts: Record<string, number> = {
    descriptors: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
  };
  for (const kind of kinds) counts[kind.name] = queryObjects(kind, { format: 'count' });
  for (const resource of process.getActiveResourcesInfo()) counts[resource] = (counts[resource] ?? 0) + 1;
  return counts;
}

const once = await work();
// What is there from the first time on, as a pool, or a connection that is kept for speed.
for (let i = 0; i < 3; i++) await once();
const before = await living();
for (let i = 0; i < rounds; i++) await once();
const after = await living();
const more = Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)] as const);
console.log(JSON.stringify(Object.fromEntries(more.filter(([, count]) => count > 0))));
process.exit(0);
