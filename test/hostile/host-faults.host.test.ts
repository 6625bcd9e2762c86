import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, UnixConnection } from '../../core/system/index.js';
import { FrontEnd } from '../support/front-end.js';
import { encodeMessage, encodeU64, Request } from '../../core/vhost-user/messages.js';
import { faultyMount } from '../support/faulty-mounts.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { program } from '../support/program.js';
import { fuseTransport, temporaryFolder } from '../support/vhost-user.js';

/* The host's file system fails, is full, or hangs: a FUSE mount in a process of its own. */

const EIO = 5;
const ENOSPC = 28;
const EDQUOT = 122;

interface Guest {
  readonly client: FuseClient;
  /** Creates a file. */
  file(name: string): Promise<{ readonly id: bigint; readonly fh: bigint }>;
}

interface Served {
  /** The guest of the export that lies on the faulty file system, and that of another. */
  readonly guests: readonly [Guest, Guest];
  readonly sockets: readonly [string, string];
}

/** A daemon with an export over the mount, and one that has nothing to do with it. */
async function serve(t: TestContext, backend: (folder: string) => object): Promise<Served> {
  const folder = temporaryFolder(t);
  const sound = join(folder, 'sound');
  mkdirSync(sound);
  const sockets: [string, string] = [join(folder, 'faulty.sock'), join(folder, 'sound.sock')];
  const config = join(folder, 'config.json');
  const exports = [
    { tag: 'faulty', socket: sockets[0], backend: backend(folder) },
    { tag: 'sound', socket: sockets[1], backend: { type: 'passthrough', sharedDir: sound } },
  ];
  writeFileSync(config, JSON.stringify({ log: { level: 'error' }, exports }));
  const words = [program, 'serve', '--confine', 'none', '--config', config];
  const daemon = spawn(process.execPath, words, { stdio: ['ignore', 'inherit', 'inherit'] });
  t.after(async () => {
    const ended = once(daemon, 'exit');
    daemon.kill('SIGKILL');
    await ended;
  });
  while (!existsSync(sockets[1])) await sleep(50);
  return { sockets, guests: [await guest(t, sockets[0]), await guest(t, sockets[1])] };
}

async function guest(t: TestContext, socket: string): Promise<Guest> {
  const frontEnd = await FrontEnd.connect(socket);
  t.after(() => frontEnd.close());
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  return {
    client,
    async file(name) {
      const { entry, open } = await client.create(ROOT, name, 0o644);
      return { id: entry.nodeid, fh: open.fh };
    },
  };
}

/** What a guest does that needs the disk and the thread pool. */
async function works({ client, file }: Guest, name: string): Promise<void> {
  const { id, fh } = await file(name);
  await client.write(id, fh, 0, Buffer.from(name));
  await client.fsync(id, fh);
  assert.equal(Buffer.from(await client.read(id, fh, 0, 99)).toString(), name);
  await client.release(id, fh);
}

const refusals = [
  ['EIO', EIO],
  ['ENOSPC', ENOSPC],
  ['EDQUOT', EDQUOT],
] as const;

for (const [code, errno] of refusals) {
  test(`passthrough tells a guest ${code} of the host's file system, and another guest works`, async (t) => {
    const mount = await faultyMount(t);
    const { guests } = await serve(t, () => ({ type: 'passthrough', sharedDir: mount.directory }));
    const [{ client, file }, other] = guests;
    const { id, fh } = await file('file');
    await client.write(id, fh, 0, Buffer.from('before'));
    const methods = ['write', 'fsync', 'create', 'mkdir', 'symlink', 'rename', 'unlink', 'setattr', 'read'];
    await mount.order({ methods, code });
    const refused = (pending: Promise<unknown>): Promise<void> =>
      assert.rejects(pending, (error) => error instanceof FuseError && error.errno === errno);
    await refused(client.write(id, fh, 0, Buffer.from('during')));
    await refused(client.read(id, fh, 0, 10));
    await refused(client.fsync(id, fh));
    await refused(client.create(ROOT, 'new', 0o644));
    await refused(client.mkdir(ROOT, 'directory'));
    await refused(client.symlink(ROOT, 'link', 'file'));
    await refused(client.rename(ROOT, 'file', ROOT, 'renamed'));
    await refused(client.unlink(ROOT, 'file'));
    await refused(client.setattr(id, { size: 3 }));
    await works(other, 'meanwhile');
    await mount.order({ methods: [] });
    assert.equal(Buffer.from(await client.read(id, fh, 0, 99)).toString(), 'before');
    await works(guests[0], 'afterwards');
  });
}

test('what was acknowledged by an fsync is there, however many writes failed', async (t) => {
  const mount = await faultyMount(t);
  const { guests } = await serve(t, () => ({ type: 'passthrough', sharedDir: mount.directory }));
  const [{ client, file }] = guests;
  await mount.order({ methods: ['write', 'fsync'], code: 'EIO', oneIn: 7 });
  const durable = new Map<string, string>();
  let failed = 0;
  for (let i = 0; i < 60; i++) {
    const name = `file-${i}`;
    const { id, fh } = await file(name);
    try {
      for (let part = 0; part < 3; part++) {
        const data = Buffer.alloc(5000, `${i}`);
        assert.equal(await client.write(id, fh, part * 5000, data), 5000);
      }
      await client.fsync(id, fh);
      durable.set(name, Buffer.alloc(5000, `${i}`).toString().repeat(3));
    } catch (error) {
      if (!(error instanceof FuseError)) throw error;
      assert.equal(error.errno, EIO);
      failed += 1;
    }
    await client.release(id, fh);
  }
  assert.ok(failed > 0 && durable.size > 0, `${failed} failed, ${durable.size} did not`);
  await mount.order({ methods: [] });
  for (const [name, content] of durable) {
    assert.equal(await readFile(join(mount.directory, name), 'utf8'), content, name);
  }
});

test('an overlay whose upper is full for a while loses no byte of the lower, and copies up later', async (t) => {
  const mount = await faultyMount(t);
  const content = Buffer.alloc(3_000_000, 'lower ').toString();
  const { guests } = await serve(t, (folder) => {
    const lower = join(folder, 'lower');
    mkdirSync(lower);
    writeFileSync(join(lower, 'file'), content);
    return {
      type: 'overlay',
      lowers: [{ type: 'passthrough', sharedDir: lower }],
      upper: { type: 'passthrough', sharedDir: mount.directory },
    };
  });
  const [{ client }, other] = guests;
  const { nodeid } = await client.lookup(ROOT, 'file');
  // Not the first write: some of the copy is there then.
  await mount.order({ methods: ['write', 'copyFileRange', 'fallocate'], code: 'ENOSPC', oneIn: 2 });
  await assert.rejects(
    client.open(nodeid, 2),
    (error) => error instanceof FuseError && error.errno === ENOSPC,
  );
  const { fh } = await client.open(nodeid, 0);
  assert.equal(await whole(client, nodeid, fh, content.length), content);
  await works(other, 'meanwhile');
  await mount.order({ methods: [] });
  const writable = await client.open(nodeid, 2);
  await client.write(nodeid, writable.fh, 0, Buffer.from('upper'));
  await client.fsync(nodeid, writable.fh);
  assert.equal(await whole(client, nodeid, writable.fh, content.length), `upper${content.slice(5)}`);
});

async function whole(client: FuseClient, id: bigint, fh: bigint, length: number): Promise<string> {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < length; at += 2 ** 20) parts.push(await client.read(id, fh, at, 2 ** 20));
  return Buffer.concat(parts).toString();
}

test('syncs that hang hold the guest that asked for them, and no other', async (t) => {
  const mount = await faultyMount(t);
  const { guests } = await serve(t, () => ({ type: 'passthrough', sharedDir: mount.directory }));
  const [{ client, file }, other] = guests;
  const { id, fh } = await file('file');
  await mount.order({ methods: ['fsync'], hang: true });
  const ended: string[] = [];
  const hanging = Array.from({ length: 16 }, () => client.fsync(id, fh).then(() => ended.push('hung')));
  for (let i = 0; i < 20; i++) await works(other, `meanwhile-${i}`);
  assert.deepEqual(ended, []);
  await mount.order({ methods: [] });
  await Promise.all(hanging);
  await works(guests[0], 'afterwards');
});

test('descriptors of a file system whose server is stopped hold nobody', async (t) => {
  const mount = await faultyMount(t);
  writeFileSync(join(mount.directory, 'memory'), new Uint8Array(4096));
  const { sockets, guests } = await serve(t, () => ({ type: 'memfs' }));
  const descriptors = Array.from({ length: 8 }, () => openSync(join(mount.directory, 'memory'), 'r+') as Fd);
  // Before the mount goes, in whose `after` its server goes on.
  using _ = {
    [Symbol.dispose]() {
      mount.process.kill('SIGCONT');
      for (const fd of descriptors) closeSync(fd);
    },
  };
  mount.process.kill('SIGSTOP');
  const memory = new Uint8Array(8 + 32);
  new DataView(memory.buffer).setUint32(0, 1, true);
  new DataView(memory.buffer).setBigUint64(16, 4096n, true);
  const messages: [number, Uint8Array][] = [
    [Request.SET_MEM_TABLE, memory],
    [Request.SET_VRING_KICK, encodeU64(0)],
    [Request.SET_VRING_CALL, encodeU64(0)],
    [Request.SET_VRING_ERR, encodeU64(0)],
    [Request.SET_LOG_FD, new Uint8Array(0)],
    [Request.GET_FEATURES, new Uint8Array(0)],
  ];
  const connections = messages.map(([request, payload], i) => {
    const connection = UnixConnection.connect(sockets[0]);
    connection.send(encodeMessage(request, 0, payload), [descriptors[i]!]);
    return connection;
  });
  const [, other] = guests;
  for (let i = 0; i < 20; i++) await works(other, `meanwhile-${i}`);
  for (const connection of connections) connection.close();
  for (let i = 0; i < 20; i++) await works(other, `afterwards-${i}`);
  // A guest that comes now is served, too.
  await works(await guest(t, sockets[0]), 'new');
});
