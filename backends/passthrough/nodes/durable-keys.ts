import type { Fd } from '../../../core/system/index.js';
import { decodeName, FsError, type NodeKey } from '../../../core/backend/index.js';
import { AT, close, O, openat, openat2, readlinkat } from '../../../core/system/calls/files.js';
import type { Mount } from './mounts.js';
import { inoText, type Node } from './nodes.js';
import { at, bytes, offset, putDescriptorPath, putLong, putTarget, words } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { takeHandle } from './node-finder.js';
import { statBirth, statDescriptor, statInoHigh, statInoLow, statMode, statMount } from '../calls/stat.js';

/**
 * A node's durable key consists of 32-bit words: file system id (2), mount tag, kind, and then
 * either the file handle, or the inode number (2) and birth time (4) where there are no handles.
 * The root's key is only its kind, because the operator names the root.
 */
const ROOT = 0xffffffff;
const BY_INODE = 0xfffffffe;
const HEADER_WORDS = 4;
/** Length of the longest key in bytes. */
const KEY_MAX_BYTES = (HEADER_WORDS + 32) * 4;

/** openat2(2): RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS. */
const RESOLVE_STRICT = 0x08 | 0x04 | 0x02;

/** Durable keys of nodes, and how files are found by them after a restart. */
export function identityOperations(share: Share) {
  const { nodes, mounts } = share;
  /**
   * Paths at which the previous daemon saw files, by key. A file handle opens any file of its file
   * system, so it does not prove that the file lies in the share; a path does.
   */
  const remembered = new Map<string, string>();

  /**
   * Written byte by byte on purpose: small arrays then stay on V8's own heap, which is cheap. Every
   * new node's key is asked for.
   */
  function key(node: Node): Uint8Array {
    if (node === share.root) return bytesOf([0, 0, 0, ROOT]);
    const { fsid, fsidHigh, tag } = share.mountOf(node);
    if (!nodes.hasHandle(node)) {
      if (statDescriptor(share.descriptor(node)) < 0) throw FsError.of('ESTALE');
      return bytesOf([fsid, fsidHigh, tag, BY_INODE, statInoLow(), statInoHigh(), ...statBirth()]);
    }
    nodes.putHandle(node);
    const handle = offset.handle >>> 2;
    const count = words[handle]! >>> 2;
    const result = new Uint8Array((HEADER_WORDS + count) * 4);
    putWord(result, 0, fsid);
    putWord(result, 1, fsidHigh);
    putWord(result, 2, tag);
    putWord(result, 3, words[handle + 1]!);
    for (let i = 0; i < count; i++) putWord(result, HEADER_WORDS + i, words[handle + 2 + i]!);
    return result;
  }

  /**
   * Writes a key's handle into call memory. @returns the mount that the key names, if it is known
   * and has handles.
   */
  function take(given: Uint8Array): Mount | undefined {
    const read = new Uint32Array(given.slice().buffer);
    if (read.length <= HEADER_WORDS || read[3]! > 255) return undefined;
    words[offset.handle >>> 2] = (read.length - HEADER_WORDS) * 4;
    words[(offset.handle >>> 2) + 1] = read[3]!;
    words.set(read.subarray(HEADER_WORDS), (offset.handle >>> 2) + 2);
    return mounts.all.find(
      ({ fd, fsid, fsidHigh, tag }) => fd >= 0 && fsid === read[0] && fsidHigh === read[1] && tag === read[2],
    );
  }

  /**
   * The node, known or new, of an open file that lies in the share. Takes over the descriptor.
   * @param itsMount the mount, where the descriptor comes from another mount namespace.
   * @returns undefined if the file lies on no mount that is known.
   */
  function enterFile(fd: Fd, itsMount?: Mount): Node | undefined {
    const mount = statDescriptor(fd) < 0 ? undefined : (itsMount ?? mounts.find(statMount()));
    if (mount === undefined) {
      close(fd);
      return undefined;
    }
    const byHandle = mount.fd >= 0 && takeHandle(fd, at.empty, AT.EMPTY_PATH) >= 0;
    const known = byHandle
      ? nodes.findByHandle(mount.index)
      : nodes.findByStat(mount.index, statInoLow(), statInoHigh());
    const description = [mount.index, statMode(), statInoLow(), statInoHigh()] as const;
    if (byHandle || known !== undefined) close(fd);
    return (
      known ?? (byHandle ? nodes.addByHandle(...description) : nodes.addByDescriptor(...description, fd))
    );
  }

  /**
   * The node at a path below the share.
   * @param given the key that it must have. Default: any.
   */
  function resolveAt(path: string, given?: Uint8Array): Node | undefined {
    const fd = openBeneath(share.descriptor(share.root), path);
    if (fd < 0) return undefined;
    return given === undefined ? enterFile(fd) : enter(fd, given);
  }

  /** The node of a directory of the share, if it is known. */
  function directoryAt(path: string): Node | undefined {
    if (path === '') return share.root;
    const fd = openBeneath(share.descriptor(share.root), path);
    if (fd < 0) return undefined;
    const mount = statDescriptor(fd) < 0 ? undefined : mounts.find(statMount());
    let node: Node | undefined;
    if (mount !== undefined && mount.fd < 0)
      node = nodes.findByStat(mount.index, statInoLow(), statInoHigh());
    else if (mount !== undefined && takeHandle(fd, at.empty, AT.EMPTY_PATH) >= 0)
      node = nodes.findByHandle(mount.index);
    close(fd);
    return node;
  }

  /**
   * A key that another daemon gave, on the file system that is mounted here at the same place of
   * the share. The same file system may have another id on another host.
   */
  function translate(given: Uint8Array): Uint8Array {
    const copy = new Uint8Array(given);
    const read = new Uint32Array(copy.buffer);
    const place = mounts.all.filter(({ tag, id }) => tag === read[2] && id >= 0);
    const mount = place.find(({ fsid, fsidHigh }) => fsid === read[0] && fsidHigh === read[1]) ?? place[0];
    if (mount !== undefined) read.set([mount.fsid, mount.fsidHigh]);
    return copy;
  }

  /** {@link enterFile} if the node's key equals `given`. */
  function enter(fd: Fd, given: Uint8Array, itsMount?: Mount): Node | undefined {
    const { size } = nodes;
    const node = enterFile(fd, itsMount);
    if (node === undefined || Buffer.compare(key(node), given) === 0) return node;
    if (nodes.size > size) nodes.forget(node);
    return undefined;
  }

  /** Finds a file by the path that the previous daemon saved. */
  function resolvePath(given: Uint8Array): Node | undefined {
    const path = remembered.get(textOf(given));
    return path === undefined ? undefined : resolveAt(path, given);
  }

  /**
   * Finds a file by its handle. The handle opens any file of the file system, so the file is
   * accepted only if it lies below the shared directory.
   */
  function resolveHandle(given: Uint8Array): Node | undefined {
    share.finder.discoverMounts();
    const mount = take(given);
    if (mount === undefined) return undefined;
    const known = nodes.findByHandle(mount.index);
    if (known !== undefined) return known;
    const fd = share.finder.openHandle(mount);
    if (fd < 0) return undefined;
    if (isBeneath(share, fd)) return enter(fd, given);
    close(fd);
    return undefined;
  }

  /** Finds a file by its handle, wherever it lies: the key is one that this daemon gave a guest. */
  function recover(given: NodeKey): Node {
    if (!(given instanceof Uint8Array) || given.length < HEADER_WORDS * 4) throw FsError.of('ESTALE');
    let mount = take(given);
    if (mount === undefined) {
      share.finder.discoverMounts();
      mount = take(given);
    }
    if (mount === undefined) throw FsError.of('ESTALE');
    const known = nodes.findByHandle(mount.index);
    if (known !== undefined) return known;
    const fd = share.finder.openHandle(mount);
    const node = fd < 0 ? undefined : enter(fd, given);
    if (node === undefined) throw FsError.of('ESTALE');
    return node;
  }

  /** A known node without a handle that has this key. */
  function findKnown(given: Uint8Array): Node | undefined {
    for (const node of nodes) {
      if (!nodes.hasHandle(node) && Buffer.compare(key(node), given) === 0) return node;
    }
    return undefined;
  }

  function resolve(given: NodeKey): Node {
    if (!isKey(given)) throw FsError.of('ESTALE');
    const kind = given.length < HEADER_WORDS * 4 ? 0 : new Uint32Array(given.slice().buffer)[3];
    if (isRootKey(given)) return share.root;
    const node = resolvePath(given) ?? (kind === BY_INODE ? findKnown(given) : resolveHandle(given));
    if (node === undefined) throw FsError.of('ESTALE');
    return node;
  }

  /**
   * The node with a key, if an open descriptor, which stays the caller's, is of its file. A
   * confined predecessor had a mount namespace of its own: its descriptors are of other mounts.
   */
  function adoptNode(given: NodeKey, fd: number): Node {
    if (!(given instanceof Uint8Array) || given.length < HEADER_WORDS * 4) throw FsError.of('ESTALE');
    const read = new Uint32Array(given.slice(0, HEADER_WORDS * 4).buffer);
    const mount = mounts.all.find(
      ({ fsid, fsidHigh, tag }) => fsid === read[0] && fsidHigh === read[1] && tag === read[2],
    );
    const path = openat(AT.FDCWD, putDescriptorPath(fd as Fd), O.PATH | O.CLOEXEC, 0);
    if (path < 0) throw FsError.of('ESTALE');
    const node = mount === undefined ? undefined : enter(path, given, mount);
    if (mount === undefined) close(path);
    if (node === undefined) throw FsError.of('ESTALE');
    return node;
  }

  return {
    key,
    resolve,
    recover,
    adoptNode,
    /** For `traceOperations`. */
    places: { key, pathOf: (name: Uint8Array) => remembered.get(textOf(name)), directoryAt, enter },
    /** For `migrationOperations`. */
    finding: { key, resolveAt, resolveHandle, translate, enterFile },

    /** @throws FsError ENOENT if the directory does not lie in the share any more. */
    parent(node: Node): Node {
      const fd = openat(share.descriptor(node), putTarget('..'), O.PATH | O.DIRECTORY, 0);
      if (fd < 0) throw FsError.of(-fd);
      if (isRoot(share, fd)) {
        close(fd);
        return share.root;
      }
      if (!isBeneath(share, fd)) {
        close(fd);
        throw FsError.of('ENOENT');
      }
      const found = enterFile(fd);
      if (found === undefined) throw FsError.of('ENOENT');
      return found;
    },

    /**
     * Saves the keys and paths of all known files: for each, two 16-bit lengths, the key, the path.
     */
    save(): Uint8Array {
      const parts: Buffer[] = [];
      for (const node of nodes) {
        if (node === share.root) continue;
        const path = pathOf(share, nodes.descriptor(node));
        if (path === undefined) continue;
        const name = Buffer.from(key(node));
        const lengths = Buffer.alloc(4);
        lengths.writeUInt16LE(name.length, 0);
        lengths.writeUInt16LE(path.length, 2);
        parts.push(lengths, name, Buffer.from(path));
      }
      return Buffer.concat(parts);
    },

    restore(state: Uint8Array): void {
      const view = Buffer.from(state);
      for (let from = 0; from + 4 <= view.length;) {
        const middle = from + 4 + view.readUInt16LE(from);
        const end = middle + view.readUInt16LE(from + 2);
        if (end > view.length) throw FsError.of('EINVAL');
        remembered.set(view.toString('latin1', from + 4, middle), decodeName(view, middle, end));
        from = end;
      }
    },
  };
}

/** A key as text, for a map. */
export function textOf(key: Uint8Array): string {
  return Buffer.from(key).toString('latin1');
}

/** Whether it may be a key of this backend. */
export function isKey(given: NodeKey): given is Uint8Array {
  return given instanceof Uint8Array && given.length % 4 === 0 && given.length <= KEY_MAX_BYTES;
}

/** The inode number, as text, in the key of a file without a handle; undefined in other keys. */
export function inoOf(given: Uint8Array): string | undefined {
  if (given.length <= HEADER_WORDS * 4) return undefined;
  const read = new Uint32Array(given.slice(0, (HEADER_WORDS + 2) * 4).buffer);
  return read[3] === BY_INODE ? inoText(read[4]!, read[5]!) : undefined;
}

/** Whether a key is the root's. */
export function isRootKey(given: Uint8Array): boolean {
  return given.length === HEADER_WORDS * 4 && new Uint32Array(given.slice().buffer)[3] === ROOT;
}

function putWord(target: Uint8Array, index: number, value: number): void {
  target[index * 4] = value;
  target[index * 4 + 1] = value >>> 8;
  target[index * 4 + 2] = value >>> 16;
  target[index * 4 + 3] = value >>> 24;
}

function bytesOf(parts: readonly number[]): Uint8Array {
  const result = new Uint8Array(parts.length * 4);
  parts.forEach((part, index) => putWord(result, index, part));
  return result;
}

/**
 * Opens a path below a directory. Symbolic links and ways out are refused.
 * @returns an O_PATH descriptor or minus the errno.
 */
export function openBeneath(fd: Fd, path: string): Fd {
  putLong(offset.how, O.PATH | O.NOFOLLOW | O.CLOEXEC);
  putLong(offset.how + 8, 0);
  putLong(offset.how + 16, RESOLVE_STRICT);
  return openat2(fd, putTarget(path), at.how);
}

/** Reads the current path of an open file from /proc. */
function locate(fd: Fd): Uint8Array | undefined {
  const size = readlinkat(AT.FDCWD, putDescriptorPath(fd), at.target, 4095);
  return size <= 0 || size === 4095 ? undefined : bytes.slice(offset.target, offset.target + size);
}

/**
 * Path of an open file relative to the share; undefined if it does not lie below the share or its
 * path is unknown.
 */
export function pathOf(share: Share, fd: Fd): Uint8Array | undefined {
  if (fd < 0) return undefined;
  const root = locate(share.descriptor(share.root));
  const path = locate(fd);
  if (root === undefined || path === undefined) return undefined;
  const start = root.length === 1 ? 1 : root.length + 1;
  if (path.length <= start || path[start - 1] !== 0x2f) return undefined;
  return root.length === 1 || Buffer.compare(path.subarray(0, root.length), root) === 0
    ? path.subarray(start)
    : undefined;
}

/** Whether a descriptor is the shared directory's. */
function isRoot(share: Share, fd: Fd): boolean {
  const { nodes, root, mounts } = share;
  return (
    statDescriptor(fd) === 0 &&
    nodes.hasIno(root, statInoLow(), statInoHigh()) &&
    mounts.find(statMount()) === share.mountOf(root)
  );
}

/**
 * Whether an open file lies below the shared directory. The path that /proc shows is trusted only
 * if it leads to the same file again: for a removed file, or one whose directory the kernel does
 * not have in memory, it may be another file's.
 */
function isBeneath(share: Share, fd: Fd): boolean {
  const path = pathOf(share, fd);
  return path !== undefined && leadsTo(share, decodeName(path), fd);
}

/** Whether a path below the share leads to an open file. */
export function leadsTo(share: Share, path: string, fd: Fd): boolean {
  const again = openBeneath(share.descriptor(share.root), path);
  if (again < 0) return false;
  try {
    if (statDescriptor(fd) < 0) return false;
    const low = statInoLow();
    const high = statInoHigh();
    const mount = statMount();
    return (
      statDescriptor(again) === 0 && statInoLow() === low && statInoHigh() === high && statMount() === mount
    );
  } finally {
    close(again);
  }
}
