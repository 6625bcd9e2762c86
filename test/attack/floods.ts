import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, UnixConnection } from '../../core/system/index.js';
import { FrontEndError } from '../../core/vhost-user/index.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { Random } from '../support/random.js';
import { fuseTransport } from '../support/vhost-user.js';
import { startOf } from './attacker.js';

/*
 * A guest that takes as much as it gets of one resource after the other, through a connection of
 * its own for each.
 */

/** Requests in flight. */
const DEPTH = 64;
/** Refusals in a row, after which a resource is taken to be exhausted. */
const REFUSALS = 2000;

const { socket, seed, end, finish } = startOf();
const random = new Random(seed);
const counts: Record<string, number> = {};

interface Ground {
  readonly client: FuseClient;
  /** A directory of this flood. */
  readonly directory: bigint;
  /** A file in it, and a handle of that. */
  readonly file: bigint;
  readonly fh: bigint;
}

type Take = (ground: Ground, i: number) => Promise<unknown>;

const long = (i: number): string => `${'n'.repeat(240)}${i}`;
const lock = (i: number) => ({ start: BigInt(i) * 4n, end: BigInt(i) * 4n, type: 1, pid: 1 });

const floods: Readonly<Record<string, Take>> = {
  opendir: ({ client, directory }) => client.opendir(directory),
  open: ({ client, file }) => client.open(file, 2),
  symlinks: ({ client, directory }, i) => client.symlink(directory, `l${i}`, '../'.repeat(1360)),
  names: ({ client, directory }, i) => client.mknod(directory, long(i), 0o100644),
  directories: ({ client, directory }, i) => client.mkdir(directory, long(i)),
  links: ({ client, file, directory }, i) => client.link(file, directory, long(i)),
  missing: ({ client, directory }, i) => client.lookup(directory, long(i)),
  xattrs: ({ client, file }, i) => client.setxattr(file, `user.${i}`, new Uint8Array(60_000)),
  'small xattrs': ({ client, file }, i) =>
    client.setxattr(file, `user.${'k'.repeat(200)}${i}`, new Uint8Array(9)),
  locks: ({ client, file, fh }, i) => client.setlk(file, fh, 1n, lock(i)),
  'lock owners': ({ client, file, fh }, i) => client.setlk(file, fh, BigInt(i), { ...lock(0), type: 0 }),
  sparse: ({ client, file, fh }, i) => client.write(file, fh, i * 131_072, Uint8Array.of(1)),
  data: ({ client, file, fh }, i) => client.write(file, fh, i * 65_536, new Uint8Array(65_536)),
  allocations: ({ client, file, fh }, i) => client.fallocate(file, fh, 0, i * 2 ** 26, 2 ** 26),
  syncs: ({ client, file, fh }) => client.fsync(file, fh),
  unlinked: async ({ client, directory }, i) => {
    await client.create(directory, long(i), 0o600);
    await client.unlink(directory, long(i));
  },
  listings: async ({ client, directory }, i) => {
    if (i < 2000) return client.mknod(directory, long(i), 0o100644);
    const { fh } = await client.opendir(directory);
    return client.readdirplus(directory, fh, 0n, 2 ** 17);
  },
};

async function ground(client: FuseClient, name: string): Promise<Ground> {
  await client.init();
  const made = `${name}-${random.next()}`;
  const { nodeid } = await client.mkdir(ROOT, made);
  const { entry, open } = await client.create(nodeid, 'file', 0o644);
  return { client, directory: nodeid, file: entry.nodeid, fh: open.fh };
}

/** Takes one resource until it is refused. */
async function flood(name: string, until: number): Promise<void> {
  const frontEnd = await FrontEnd.connect(socket, { queueSize: 256, memory: 32 * 2 ** 20 });
  try {
    const place = await ground(new FuseClient(fuseTransport(frontEnd)), name);
    const take = floods[name]!;
    let next = 0;
    let refusals = 0;
    const lane = async (): Promise<void> => {
      while (Date.now() < until && refusals < REFUSALS) {
        try {
          await take(place, next++);
          counts[name] = (counts[name] ?? 0) + 1;
          refusals = 0;
        } catch (error) {
          if (!(error instanceof FuseError)) throw error;
          refusals += 1;
        }
      }
    };
    await Promise.all(Array.from({ length: DEPTH }, lane));
  } finally {
    frontEnd.close();
  }
}

/** Connects as often as it can, and says nothing. */
async function connections(until: number): Promise<void> {
  const open: UnixConnection[] = [];
  while (Date.now() < until) {
    try {
      open.push(UnixConnection.connect(socket));
      counts['connections'] = (counts['connections'] ?? 0) + 1;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
    if (open.length === 100) for (const connection of open.splice(0)) connection.close();
    await sleep(1);
  }
  for (const connection of open) connection.close();
}

const names = Object.keys(floods);
const slice = Math.max(500, (end - Date.now()) / (names.length + 1));
while (Date.now() < end) {
  for (const name of names.sort(() => random.below(3) - 1)) {
    const until = Math.min(end, Date.now() + slice);
    try {
      await flood(name, until);
    } catch (error) {
      // Too many connections, no room even for a directory, or the connection was ended.
      if (!(error instanceof FrontEndError || error instanceof SystemError || error instanceof FuseError))
        throw error;
      await sleep(20);
    }
    if (Date.now() >= end) break;
  }
  await connections(Math.min(end, Date.now() + slice));
}
finish(counts);
