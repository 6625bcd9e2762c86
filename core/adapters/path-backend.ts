import type {
  AttributeChanges,
  Attributes,
  Awaitable,
  Backend,
  Context,
  Entry,
  GuestBuffer,
  Time,
} from '../backend/index.js';
import { creationMode, FileType, FsError, ModeBits, OpenFlags, wait } from '../backend/index.js';
import { Turns } from '../wrappers/turns.js';
import {
  type PathAttributes,
  type PathFile,
  type PathFileSystem,
  unlessMissing,
} from './path-file-system.js';
import { isUtf8, type PathNode, PathNodes } from './path-nodes.js';

/** An open file of a {@link pathBackend}. */
export type OpenPath = PathFile;

const CREATION = OpenFlags.CREAT | OpenFlags.EXCL;
/** Flags that mean something here; others are the guest's own affair. */
const KNOWN_FLAGS =
  OpenFlags.ACCESS_MODE | OpenFlags.APPEND | OpenFlags.TRUNC | OpenFlags.SYNC | OpenFlags.DSYNC | CREATION;

/**
 * A backend over a file system that knows files by their paths. It can do what that has methods
 * for. Where files have an `identity` hard links are one file, and what others put in the place of
 * a file is told from it. What is made belongs to the guest's user where the file system can
 * `chown` and does not refuse (EPERM). A removed file lives on while it is open, if an open file of
 * the file system does. Names that are not UTF-8 are EILSEQ, flags of renameat2(2) EINVAL.
 */
export function pathBackend(fs: PathFileSystem): Backend<PathNode, OpenPath> {
  const nodes = new PathNodes();
  const turns = new Turns();
  /** Paths stay what they are while `work` goes on. */
  const withPaths = <T>(work: () => Promise<T>): Awaitable<T> => turns.beside(() => wait(work()));
  /** Nobody uses a path while `work` changes what they stand for. */
  const changingNames = <T>(work: () => Promise<T>): Awaitable<T> => turns.run(() => wait(work()));

  /** Makes a name and the node of it. There must be no wait behind this one. */
  const enter = (parent: PathNode, name: string, attributes: PathAttributes): Entry<PathNode> => ({
    node: nodes.found(parent, name, attributes),
    attributes,
  });

  async function attributesOf(node: PathNode): Promise<PathAttributes> {
    // The path of a removed file may stand for another one.
    const [open] = node.files;
    if (node !== nodes.root && node.places.length === 0 && open?.stat !== undefined) return open.stat();
    const attributes = await fs.stat(nodes.pathOf(node));
    if (node !== nodes.root && attributes.identity !== node.identity) throw FsError.of('ESTALE');
    return attributes;
  }

  /** Gives what was made the mode and owner that it is to have. */
  async function settle(
    parent: PathNode,
    path: string,
    mode: number,
    context: Context,
  ): Promise<PathAttributes> {
    const [directory, made] = await Promise.all([fs.stat(nodes.pathOf(parent)), fs.stat(path)]);
    const inherits = (directory.mode & ModeBits.SETGID) !== 0;
    const type = made.mode & FileType.MASK;
    const asked = type === FileType.DIRECTORY && inherits ? mode | ModeBits.SETGID : mode;
    const bits = creationMode(type | asked, { mode: directory.mode, gid: directory.gid ?? 0 }, context);
    const gid = inherits ? (directory.gid ?? 0) : context.gid;
    let isChanged = false;
    if (fs.chown !== undefined && ((made.uid ?? 0) !== context.uid || (made.gid ?? 0) !== gid)) {
      isChanged = await fs.chown(path, context.uid, gid).then(
        () => true,
        (error: unknown) => {
          if (error === FsError.of('EPERM')) return false;
          throw error;
        },
      );
    }
    // chown(2) takes set-id bits away.
    if (fs.chmod !== undefined && type !== FileType.SYMLINK && (isChanged || made.mode !== bits)) {
      await fs.chmod(path, bits & ModeBits.PERMISSIONS);
      isChanged = true;
    }
    return isChanged ? fs.stat(path) : made;
  }

  /** A method that makes a name by `make`. */
  function making(
    parent: PathNode,
    name: string,
    mode: number,
    context: Context,
    make: (path: string) => Promise<void>,
  ): Awaitable<Entry<PathNode>> {
    return changingNames(async () => {
      const path = nodes.pathIn(parent, name);
      await make(path);
      const attributes = await settle(parent, path, mode, context);
      return { node: nodes.made(parent, name, attributes), attributes };
    });
  }

  async function openAt(path: string, flags: number, mode: number): Promise<PathFile> {
    return fs.open!(path, flags & KNOWN_FLAGS, mode);
  }

  async function change(
    node: PathNode,
    changes: AttributeChanges,
    file: PathFile | undefined,
  ): Promise<void> {
    const { mode, uid, gid, size, atime, mtime } = changes;
    const open = file ?? [...node.files].find(({ truncate }) => truncate !== undefined);
    const isRemoved = node !== nodes.root && node.places.length === 0;
    // The file system may follow a link, out of the root.
    if (size !== undefined && node.type !== FileType.REGULAR)
      throw FsError.of(node.type === FileType.DIRECTORY ? 'EISDIR' : 'EINVAL');
    if (mode !== undefined && node.type === FileType.SYMLINK) throw FsError.of('EOPNOTSUPP');
    if (size !== undefined) {
      if (open?.truncate !== undefined && (isRemoved || file !== undefined)) await open.truncate(size);
      else await (fs.truncate?.(nodes.pathOf(node), size) ?? refused());
    }
    if (uid !== undefined || gid !== undefined) {
      const old = await attributesOf(node);
      await (fs.chown?.(nodes.pathOf(node), uid ?? old.uid ?? 0, gid ?? old.gid ?? 0) ?? refused());
    }
    if (mode !== undefined) await (fs.chmod?.(nodes.pathOf(node), mode & ModeBits.PERMISSIONS) ?? refused());
    if (atime !== undefined || mtime !== undefined) {
      const old = await attributesOf(node);
      const accessed = secondsOf(atime, old.atime, old.atimeNsec);
      const modified = secondsOf(mtime, old.mtime, old.mtimeNsec);
      await (fs.utimes?.(nodes.pathOf(node), accessed, modified) ?? refused());
    }
  }

  const canChange = fs.chmod ?? fs.chown ?? fs.utimes ?? fs.truncate;
  return {
    mount: () => nodes.root,
    forget: (node) => nodes.forget(node),
    lookup: (parent, name) =>
      withPaths(async () => {
        if (!isUtf8(name)) return undefined;
        const attributes = await unlessMissing(fs.stat(nodes.pathIn(parent, name)));
        if (attributes !== undefined) return enter(parent, name, attributes);
        nodes.removed(parent, name);
        return undefined;
      }),
    getattr: (node, file): Awaitable<Attributes> =>
      file?.stat === undefined ? withPaths(() => attributesOf(node)) : file.stat(),
    ...(canChange && {
      setattr: (node, changes, file) =>
        withPaths(async () => {
          await change(node, changes, file);
          return file?.stat === undefined ? attributesOf(node) : file.stat();
        }),
    }),
    ...(fs.list && { readdir: (node) => withPaths(() => fs.list!(nodes.pathOfDirectory(node))) }),
    ...(fs.readlink && { readlink: (node) => withPaths(() => fs.readlink!(nodes.pathOf(node))) }),
    ...(fs.open && {
      open: (node, flags) =>
        withPaths(async () => {
          refuseToOpen(node.type);
          const file = await openAt(nodes.pathOf(node), flags & ~CREATION, 0);
          try {
            if (node.identity !== undefined && file.stat !== undefined && !node.is(await file.stat()))
              throw FsError.of('ESTALE');
          } catch (error) {
            await closeQuietly(file);
            throw error;
          }
          node.files.add(file);
          return { file };
        }),
      release: async (node, file) => {
        node.files.delete(file);
        await file.close();
      },
      flush: async (_node, file) => file.flush?.(),
      read: (_node, file, buffer, offset) => read(file, buffer, offset),
    }),
    ...(fs.open &&
      fs.unlink && {
        create: (parent, name, mode, flags, context) =>
          changingNames(async () => {
            const path = nodes.pathIn(parent, name);
            const there = await unlessMissing(fs.stat(path));
            if (there !== undefined && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
            if (there !== undefined) refuseToOpen(there.mode & FileType.MASK);
            // A file system may make a file anew where it is there.
            const file = await (there === undefined
              ? openAt(path, flags | OpenFlags.CREAT, mode)
              : openAt(path, flags & ~CREATION, 0));
            try {
              const attributes = there ? await fs.stat(path) : await settle(parent, path, mode, context);
              const node = nodes[there ? 'found' : 'made'](parent, name, attributes);
              node.files.add(file);
              return { node, attributes, file };
            } catch (error) {
              await closeQuietly(file);
              throw error;
            }
          }),
        write: (_node, file, buffer, offset) => write(file, buffer, offset),
        fsync: async (_node, file, dataOnly) => file.sync?.(dataOnly),
      }),
    ...(fs.mknod && {
      mknod: (parent, name, mode, rdev, context) =>
        making(parent, name, mode & ~FileType.MASK, context, (path) => fs.mknod!(path, mode, rdev)),
    }),
    ...(fs.mkdir && {
      mkdir: (parent, name, mode, context) =>
        making(parent, name, mode, context, (path) => fs.mkdir!(path, mode)),
    }),
    ...(fs.symlink && {
      symlink: (parent, name, target, context) =>
        making(parent, name, 0o777, context, (path) => fs.symlink!(target, path)),
    }),
    ...(fs.link && {
      link: (node, parent, name) =>
        changingNames(async () => {
          const path = nodes.pathIn(parent, name);
          await fs.link!(nodes.pathOf(node), path);
          return enter(parent, name, await fs.stat(path));
        }),
    }),
    ...(fs.unlink && { unlink: (parent, name) => remove(parent, name, fs.unlink!) }),
    ...(fs.rmdir && { rmdir: (parent, name) => remove(parent, name, fs.rmdir!) }),
    ...(fs.rename && {
      rename: (parent, name, newParent, newName, flags) =>
        changingNames(async () => {
          if (flags !== 0) throw FsError.of('EINVAL');
          // rename(2) leaves both names.
          if (nodes.areOne(parent, name, newParent, newName)) return;
          await fs.rename!(nodes.pathIn(parent, name), nodes.pathIn(newParent, newName));
          nodes.renamed(parent, name, newParent, newName);
        }),
    }),
    ...(fs.statfs && {
      statfs: (node) =>
        withPaths(() => fs.statfs!(node.type === FileType.SYMLINK ? '/' : nodes.pathOf(node))),
    }),
    ...(fs.getxattr && {
      getxattr: (node, name) => withPaths(() => fs.getxattr!(nodes.pathOf(node), name)),
    }),
    ...(fs.listxattr && { listxattr: (node) => withPaths(() => fs.listxattr!(nodes.pathOf(node))) }),
    ...(fs.setxattr && {
      setxattr: (node, name, value, flags) =>
        withPaths(() => fs.setxattr!(nodes.pathOf(node), name, value, flags)),
    }),
    ...(fs.removexattr && {
      removexattr: (node, name) => withPaths(() => fs.removexattr!(nodes.pathOf(node), name)),
    }),
  };

  function remove(parent: PathNode, name: string, by: (path: string) => Promise<void>): Awaitable<void> {
    return changingNames(async () => {
      await by.call(fs, nodes.pathIn(parent, name));
      nodes.removed(parent, name);
    });
  }
}

/** Seconds of a time to set; else those of the old one. */
function secondsOf(time: Time | 'now' | undefined, seconds = 0, nanoseconds = 0): number {
  if (time === 'now') return Date.now() / 1000;
  return time === undefined ? seconds + nanoseconds / 1e9 : time.seconds + time.nanoseconds / 1e9;
}

/** A link would be followed, a FIFO waited for, a device of the host used. */
function refuseToOpen(type: number): void {
  if (type === FileType.SYMLINK) throw FsError.of('ELOOP');
  if (type === FileType.DIRECTORY) throw FsError.of('EISDIR');
  if (type !== FileType.REGULAR) throw FsError.of('ENXIO');
}

/** Closes what is not used, since something else has failed: that is what is told. */
async function closeQuietly(file: PathFile): Promise<void> {
  await file.close().catch(() => undefined);
}

/** The file system cannot do it. */
function refused(): Promise<never> {
  return Promise.reject(FsError.of('EPERM'));
}

async function read(file: PathFile, buffer: GuestBuffer, offset: number): Promise<number> {
  if (file.read === undefined) throw FsError.of('EBADF');
  const bytes = Buffer.allocUnsafe(buffer.length);
  const count = await file.read(bytes, offset);
  buffer.put(0, bytes, 0, count);
  return count;
}

async function write(file: PathFile, buffer: GuestBuffer, offset: number): Promise<number> {
  if (file.write === undefined) throw FsError.of('EBADF');
  const bytes = Buffer.allocUnsafe(buffer.length);
  buffer.get(0, bytes);
  return file.write(bytes, offset);
}
