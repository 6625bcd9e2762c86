import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import memfs from '../../backends/memfs/index.js';
import {
  type AttributeChanges,
  type Backend,
  type Context,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type GuestBuffer,
  LockHold,
  OpenFlags,
  type Time,
} from '../../core/backend/index.js';
import { cases, checkBackend } from '../../core/contract/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { pluginEnvironment, keepingLog } from '../support/host-mount.js';
import { TinyBackend, TinyNode } from '../support/tiny-backend.js';

/*
 * Mistakes that authors of backends make. Each is put into a backend that has none. The suite must
 * then name the rule that it breaks.
 */

type Faults = (sound: Backend) => { readonly [M in keyof Backend]?: Backend[M] };

async function backendWith(faults: Faults): Promise<Backend> {
  const environment = pluginEnvironment();
  const sound = await memfs.create(memfs.options.parse({ size: '64m' }), environment);
  const wrong: Record<PropertyKey, unknown> = faults(sound);
  return new Proxy(sound, {
    get(target, key) {
      if (Object.hasOwn(wrong, key)) return wrong[key];
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function* listed(entries: unknown): Generator<DirectoryEntry> {
  for (const { name, type, ino } of entries as Iterable<DirectoryEntry>) yield { name, type, ino };
}

const whole = (time: Time | 'now' | undefined) =>
  typeof time === 'object' ? { seconds: time.seconds, nanoseconds: 0 } : time;

const rootContext = (context: Context): Context =>
  Object.create(context, { uid: { value: 0 }, gid: { value: 0 } }) as Context;

const GIVEN_UP = /^a request that is given up/;

/** A machine that does much else may take as long as that for a rule with many files. */
const PATIENCE_MS = 60_000;

const mistakes: readonly [mistake: string, rule: RegExp, faults: Faults, timeoutMs?: number][] = [
  [
    'reads into the first segment only',
    /^what is written is read back/,
    (sound) => ({
      read: (node, file, buffer: GuestBuffer, offset, context) =>
        sound.read!(node, file, buffer.slice(0, buffer.segments[0]?.length ?? 0), offset, context),
    }),
  ],
  [
    'writes the first segment only, and says it wrote all',
    /^what is written is read back/,
    (sound) => ({
      write: (node, file, buffer: GuestBuffer, offset, flags, context) => {
        void sound.write!(
          node,
          file,
          buffer.slice(0, buffer.segments[0]?.length ?? 0),
          offset,
          flags,
          context,
        );
        return buffer.length;
      },
    }),
  ],
  [
    'computes offsets with 32-bit operators',
    /^offsets beyond 4 GiB/,
    (sound) => ({
      write: (node, file, buffer, offset, flags, context) =>
        sound.write!(node, file, buffer, offset >>> 0, flags, context),
    }),
  ],
  [
    'looks names up in a plain object',
    /^names that every object in JavaScript has/,
    (sound) => ({
      lookup: (parent, name, context) =>
        name in {}
          ? { node: {}, attributes: { mode: FileType.REGULAR } }
          : sound.lookup(parent, name, context),
    }),
  ],
  [
    'lists a name twice',
    /^a listing shows each name that stays exactly once/,
    (sound) => ({
      readdir: (node, context) => {
        const entries = [...listed(sound.readdir!(node, context))];
        return [...entries, ...entries.slice(-1)];
      },
    }),
  ],
  [
    'lists a wrong type',
    /^every name that readdir lists is found/,
    (sound) => ({
      readdir: (node, context) =>
        [...listed(sound.readdir!(node, context))].map((entry) => ({ ...entry, type: FileType.FIFO })),
    }),
  ],
  [
    'decodes names as if all were UTF-8',
    /^names that are not UTF-8/,
    (sound) => ({
      readdir: (node, context) =>
        [...listed(sound.readdir!(node, context))].map((entry) => ({
          ...entry,
          name: entry.name.replaceAll(/[\udc80-\udcff](?<![\ud800-\udbff].)/g, '\ufffd'),
        })),
    }),
  ],
  [
    'destroys what a removed name named',
    /^a removed name is gone, and what it named/,
    (sound) => ({
      unlink: async (parent, name, context) => {
        const entry = await sound.lookup(parent, name, context);
        await sound.setattr!(entry!.node, { size: 0 }, undefined, context);
        await sound.unlink!(parent, name, context);
      },
    }),
  ],
  [
    'refuses to rename over a file',
    /^a rename replaces a file/,
    (sound) => ({
      rename: (parent, name, newParent, newName, _flags, context) =>
        sound.rename!(parent, name, newParent, newName, 1, context),
    }),
  ],
  [
    'ignores the flags of a rename',
    /^a rename that must not replace does not/,
    (sound) => ({
      rename: (parent, name, newParent, newName, _flags, context) =>
        sound.rename!(parent, name, newParent, newName, 0, context),
    }),
  ],
  [
    'takes a rename of a name that is not there for done',
    /^a renamed file keeps its node/,
    (sound) => ({
      rename: async (parent, name, newParent, newName, flags, context) => {
        if ((await sound.lookup(parent, name, context)) === undefined) return;
        await sound.rename!(parent, name, newParent, newName, flags, context);
      },
    }),
  ],
  [
    'removes directories that are not empty, or seems to',
    /^a directory is made empty with the mode asked for/,
    () => ({ rmdir: () => undefined }),
  ],
  [
    'keeps times to the second',
    /^times are kept to the nanosecond/,
    (sound) => ({
      setattr: (node, changes: AttributeChanges, file, context) => {
        const { atime, mtime } = changes;
        const cut = {
          ...changes,
          ...(atime === undefined ? {} : { atime: whole(atime)! }),
          ...(mtime === undefined ? {} : { mtime: whole(mtime)! }),
        };
        return sound.setattr!(node, cut, file, context);
      },
    }),
  ],
  [
    'makes everything root’s',
    /^a created file belongs to who created it/,
    (sound) => ({
      create: (parent, name, mode, flags, context) =>
        sound.create!(parent, name, mode, flags, rootContext(context)),
    }),
  ],
  [
    'ignores XATTR_CREATE',
    /^an extended attribute is set, read/,
    (sound) => ({
      setxattr: (node, name, value, _flags, killSgid, context) =>
        sound.setxattr!(node, name, value, 0, killSgid, context),
    }),
  ],
  [
    'shows another size in getattr than in lookup',
    /^getattr shows what lookup showed/,
    (sound) => ({
      getattr: async (node, file, context) => ({
        ...(await sound.getattr(node, file, context)),
        size: 12_345,
      }),
    }),
  ],
  [
    'makes a new node for each lookup',
    /^a created file is empty/,
    (sound) => ({
      key: undefined,
      lookup: async (parent, name, context) => {
        const entry = await sound.lookup(parent, name, context);
        const isFolder =
          entry !== undefined && (entry.attributes.mode & FileType.MASK) === FileType.DIRECTORY;
        return entry === undefined || isFolder ? entry : { node: {}, attributes: entry.attributes };
      },
      getattr: (node, file, context) =>
        Object.keys(node).length === 0 ? { mode: FileType.REGULAR } : sound.getattr(node, file, context),
    }),
  ],
  [
    'forgets everything in a restart',
    /^what was made is there after a restart/,
    () => ({ restore: () => undefined }),
  ],
  [
    'throws what is no FsError',
    /^a write beyond the end leaves zeros/,
    () => ({
      write: () => {
        throw new TypeError('x is not a function');
      },
    }),
  ],
  [
    'answers with the wrong error',
    /^creating a name that is there is EEXIST/,
    (sound) => ({
      create: async (parent, name, mode, flags, context) => {
        if ((await sound.lookup(parent, name, context)) !== undefined) throw FsError.of('EACCES');
        return sound.create!(parent, name, mode, flags, context);
      },
    }),
  ],
  [
    'lists what is added while it lists, without an end',
    /^a listing ends, and misses no name/,
    (sound) => ({
      readdir: function* (node, context) {
        for (let added = 1; added > 0;) {
          added = 0;
          for (const entry of listed(sound.readdir!(node, context))) {
            added += 1;
            yield entry;
          }
        }
      },
    }),
  ],
  [
    'lists the first hundred names only',
    /^a listing ends, and misses no name/,
    (sound) => ({
      readdir: function* (node, context) {
        let left = 100;
        for (const entry of listed(sound.readdir!(node, context))) if (left-- > 0) yield entry;
      },
    }),
  ],
  [
    'lists the first thousand names only',
    /^a listing of more than a thousand names/,
    (sound) => ({
      readdir: (node, context) => [...listed(sound.readdir!(node, context))].slice(0, 1000),
    }),
  ],
  [
    'finds what it found once, although it was removed',
    /^a name that was looked up is gone/,
    (sound) => {
      const found = new Map<object, Map<string, Entry<object>>>();
      return {
        lookup: async (parent, name, context) => {
          const names = found.get(parent) ?? new Map<string, Entry<object>>();
          found.set(parent, names);
          const entry = names.get(name) ?? (await sound.lookup(parent, name, context));
          if (entry === undefined) return undefined;
          names.set(name, { ...entry, attributes: { ...entry.attributes } });
          return names.get(name);
        },
      };
    },
  ],
  ['has one key for all files', /^each file that is made is a node of its own/, () => ({ key: () => 'key' })],
  [
    'keeps the old name in a rename',
    /^a renamed file keeps its node/,
    (sound) => ({
      rename: async (parent, name, newParent, newName, _flags, context) => {
        const { node } = (await sound.lookup(parent, name, context))!;
        await sound.link!(node, newParent, newName, context);
      },
    }),
  ],
  [
    'shows times that stand still',
    /^a write moves mtime/,
    (sound) => ({
      getattr: async (node, file, context) => ({
        ...(await sound.getattr(node, file, context)),
        mtime: 1,
        mtimeNsec: 0,
        ctime: 1,
        ctimeNsec: 0,
      }),
    }),
  ],
  [
    'leaves ctime where attributes change',
    /^a change of attributes moves ctime/,
    (sound) => {
      const ctime = { ctime: 5, ctimeNsec: 0 };
      return {
        getattr: async (node, file, context) => ({ ...(await sound.getattr(node, file, context)), ...ctime }),
        setattr: async (node, changes, file, context) => ({
          ...(await sound.setattr!(node, changes, file, context)),
          ...ctime,
        }),
        create: async (parent, name, mode, flags, context) => {
          const made = await sound.create!(parent, name, mode, flags, context);
          return { ...made, attributes: { ...made.attributes, ...ctime } };
        },
      };
    },
  ],
  [
    'counts one link always',
    /^hard links are one file/,
    (sound) => ({
      getattr: async (node, file, context) => ({ ...(await sound.getattr(node, file, context)), nlink: 1 }),
    }),
  ],
  [
    'ignores EXCL',
    /^creating a name that is there is EEXIST/,
    (sound) => ({
      create: (parent, name, mode, flags, context) =>
        sound.create!(parent, name, mode, flags & ~OpenFlags.EXCL, context),
    }),
  ],
  [
    'leaves what it likes in gaps',
    /^a write beyond the end leaves zeros/,
    (sound) => ({
      write: async (node, file, buffer, offset, flags, context) => {
        const { size = 0 } = await sound.getattr(node, file, context);
        if (offset > size) await sound.fallocate!(node, file, 0, 0, offset, context);
        if (offset > size + 100) await sound.write!(node, file, buffer, size, flags, context);
        return sound.write!(node, file, buffer, offset, flags, context);
      },
    }),
  ],
  [
    'cuts nothing when a file is truncated',
    /^a truncated file is shorter/,
    (sound) => ({
      setattr: (node, { size: _size, ...changes }, file, context) =>
        sound.setattr!(node, changes, file, context),
    }),
  ],
  [
    'lists extended attributes that are not there',
    /^an extended attribute is set, read, listed/,
    (sound) => ({
      listxattr: async (node, context) => [...(await sound.listxattr!(node, context)), 'user.ghost'],
    }),
  ],
  [
    'does not remove extended attributes',
    /^an extended attribute is set, read, listed/,
    () => ({ removexattr: () => undefined }),
  ],
  [
    'says that it wrote more than it was given',
    /^what is written is read back/,
    (sound) => ({
      write: async (node, file, buffer, offset, flags, context) =>
        (await sound.write!(node, file, buffer, offset, flags, context)) + 1,
    }),
  ],
  [
    'says that it read more than was asked for',
    /^what is written is read back/,
    (sound) => ({
      read: async (node, file, buffer, offset, context) =>
        (await sound.read!(node, file, buffer, offset, context)) + buffer.length,
    }),
  ],
  ['answers a negative number of bytes', /^what is written is read back/, () => ({ read: () => -1 })],
  [
    'reads short in the middle of a file',
    /^what is written is read back/,
    (sound) => ({
      read: (node, file, buffer: GuestBuffer, offset, context) =>
        sound.read!(node, file, buffer.slice(0, Math.min(buffer.length, 1000)), offset, context),
    }),
  ],
  [
    'cuts what it reads at the size before the last write',
    /^one handle sees at once/,
    (sound) => {
      const sizes = new Map<unknown, number>();
      return {
        read: async (node, file, buffer: GuestBuffer, offset, context) => {
          const size = sizes.get(file) ?? (await sound.getattr(node, file, context)).size ?? 0;
          sizes.set(file, size);
          const length = Math.max(0, Math.min(buffer.length, size - offset));
          return sound.read!(node, file, buffer.slice(0, length), offset, context);
        },
      };
    },
  ],
  [
    'lists in an order that changes within a listing',
    /^a listing shows each name that stays exactly once/,
    (sound) => ({
      readdir: function* (node, context) {
        const pageOf = (from: number): DirectoryEntry[] => {
          const names = [...listed(sound.readdir!(node, context))];
          return (from % 64 === 0 ? names : names.toReversed()).slice(from, from + 32);
        };
        for (let from = 0, page = pageOf(0); page.length > 0; page = pageOf(from)) {
          yield* page;
          from += 32;
        }
      },
    }),
  ],
  [
    'writes after it has answered that it gave up',
    GIVEN_UP,
    (sound) => ({
      write: async (node, file, buffer: GuestBuffer, offset, flags, context) => {
        await nextTurn();
        if (!context.signal.aborted) return sound.write!(node, file, buffer, offset, flags, context);
        const kept = hostBuffer(buffer.length);
        buffer.get(0, kept.bytes);
        setImmediate(() => void sound.write!(node, file, kept, offset, flags, context));
        throw FsError.of('EINTR');
      },
    }),
  ],
  [
    'has written what it answers that it gave up',
    GIVEN_UP,
    (sound) => ({
      write: async (node, file, buffer: GuestBuffer, offset, flags, context) => {
        await nextTurn();
        const written = await sound.write!(node, file, buffer, offset, flags, context);
        context.signal.throwIfAborted();
        return written;
      },
    }),
  ],
  [
    'never answers what is given up',
    GIVEN_UP,
    (sound) => ({
      read: async (node, file, buffer, offset, context) => {
        await nextTurn();
        return context.signal.aborted
          ? new Promise(() => undefined)
          : sound.read!(node, file, buffer, offset, context);
      },
    }),
    200,
  ],
  [
    'answers what is given up with an error of its own',
    GIVEN_UP,
    (sound) => ({
      lookup: async (parent, name, context) => {
        await nextTurn();
        if (context.signal.aborted) throw FsError.of('ECANCELED');
        return sound.lookup(parent, name, context);
      },
    }),
  ],
  [
    'reads nothing where it is told to give up',
    GIVEN_UP,
    (sound) => ({
      read: async (node, file, buffer, offset, context) => {
        await nextTurn();
        return context.signal.aborted ? 0 : sound.read!(node, file, buffer, offset, context);
      },
    }),
  ],
  [
    'gives a renamed file another node',
    /^a renamed file keeps its node/,
    (sound) => ({
      rename: async (parent, name, newParent, newName, _flags, context) => {
        await sound.unlink!(parent, name, context);
        await sound.mknod!(newParent, newName, FileType.REGULAR | 0o644, 0, context);
      },
    }),
  ],
  [
    'ignores TRUNC when it opens',
    /^opening to truncate/,
    (sound) => ({
      open: (node, flags, context) => sound.open!(node, flags & ~OpenFlags.TRUNC, context),
    }),
  ],
  [
    'gives every file the same mode',
    /^a created file is empty, regular/,
    (sound) => ({
      create: (parent, name, _mode, flags, context) =>
        sound.create!(parent, name, FileType.REGULAR | 0o666, flags, context),
    }),
  ],
  [
    'tidies targets of symbolic links up',
    /^a symbolic link keeps its target/,
    (sound) => ({
      symlink: (parent, name, target, context) =>
        sound.symlink!(parent, name, target.replaceAll(/\/+$|^\.\//g, ''), context),
    }),
  ],
  [
    'makes regular files of all that it is asked to make',
    /^sockets, FIFOs and devices/,
    (sound) => ({
      mknod: (parent, name, mode, rdev, context) =>
        sound.mknod!(parent, name, FileType.REGULAR | (mode & 0o7777), rdev, context),
    }),
  ],
  [
    'has more space free than it has',
    /^figures of the file system/,
    (sound) => ({
      statfs: async (node, context) => {
        const figures = await sound.statfs!(node, context);
        return { ...figures, blocksFree: (figures.blocks ?? 0) * 2 };
      },
    }),
  ],
  [
    'copies ranges from the beginning',
    /^a range is copied/,
    (sound) => ({
      copyFileRange: (node, file, _offset, toNode, toFile, toOffset, length, context) =>
        sound.copyFileRange!(node, file, 0, toNode, toFile, toOffset, length, context),
    }),
  ],
  [
    'copies ranges onto themselves',
    /^a range is not copied/,
    (sound) => ({
      copyFileRange: (node, file, offset, toNode, toFile, toOffset, length, context) =>
        node === toNode && Math.abs(offset - toOffset) < length
          ? length
          : sound.copyFileRange!(node, file, offset, toNode, toFile, toOffset, length, context),
    }),
  ],
  [
    'punches no holes',
    /^space is set aside/,
    (sound) => ({
      fallocate: (node, file, mode, offset, length, context) =>
        mode === 0 ? sound.fallocate!(node, file, mode, offset, length, context) : undefined,
    }),
  ],
  [
    'finds data beyond the end',
    /^data and holes are found/,
    () => ({ lseek: (_node, _file, offset) => offset }),
  ],
  [
    'removes files by rmdir',
    /^unlink takes no directory/,
    (sound) => ({
      rmdir: async (parent, name, context) => {
        const entry = await sound.lookup(parent, name, context);
        const isFile = entry !== undefined && (entry.attributes.mode & FileType.MASK) === FileType.REGULAR;
        await (isFile ? sound.unlink!(parent, name, context) : sound.rmdir!(parent, name, context));
      },
    }),
  ],
  [
    'changes no owner',
    /^mode, owner and group change/,
    (sound) => ({
      setattr: (node, { uid: _uid, gid: _gid, ...changes }, file, context) =>
        sound.setattr!(node, changes, file, context),
    }),
  ],
  ['finds data at a negative offset', /^data and holes are found in order/, () => ({ lseek: () => -1 })],
  [
    'finds every name',
    /^a name that is not there is not found/,
    (sound) => ({
      lookup: async (parent, name, context) =>
        (await sound.lookup(parent, name, context)) ??
        sound.mknod!(parent, name, FileType.REGULAR, 0, context),
    }),
  ],
  [
    'gives nobody a lock',
    /^a lock is got/,
    () => ({
      lock: () => {
        throw FsError.of('EAGAIN');
      },
    }),
  ],
  [
    'keeps what a lock was given for',
    /^a file that loses its name while it is locked/,
    () => ({
      lock: (_node, hold) => {
        if (hold === LockHold.NONE) throw FsError.of('EIO');
      },
    }),
  ],
  [
    'never answers',
    /^content is the same after fsync/,
    () => ({ fsync: () => new Promise(() => undefined) }),
    200,
  ],
];

describe('the contract suite names the rule that is broken by a backend that', () => {
  for (const [mistake, rule, faults, timeoutMs = PATIENCE_MS] of mistakes) {
    it(mistake, async () => {
      const rules = cases.filter(({ name }) => rule.test(name));
      assert.equal(rules.length, 1, `${rule} is one rule`);
      const options = { log: keepingLog(), only: (name: string) => rule.test(name) };
      const sound = await checkBackend({
        ...options,
        timeoutMs: PATIENCE_MS,
        create: () => backendWith(() => ({})),
      });
      assert.deepEqual([sound.passed, sound.failed], [1, 0]);
      const { results } = await checkBackend({
        ...options,
        timeoutMs,
        create: () => backendWith(faults),
      });
      assert.equal(results[0]!.outcome, 'failed');
      assert.match(results[0]!.reason!, /expected .+, got .+|: E[A-Z]+$/);
    });
  }
});

it('a backend that answers EINTR to what is given up, and does nothing of it, keeps the contract', async () => {
  let givenUp = 0;
  const turn = async ({ signal }: Context): Promise<void> => {
    await nextTurn();
    if (signal.aborted) givenUp += 1;
    signal.throwIfAborted();
  };
  const { passed } = await checkBackend({
    log: keepingLog(),
    only: (name) => GIVEN_UP.test(name),
    create: () =>
      backendWith((sound) => ({
        lookup: async (parent, name, context) => {
          await turn(context);
          return sound.lookup(parent, name, context);
        },
        read: async (node, file, buffer, offset, context) => {
          await turn(context);
          return sound.read!(node, file, buffer, offset, context);
        },
        write: async (node, file, buffer, offset, flags, context) => {
          await turn(context);
          return sound.write!(node, file, buffer, offset, flags, context);
        },
      })),
  });
  assert.deepEqual([passed, givenUp], [1, 3]);
});

it('where rules share a directory, what they have made is removed, and nothing that others make there', async () => {
  const backend: TinyBackend = Object.assign(new TinyBackend(), { mkdir: undefined });
  const make = (name: string): unknown =>
    backend.root.children.set(name, new TinyNode(FileType.REGULAR | 0o644));
  make('before');
  const { results, failed, passed } = await checkBackend({
    create: () => backend,
    log: keepingLog(),
    only: (name) =>
      /^(a write beyond the end leaves zeros|a hard link|content is the same|a rename)/.test(name),
    onResult: ({ name }) => make(`after ${name}`),
  });
  assert.equal(failed, 0);
  assert.ok(passed >= 2);
  const others = ['before', ...results.map(({ name }) => `after ${name}`)];
  assert.deepEqual([...backend.root.children.keys()].toSorted(), others.toSorted());
});
