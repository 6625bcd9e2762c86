import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { fuseTransport } from '../support/vhost-user.js';

/*
 * Shows how long one guest's request can hold the thread that serves all of them: the longest
 * stretch of processor time without a turn of the event loop.
 *
 *   node dist/test/attack/holds.js [--share N] [--rounds N] [WORD]…
 */

/** How long is waited for what is left for later turns, in milliseconds. */
const LATER_MS = 700;
/** Requests in flight while there is something to be made. */
const DEPTH = 64;
const MEMORY_BYTES = 64 * 2 ** 20;

interface Guest {
  readonly client: FuseClient;
  readonly frontEnd: FrontEnd;
}

interface Stage {
  readonly first: Guest;
  readonly second: Guest;
  /** A share of so many. */
  count(of: number): number;
}

interface Hold {
  readonly name: string;
  /** Prepares, and returns what is timed. */
  prepare(stage: Stage): Promise<() => Promise<unknown>>;
}

const READ = 0;
const WRITE = 1;
const UNLOCK = 2;
const EVERYTHING = 2n ** 63n - 1n;

/** Calls `make` so often, with many under way. */
async function many<T>(count: number, make: (i: number) => Promise<T>): Promise<T[]> {
  const made: T[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) made[i] = await make(i);
  };
  await Promise.all(Array.from({ length: DEPTH }, lane));
  return made;
}

async function files(client: FuseClient, count: number): Promise<bigint[]> {
  const made = await many(count, (i) => client.mknod(ROOT, `name-${i}`, 0o100644));
  return made.map(({ nodeid }) => nodeid);
}

async function file(client: FuseClient, name = 'file') {
  const { entry, open } = await client.create(ROOT, name, 0o644);
  return { id: entry.nodeid, fh: open.fh };
}

/** Locks every other byte, through an owner for each or one for all. */
async function locks(
  client: FuseClient,
  { id, fh }: { id: bigint; fh: bigint },
  count: number,
  type: number,
  owner: (i: number) => bigint,
): Promise<void> {
  await many(count, (i) =>
    client.setlk(id, fh, owner(i), { start: BigInt(2 * i), end: BigInt(2 * i), type, pid: 1 }),
  );
}

const LOCKS = 131_000;

const holds: readonly Hold[] = [
  {
    name: 'BATCH_FORGET of 131,072 nodes',
    async prepare({ first: { client }, count }) {
      const ids = await files(client, count(131_072));
      return () => client.batchForget(ids.map((id) => [id, 1n]));
    },
  },
  {
    name: 'a second INIT with 300,000 nodes',
    async prepare({ first: { client }, count }) {
      await files(client, count(300_000));
      return () => client.init();
    },
  },
  {
    name: 'the end of a session with 300,000 nodes',
    async prepare({ first: { client, frontEnd }, count }) {
      await files(client, count(300_000));
      return async () => frontEnd.close();
    },
  },
  {
    name: 'the end of a session with 100,000 open directories',
    async prepare({ first: { client, frontEnd }, count }) {
      await many(count(100_000), () => client.opendir(ROOT));
      return async () => frontEnd.close();
    },
  },
  {
    name: 'the end of a session with 100,000 open files',
    async prepare({ first: { client, frontEnd }, count }) {
      const { id } = await file(client);
      await many(count(100_000), () => client.open(id, 2));
      return async () => frontEnd.close();
    },
  },
  {
    name: 'the end of a session with 131,000 locks of one owner',
    async prepare({ first: { client, frontEnd }, count }) {
      await locks(client, await file(client), count(LOCKS), WRITE, () => 1n);
      return async () => frontEnd.close();
    },
  },
  {
    name: 'the end of a session with 131,000 locks of as many owners',
    async prepare({ first: { client, frontEnd }, count }) {
      await locks(client, await file(client), count(LOCKS), WRITE, BigInt);
      return async () => frontEnd.close();
    },
  },
  {
    name: 'a lock in the place of 131,000',
    async prepare({ first: { client }, count }) {
      const one = await file(client);
      await locks(client, one, count(LOCKS), WRITE, () => 1n);
      return () => client.setlk(one.id, one.fh, 1n, { start: 0n, end: EVERYTHING, type: READ, pid: 1 });
    },
  },
  {
    name: 'a file is closed that has 131,000 locks of as many owners',
    async prepare({ first: { client }, count }) {
      const one = await file(client);
      await locks(client, one, count(LOCKS), WRITE, BigInt);
      return () => client.release(one.id, one.fh);
    },
  },
  {
    name: '90 requests wait for a lock beside 131,000 of their own',
    async prepare({ first, second, count }) {
      const one = await file(first.client);
      await locks(first.client, one, count(LOCKS), WRITE, () => 1n);
      await second.client.lookup(ROOT, 'file');
      const { fh } = await second.client.open(one.id, 2);
      for (let i = 0; i < 2; i++) {
        const start = BigInt(2 * LOCKS + 2 * i);
        await second.client.setlk(one.id, fh, 7n + BigInt(i), { start, end: start, type: WRITE, pid: 1 });
      }
      const all = Array.from({ length: 90 }, () =>
        first.client
          .setlk(one.id, one.fh, 1n, { start: 0n, end: EVERYTHING, type: WRITE, pid: 1 }, true)
          .catch(() => undefined),
      );
      return async () => {
        const lock = { start: 0n, end: EVERYTHING, type: UNLOCK, pid: 1 };
        await second.client.setlk(one.id, fh, 7n, lock);
        await second.client.setlk(one.id, fh, 8n, lock);
        await Promise.all(all);
      };
    },
  },
  {
    name: 'a directory of 300,000 names is opened and read',
    async prepare({ first: { client }, count }) {
      await files(client, count(300_000));
      return async () => {
        const { fh } = await client.opendir(ROOT);
        for (let offset = 0n, parts = 0; parts < 5; parts++)
          offset = (await client.readdirplus(ROOT, fh, offset, 65_536)).at(-1)!.off;
        await client.readdir(ROOT, fh, BigInt(count(299_000)), 65_536);
        await client.releasedir(ROOT, fh);
      };
    },
  },
  {
    name: 'READ of 16 MiB',
    async prepare({ first: { client } }) {
      const { id, fh } = await file(client);
      await client.setattr(id, { size: 2 ** 25 });
      await client.fallocate(id, fh, 0, 0, 2 ** 25);
      return () => client.read(id, fh, 0, 2 ** 24);
    },
  },
  {
    name: 'WRITE of 1 MiB',
    async prepare({ first: { client } }) {
      const { id, fh } = await file(client);
      const data = new Uint8Array(2 ** 20);
      return () => client.write(id, fh, 0, data);
    },
  },
  {
    name: 'COPY_FILE_RANGE of 2 GiB',
    async prepare({ first: { client } }) {
      const from = await file(client);
      const to = await file(client, 'copy');
      const data = new Uint8Array(2 ** 20).fill(1);
      for (let i = 0; i < 260; i++) await client.write(from.id, from.fh, i * 2 ** 20, data);
      return async () => {
        await client.copyFileRange([from.id, from.fh, 0], [to.id, to.fh, 0], 2 ** 31);
        await client.copyFileRange([from.id, from.fh, 1], [to.id, to.fh, 0], 2 ** 31);
      };
    },
  },
  {
    name: 'a file of 1 GiB is allocated, cut, and removed',
    async prepare({ first: { client } }) {
      const { id, fh } = await file(client);
      return async () => {
        await client.fallocate(id, fh, 0, 0, 2 ** 30);
        await client.fallocate(id, fh, 3, 0, 2 ** 29);
        await client.setattr(id, { size: 1 });
        await client.fallocate(id, fh, 0, 0, 2 ** 30);
        await client.unlink(ROOT, 'file');
        await client.release(id, fh);
        await client.forget(id, 1n);
      };
    },
  },
  {
    name: 'files of 1 GiB are replaced, and opened to be written anew',
    async prepare({ first: { client } }) {
      const large = await file(client, 'large');
      const other = await file(client, 'other');
      return async () => {
        for (let i = 0; i < 2; i++) {
          await client.fallocate(large.id, large.fh, 0, 0, 2 ** 30);
          const { fh } = await client.open(large.id, 0o1002);
          await client.release(large.id, fh);
        }
        await client.fallocate(large.id, large.fh, 0, 0, 2 ** 30);
        await client.rename(ROOT, 'other', ROOT, 'large');
        await client.release(large.id, large.fh);
        await client.forget(large.id, 1n);
        await client.release(other.id, other.fh);
      };
    },
  },
  {
    name: 'SEEK_HOLE and SEEK_DATA over 100,000 holes',
    async prepare({ first: { client }, count }) {
      const { id, fh } = await file(client);
      const end = count(100_000);
      await many(end, (i) => client.write(id, fh, i * 2 ** 18, Uint8Array.of(1)));
      await client.setattr(id, { size: 2 ** 50 });
      return async () => {
        await client.lseek(id, fh, end * 2 ** 18, 3).catch(() => undefined);
        await client.lseek(id, fh, 0, 4);
        await client.setattr(id, { size: 1 });
      };
    },
  },
  {
    name: '300 extended attributes are listed',
    async prepare({ first: { client } }) {
      const { id } = await file(client);
      for (let i = 0; i < 300; i++)
        await client.setxattr(id, `user.${'n'.repeat(200)}${i}`, new Uint8Array(100)).catch(() => undefined);
      return () => client.listxattr(id).catch(() => undefined);
    },
  },
];

const { values, positionals } = parseArgs({
  options: { share: { type: 'string', default: '1' }, rounds: { type: 'string', default: '2' } },
  allowPositionals: true,
});
const share = Number(values.share);
const child = fileURLToPath(new URL('./holds-child.js', import.meta.url));

/** Backends by name; one that is kept has a session journal. */
const backends: Readonly<Record<string, (folder: string) => object>> = {
  memfs: () => ({ type: 'memfs' }),
  passthrough: (sharedDir) => ({ type: 'passthrough', sharedDir }),
  overlay: (sharedDir) => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir }],
    upper: { type: 'memfs' },
  }),
  'kept memfs': () => ({ type: 'memfs' }),
};

/** @returns the longest stretch, in milliseconds. */
async function measure(name: string, { prepare }: Hold): Promise<number> {
  const folder = mkdtempSync('/dev/shm/vfk-holds-');
  const shared = join(folder, 'shared');
  mkdirSync(shared);
  const socket = join(folder, 'socket');
  const words = [socket, JSON.stringify(backends[name]!(shared)), name.startsWith('kept') ? 'kept' : 'plain'];
  const daemon = fork(child, words, { execArgv: ['--max-old-space-size=4000'] });
  const answer = async (): Promise<unknown> => ((await once(daemon, 'message')) as [unknown])[0];
  const longest = async (): Promise<unknown> => {
    const told = answer();
    daemon.send('');
    return told;
  };
  try {
    await answer();
    const guest = async (): Promise<Guest> => {
      const frontEnd = await FrontEnd.connect(socket, { memory: MEMORY_BYTES, queueSize: 256 });
      const client = new FuseClient(fuseTransport(frontEnd));
      await client.init();
      return { client, frontEnd };
    };
    const [first, second] = [await guest(), await guest()];
    const act = await prepare({ first, second, count: (of) => Math.ceil(of * share) });
    await sleep(LATER_MS);
    await longest();
    await act();
    await sleep(LATER_MS);
    const held = Number(await longest());
    first.frontEnd.close();
    second.frontEnd.close();
    return held;
  } finally {
    const ended = once(daemon, 'exit');
    daemon.disconnect();
    await ended;
    rmSync(folder, { recursive: true });
  }
}

for (const hold of holds) {
  for (const name of Object.keys(backends)) {
    const title = `${name}: ${hold.name}`;
    if (!positionals.every((word) => title.includes(word))) continue;
    const times: number[] = [];
    try {
      for (let round = 0; round < Number(values.rounds); round++) times.push(await measure(name, hold));
    } catch (error) {
      console.log(`${title}: ${String(error)}`);
    }
    console.log(
      `${Math.min(...times)
        .toFixed(1)
        .padStart(7)} ms  ${title}`,
    );
  }
}
process.exit(0);
