import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fd, libc, OwnedFd, result, signal } from '../../core/system/index.js';
import { FrontEndError } from '../../core/vhost-user/index.js';
import { FrontEnd } from '../support/front-end.js';
import { encodeMemoryTable } from '../../core/vhost-user/messages.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { program } from '../support/program.js';
import { fuseTransport, temporaryFolder } from '../support/vhost-user.js';

/*
 * Memory that a front-end takes back, or that was never there: touching it is SIGBUS. A daemon
 * serves another guest at the same time.
 */

const MEMORY_BYTES = 2 ** 22;
const GUEST = 2 ** 40;
const MFD_CLOEXEC_HUGETLB = 5;
const memfdCreate = libc<(name: string, flags: number) => number>('memfd_create', 'int', ['str', 'uint']);

/** Memory, and how it is lost. Undefined where there is no such memory here. */
type Memory = (t: TestContext) => { readonly fd: OwnedFd; lose(): void } | undefined;

const kinds: Readonly<Record<string, Memory>> = {
  'a file in memory that becomes shorter': (t) => {
    const path = join('/dev/shm', `virtiofs-kit-lost-${process.pid}`);
    const fd = new OwnedFd(openSync(path, 'w+') as Fd);
    rmSync(path);
    t.after(() => fd.close());
    ftruncateSync(fd.value, MEMORY_BYTES);
    return { fd, lose: () => ftruncateSync(fd.value, 0) };
  },
  'a file on a full tmpfs': (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-full-'));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory]).status, 0);
    const fd = new OwnedFd(openSync(join(directory, 'memory'), 'w+') as Fd);
    t.after(() => {
      fd.close();
      spawnSync('umount', ['-l', directory]);
      rmdirSync(directory);
    });
    ftruncateSync(fd.value, MEMORY_BYTES);
    const fill = () =>
      spawnSync('dd', ['if=/dev/zero', `of=${join(directory, 'rest')}`, 'bs=4096', 'count=100']);
    return { fd, lose: fill };
  },
  'huge pages that nobody reserved': (t) => {
    const value = result(memfdCreate('huge', MFD_CLOEXEC_HUGETLB)) as Fd;
    if (value < 0) return undefined;
    const fd = new OwnedFd(value);
    t.after(() => fd.close());
    ftruncateSync(value, MEMORY_BYTES);
    return { fd, lose: () => undefined };
  },
};

async function serve(t: TestContext): Promise<string> {
  const folder = temporaryFolder(t);
  const socket = join(folder, 'socket');
  const words = [program, 'serve', '--confine', 'none', '--socket-path', socket, '--log-level', 'error'];
  const shared = join(folder, 'shared');
  mkdirSync(shared);
  writeFileSync(join(shared, 'file'), 'content');
  const daemon = spawn(process.execPath, [...words, '--backend', 'passthrough', '--shared-dir', shared], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  t.after(async () => {
    const ended = daemon.exitCode === null && daemon.signalCode === null ? once(daemon, 'exit') : undefined;
    daemon.kill('SIGKILL');
    await ended;
  });
  while (!existsSync(socket)) await sleep(50);
  return socket;
}

async function guest(t: TestContext, socket: string) {
  const frontEnd = await FrontEnd.connect(socket);
  t.after(() => frontEnd.close());
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  return { frontEnd, client };
}

async function works(client: FuseClient): Promise<void> {
  const { nodeid } = await client.lookup(ROOT, 'file');
  const { fh } = await client.open(nodeid);
  assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 99)).toString(), 'content');
  await client.release(nodeid, fh);
}

for (const [name, memory] of Object.entries(kinds)) {
  for (const use of ['requests', 'replies'] as const) {
    test(`${use} in ${name} end that guest's connection, and no other`, async (t) => {
      const made = memory(t);
      if (made === undefined) {
        t.skip('there are no huge pages here');
        return;
      }
      const socket = await serve(t);
      const other = await guest(t, socket);
      const { frontEnd, client } = await guest(t, socket);
      const region = { guestAddress: GUEST, size: MEMORY_BYTES, userAddress: 2 ** 41, mmapOffset: 0 };
      const table = encodeMemoryTable([frontEnd.memory.region, region]);
      try {
        await frontEnd.channel.command('SET_MEM_TABLE', table, [frontEnd.memory.fd, made.fd.value]);
        await works(client);
        made.lose();
        ask(frontEnd, client, use);
        await frontEnd.ended;
      } catch (error) {
        // Huge pages that are not there may be refused before any is touched.
        if (!(error instanceof FrontEndError) || !name.startsWith('huge')) throw error;
      }
      await works(other.client);
      await works((await guest(t, socket)).client);
    });
  }
}

/** Puts a GETATTR into the ring, with its request or its reply in the last page of the region. */
function ask(frontEnd: FrontEnd, client: FuseClient, use: 'requests' | 'replies'): void {
  const { memory, queues } = frontEnd;
  const { driver, kick } = queues[1]!;
  const lost = GUEST + MEMORY_BYTES - 4096;
  const offset = memory.allocate(4096);
  const request = client.encode(3, ROOT, new Uint8Array(16));
  memory.bytes.set(request, offset);
  const own = memory.guestAddress(offset);
  driver.begin();
  driver.readable(use === 'requests' ? lost : own, request.length);
  driver.writable(use === 'replies' ? lost : own + 2048, 16 + 104);
  driver.submit();
  if (driver.publish()) signal(kick.value);
}
