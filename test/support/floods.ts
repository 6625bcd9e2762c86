import { Errno } from '../../core/backend/index.js';
import { type FuseClient, FuseError, ROOT } from './fuse-client.js';

/*
 * What a guest can take without end, by name: each call takes one more.
 */

/** Where a flood is made. */
export interface Ground {
  readonly client: FuseClient;
  /** A directory of this flood. */
  readonly directory: bigint;
  /** A file in it, and a handle of that. */
  readonly file: bigint;
  readonly fh: bigint;
  /** Directories of a chain, each in the one before it. */
  readonly depths: bigint[];
}

/** Takes one more of something; `i` counts. */
export type Take = (ground: Ground, i: number) => Promise<unknown>;

const long = (i: number): string => `${'n'.repeat(240)}${i}`;
const lock = (i: number) => ({ start: BigInt(i) * 4n, end: BigInt(i) * 4n, type: 1, pid: 1 });

export const floods: Readonly<Record<string, Take>> = {
  lookups: ({ client, directory }, i) => client.lookup(directory, `endless${i}`),
  opendir: ({ client, directory }) => client.opendir(directory),
  open: ({ client, file }) => client.open(file, 2),
  symlinks: ({ client, directory }, i) => client.symlink(directory, `l${i}`, '../'.repeat(1360)),
  names: ({ client, directory }, i) => client.mknod(directory, long(i), 0o100644),
  // Each of them is open, and known.
  creates: ({ client, directory }, i) => client.create(directory, `c${i}`, 0o600),
  tree: async ({ client, directory, depths }) => {
    const parent = depths.at(-1) ?? directory;
    depths.push((await client.mkdir(parent, 'd')).nodeid);
  },
  directories: ({ client, directory }, i) => client.mkdir(directory, long(i)),
  links: ({ client, file, directory }, i) => client.link(file, directory, long(i)),
  missing: ({ client, directory }, i) =>
    client.lookup(directory, long(i)).catch((error: unknown) => {
      if (!(error instanceof FuseError) || error.errno !== Errno.ENOENT) throw error;
    }),
  xattrs: ({ client, file }, i) => client.setxattr(file, `user.${i}`, new Uint8Array(60_000)),
  'small xattrs': ({ client, file }, i) =>
    client.setxattr(file, `user.${'k'.repeat(200)}${i}`, new Uint8Array(9)),
  locks: ({ client, file, fh }, i) => client.setlk(file, fh, 1n, lock(i)),
  'lock owners': ({ client, file, fh }, i) => client.setlk(file, fh, BigInt(i), { ...lock(0), type: 0 }),
  // Each write is the only one in a chunk of memfs, and in the node above that.
  'sparse data': ({ client, file, fh }, i) => client.write(file, fh, i * 2 ** 23, Uint8Array.of(1)),
  // ... and in all nodes but the root.
  'sparser data': ({ client, file, fh }, i) =>
    client.write(file, fh, (i % 64) * 2 ** 47 + i * 2 ** 23, Uint8Array.of(1)),
  sparse: ({ client, file, fh }, i) => client.write(file, fh, i * 131_072, Uint8Array.of(1)),
  data: ({ client, file, fh }, i) => client.write(file, fh, i * 65_536, new Uint8Array(65_536)),
  allocations: ({ client, file, fh }, i) => client.fallocate(file, fh, 0, i * 2 ** 26, 2 ** 26),
  syncs: ({ client, file, fh }) => client.fsync(file, fh),
  unlinked: async ({ client, directory }, i) => {
    await client.create(directory, long(i), 0o600);
    await client.unlink(directory, long(i));
  },
  'open unlinked': async ({ client, directory }, i) => {
    const { entry } = await client.create(directory, 'same', 0o600);
    await client.setxattr(entry.nodeid, 'user.own', new Uint8Array(2000));
    await client.unlink(directory, 'same');
    return i;
  },
  'half-read listings': async ({ client, directory }, i) => {
    if (i < 3000) return client.mknod(directory, `n${i}`, 0o100644);
    const { fh } = await client.opendir(directory);
    return client.readdir(directory, fh, 0n, 2048);
  },
  listings: async ({ client, directory }, i) => {
    if (i < 2000) return client.mknod(directory, long(i), 0o100644);
    const { fh } = await client.opendir(directory);
    return client.readdirplus(directory, fh, 0n, 2 ** 17);
  },
};

/** Makes a directory and a file for a flood. The client has sent INIT. */
export async function groundOf(client: FuseClient, name: string): Promise<Ground> {
  const { nodeid } = await client.mkdir(ROOT, name);
  const { entry, open } = await client.create(nodeid, 'file', 0o644);
  return { client, directory: nodeid, file: entry.nodeid, fh: open.fh, depths: [] };
}
