import { FileType, FsError, SYMLINK_MAX } from '../../backend/index.js';
import { type ContractCase, contentOf, namesIn, readAll, type Trial } from '../case.js';
import { type Client, type Found, type OpenFile, ROOT } from '../client.js';
import { equal, fails, holds, sameBytes, supported } from '../expect.js';

// Rules for any tree, whatever is in it. A read-only backend must keep them too.

/**
 * The most nodes that a walk visits: enough to find a mistake, few enough for a backend behind a
 * network.
 */
const MOST_NODES = 500;
const MOST_BYTES = 4 * 1024 * 1024;

interface Visited extends Found {
  readonly parent: bigint;
  readonly name: string;
  readonly path: string;
  readonly listedType: number;
  readonly listedIno: bigint;
}

/** Walks the tree, breadth first. */
async function walk({ client }: Trial): Promise<Visited[]> {
  const visited: Visited[] = [];
  const directories = [{ id: ROOT, path: '' }];
  for (let next = directories.shift(); next !== undefined; next = directories.shift()) {
    const opened = await client.opendir(next.id);
    let cookie = 0n;
    while (visited.length < MOST_NODES) {
      const entries = await client.readdir(opened, cookie);
      if (entries.length === 0) break;
      cookie = entries.at(-1)!.cookie;
      for (const { name, type, ino } of entries) {
        if (name === '.' || name === '..' || visited.length === MOST_NODES) continue;
        const path = `${next.path}/${name}`;
        const found = await client.find(next.id, name);
        holds(found !== undefined, `lookup of ${path}, which readdir listed`, 'a node', found);
        visited.push({ ...found, parent: next.id, name, path, listedType: type, listedIno: ino });
        if ((found.stat.mode & FileType.MASK) === FileType.DIRECTORY)
          directories.push({ id: found.id, path });
      }
    }
    await client.closedir(opened);
  }
  return visited;
}

/** The regular files of the tree that can be opened for reading. */
async function files(trial: Trial): Promise<Visited[]> {
  return (await walk(trial)).filter(({ stat }) => (stat.mode & FileType.MASK) === FileType.REGULAR);
}

function identities(visited: readonly Visited[]): string[] {
  return visited.map(({ path, id, stat }) => `${path} ${id} ${stat.ino}`).sort();
}

const UNKNOWN_INO = 0xffffffffn;

export const treeCases: readonly ContractCase[] = [
  {
    name: 'dot and dot-dot have the inode numbers of the directory and of the one above',
    needs: ['readdir'],
    async run(trial) {
      const { client } = trial;
      const visited = await walk(trial);
      const directories = visited.filter(({ stat }) => (stat.mode & FileType.MASK) === FileType.DIRECTORY);
      const root = (await client.stat(ROOT)).ino;
      const inos = new Map([[ROOT, root], ...directories.map(({ id, stat }) => [id, stat.ino] as const)]);
      for (const { id, parent, path } of [{ id: ROOT, parent: ROOT, path: '' }, ...directories]) {
        const opened = await client.opendir(id);
        for (const { name, ino } of await client.readdir(opened, 0n)) {
          if (name === '.') equal(ino, inos.get(id), `d_ino of ${path}/.`);
          if (name === '..' && ino !== UNKNOWN_INO) equal(ino, inos.get(parent), `d_ino of ${path}/..`);
        }
        await client.closedir(opened);
      }
    },
  },
  {
    name: 'the root is a directory',
    needs: [],
    async run({ client }) {
      const { mode } = await client.stat(ROOT);
      equal(mode & FileType.MASK, FileType.DIRECTORY, 'type bits of the root');
    },
  },
  {
    name: 'a name that is not there is not found',
    needs: [],
    async run({ client }) {
      for (const name of ['no-such-name-here', 'no such name', 'ä'.repeat(100), '\udcff']) {
        await fails(client.lookup(ROOT, name), 'ENOENT', `lookup of ${JSON.stringify(name)}`);
      }
    },
  },
  {
    name: 'names that every object in JavaScript has are not found where no file has them',
    needs: ['readdir'],
    async run({ client }) {
      const names = await namesIn(client, ROOT);
      for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
        if (!names.includes(name)) await fails(client.lookup(ROOT, name), 'ENOENT', `lookup of ${name}`);
      }
    },
  },
  {
    name: 'every name that readdir lists is found by lookup, with the type and the inode number listed',
    needs: ['readdir'],
    async run(trial) {
      for (const { path, stat, listedType, listedIno } of await walk(trial)) {
        if (listedType !== 0)
          equal(listedType, stat.mode & FileType.MASK, `type that readdir shows for ${path}`);
        if (listedIno !== UNKNOWN_INO)
          equal(listedIno, stat.ino, `inode number that readdir shows for ${path}`);
      }
    },
  },
  {
    name: 'getattr shows what lookup showed',
    needs: ['readdir'],
    async run(trial) {
      for (const { id, path, stat } of await walk(trial)) {
        const again = await trial.client.stat(id);
        equal({ ...again, atime: 0n }, { ...stat, atime: 0n }, `attributes of ${path}`);
      }
    },
  },
  {
    name: 'the same name is the same node each time, and a directory has one name only',
    needs: ['readdir'],
    async run(trial) {
      const paths = new Map<bigint, Visited>();
      for (const visited of await walk(trial)) {
        const { id, parent, name, path, stat } = visited;
        equal((await trial.client.lookup(parent, name)).id, id, `node of ${path}, looked up again`);
        const other = paths.get(id);
        paths.set(id, visited);
        if (other === undefined) continue;
        holds(
          (stat.mode & FileType.MASK) !== FileType.DIRECTORY,
          `${other.path} and ${path}`,
          'two nodes (different files must have different nodes and keys)',
          'one directory',
        );
        holds(stat.nlink > 1, `links of ${path}, which is ${other.path} too`, 'more than 1', stat.nlink);
      }
    },
  },
  {
    name: 'files that have one link each are different nodes with different inode numbers',
    needs: ['readdir'],
    async run(trial) {
      const seen = new Map<bigint, string>();
      const inos = new Map<string, string>();
      for (const { id, path, stat } of await files(trial)) {
        if (stat.nlink !== 1) continue;
        equal(seen.get(id), undefined, `another path of the node of ${path}`);
        seen.set(id, path);
        equal(inos.get(String(stat.ino)), undefined, `another path with the inode number of ${path}`);
        inos.set(String(stat.ino), path);
      }
    },
  },
  {
    name: 'no directory lists a name twice, and each lists the same again',
    needs: ['readdir'],
    async run(trial) {
      const directories = (await walk(trial)).filter(
        ({ stat }) => (stat.mode & FileType.MASK) === FileType.DIRECTORY,
      );
      for (const { id, path } of [{ id: ROOT, path: '/' }, ...directories]) {
        const names = await namesIn(trial.client, id);
        equal(names.length, new Set(names).size, `different names in ${path}`);
        const again = await namesIn(trial.client, id, 600);
        equal([...again].sort(), [...names].sort(), `names in ${path}, listed again in smaller pieces`);
      }
    },
  },
  {
    name: 'a file reads the same whole and in pieces, and ends at its size',
    needs: ['read', 'readdir'],
    async run(trial) {
      const { client } = trial;
      for (const { id, path, stat } of await files(trial)) {
        const opened = await openReadable(client, id);
        if (opened === undefined) continue;
        if (stat.size > MOST_BYTES) {
          await client.closeFile(opened);
          continue;
        }
        const whole = await readAll(client, opened);
        if (!opened.directIo) equal(whole.length, stat.size, `bytes read from ${path} against its size`);
        const small = whole.length > 200_000 ? 65_537 : 4093;
        sameBytes(await readAll(client, opened, 0, small), whole, `${path}, read ${small} bytes at a time`);
        const from = whole.length >> 1;
        sameBytes(await readAll(client, opened, from), whole.subarray(from), `${path}, read from ${from} on`);
        for (const offset of [whole.length, whole.length + 1, whole.length + 1_000_000, 2 ** 40]) {
          const beyond = await client.read(opened, offset, 4096);
          equal(beyond.length, 0, `bytes of ${path} at ${offset}, where it has ${whole.length}`);
        }
        await client.closeFile(opened);
      }
    },
  },
  {
    name: 'a file opened twice is read independently',
    needs: ['read', 'readdir'],
    async run(trial) {
      const { client } = trial;
      for (const { id, path, stat } of (await files(trial)).slice(0, 20)) {
        const first = await openReadable(client, id);
        if (first === undefined || stat.size > MOST_BYTES) continue;
        const second = await client.open(id);
        const start = await client.read(first, 0, 100);
        await client.closeFile(first);
        sameBytes(
          await client.read(second, 0, 100),
          start,
          `${path} through a second handle, the first one closed`,
        );
        await client.closeFile(second);
      }
    },
  },
  {
    name: 'every symbolic link has a target',
    needs: ['readlink', 'readdir'],
    async run(trial) {
      for (const { id, path, stat } of await walk(trial)) {
        if ((stat.mode & FileType.MASK) !== FileType.SYMLINK) continue;
        const target = await trial.client.readlink(id);
        const length = Buffer.byteLength(target);
        holds(length > 0 && length <= SYMLINK_MAX, `target of ${path}`, `1 to ${SYMLINK_MAX} bytes`, target);
      }
    },
  },
  {
    name: 'every extended attribute that is listed can be read',
    needs: ['listxattr', 'getxattr', 'readdir'],
    async run(trial) {
      const { client } = trial;
      for (const { id, path } of [{ id: ROOT, path: '/' }, ...(await walk(trial))]) {
        const names = await supported(client.listxattr(id), 'EOPNOTSUPP');
        equal(names.length, new Set(names).size, `different attribute names of ${path}`);
        for (const name of names) await client.getxattr(id, name);
      }
    },
  },
  {
    name: 'a missing extended attribute is ENODATA',
    needs: ['getxattr'],
    async run({ client }) {
      await fails(client.getxattr(ROOT, 'user.no-such-attribute'), ['ENODATA', 'EOPNOTSUPP'], 'getxattr');
    },
  },
  {
    name: 'figures of the file system do not contradict each other',
    needs: ['statfs'],
    async run({ client }) {
      const { blocks, bfree, bavail, files: all, ffree, bsize, namelen } = await client.statfs(ROOT);
      holds(bfree <= blocks, 'free blocks', `at most ${blocks}`, bfree);
      holds(bavail <= bfree, 'available blocks', `at most the ${bfree} that are free`, bavail);
      holds(ffree <= all, 'free files', `at most ${all}`, ffree);
      holds(bsize > 0, 'block size', 'more than 0', bsize);
      holds(namelen > 0, 'longest name', 'more than 0', namelen);
    },
  },
  {
    name: 'many requests at a time are each answered with their own result',
    needs: ['readdir'],
    async run(trial) {
      const { client } = trial;
      const visited = await walk(trial);
      const found = await Promise.all(visited.map(({ parent, name }) => client.lookup(parent, name)));
      equal(
        found.map(({ id }) => id),
        visited.map(({ id }) => id),
        'nodes found by lookups in parallel',
      );
      const stats = await Promise.all(visited.map(({ id }) => client.stat(id)));
      equal(
        stats.map(({ ino }) => ino),
        visited.map(({ stat }) => stat.ino),
        'inode numbers asked for in parallel',
      );
      const small = trial.backend.read === undefined ? [] : await files(trial);
      const readable = small.filter(({ stat }) => stat.size < 200_000).slice(0, 64);
      const alone: string[] = [];
      for (const { id } of readable) alone.push(await digestOf(client, id));
      const together = await Promise.all(readable.map(({ id }) => digestOf(client, id)));
      equal(together, alone, 'contents read in parallel');
    },
  },
  {
    name: 'what the guest has forgotten can be looked up anew',
    needs: ['readdir'],
    async run(trial) {
      const before = await walk(trial);
      await trial.client.forgetAll();
      const after = await walk(trial);
      equal(
        after.map(({ path }) => path),
        before.map(({ path }) => path),
        'paths in the tree',
      );
      if (trial.backend.key === undefined) return;
      equal(
        identities(after),
        identities(before),
        'path, node id (which comes from the key) and inode number',
      );
    },
  },
  {
    name: 'after a restart every node has its key, and is found by it',
    needs: ['key', 'resolve', 'readdir'],
    async run(trial) {
      const before = await walk(trial);
      const again = await trial.restart();
      const after = await walk(again);
      equal(
        identities(after),
        identities(before),
        'path, node id (which comes from the key) and inode number',
      );
    },
  },
];

async function openReadable(client: Client, id: bigint): Promise<OpenFile | undefined> {
  try {
    return await client.open(id);
  } catch (error) {
    if (error instanceof FsError && (error.code === 'EACCES' || error.code === 'EPERM')) return undefined;
    throw error;
  }
}

async function digestOf(client: Client, id: bigint): Promise<string> {
  const content = await contentOf(client, id).catch((error: unknown) => Buffer.from(String(error)));
  return Buffer.from(content).toString('base64');
}
