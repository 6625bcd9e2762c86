import type { Fd } from '../../../core/system/index.js';
import { Errno, FsError, type Logger } from '../../../core/backend/index.js';
import { AT, O, RWF, close, fstatfs, openat } from '../../../core/system/calls/files.js';
import { nameToHandleAt, openByHandleAt } from '../../../core/system/calls/file-handles.js';
import { at, offset, putDescriptorPath, signedWords, words } from '../calls/call-memory.js';

/** Most mounts that one share may reach: a node's description has 12 bits for the index. */
const MAX_MOUNTS = 4096;

/** `statfs.f_type` of file systems without storage (Linux `include/uapi/linux/magic.h`). */
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

/**
 * `statfs.f_type` of file systems whose handles lead to files only while the kernel has them in its
 * cache: FUSE without FUSE_EXPORT_SUPPORT (`fs/fuse/inode.c`, `fuse_get_dentry`), which cannot be
 * told from one with it; FAT and exFAT (`fat_nfs_get_inode`, `exfat_export_get_inode`).
 */
const CACHED_HANDLES_ONLY: ReadonlySet<number> = new Set([0x65735546, 0x4d44, 0x2011bab0]);

/**
 * A mounted file system that the share reaches: the one with the shared directory, or one mounted
 * below it.
 */
export interface Mount {
  /** Index in {@link Mounts.all}; 0 is the mount of the shared directory. */
  readonly index: number;
  /** The id as `statMount` gives it; -1 after {@link Mounts} has let go of the mount. */
  id: number;
  /**
   * A descriptor on the mount, by which its file handles are opened. While it is open nobody can
   * unmount the file system. -1 if handles cannot be used: the file system has none, the daemon
   * lacks CAP_DAC_READ_SEARCH, or the operator does not want them.
   */
  fd: Fd;
  /**
   * Number of known nodes on the mount, plus calls on other threads that use `fd`: see {@link
   * Mounts.use}.
   */
  uses: number;
  /**
   * Identity of the file system (`statfs.f_fsid`). It is durable where the file system has a UUID.
   */
  readonly fsid: number;
  readonly fsidHigh: number;
  /**
   * `preadv2` flags that make a read of a regular file fail rather than wait for the disk; 0 if the
   * file system does not support them.
   */
  nowait: number;
  /**
   * Whether regular files and directories live in memory alone, so that fsync(2) has nothing to
   * wait for (`noop_fsync` in Linux `mm/shmem.c` and `fs/ramfs`).
   */
  readonly inMemory: boolean;
  /**
   * Tells several mounts of one file system apart: a hash of the path below the share, 0 for the
   * share's own mount.
   */
  readonly tag: number;
}

/**
 * The mounts that a share reaches. When guests know no file on a mount any more, its descriptor is
 * closed so that the host may unmount it; it is registered again when a guest returns. The share's
 * own mount stays.
 */
export class Mounts {
  readonly all: Mount[] = [];
  readonly #byId = new Map<number, Mount>();
  /** Free indexes of {@link all}. */
  readonly #vacant: number[] = [];
  #sweeps = false;
  /** Paths of mounts that were warned about by {@link #warnNoHandles}; at most MAX_MOUNTS. */
  readonly #warned = new Set<string>();
  readonly #useHandles: boolean;
  readonly #log: Logger;

  constructor(useHandles: boolean, log: Logger) {
    this.#useHandles = useHandles;
    this.#log = log;
  }

  find(id: number): Mount | undefined {
    return this.#byId.get(id);
  }

  /**
   * Registers a mount by an O_PATH descriptor of something on it.
   * @param path of the mount point, relative to the share; empty for the share itself
   * @throws FsError ENFILE: too many mounts.
   */
  add(id: number, fd: Fd, directory: boolean, path: string): Mount {
    if (this.all.length >= MAX_MOUNTS && this.#vacant.length === 0) throw FsError.of('ENFILE');
    if (fstatfs(fd, at.statfs) < 0) words.fill(0, offset.statfs >>> 2, (offset.statfs + 64) >>> 2);
    const fsid = words[(offset.statfs + 56) >>> 2]!;
    const fsidHigh = words[(offset.statfs + 60) >>> 2]!;
    const type = words[offset.statfs >>> 2]!;
    const handleFd = this.#useHandles && directory ? this.#openForHandles(fd, path, type) : (-1 as Fd);
    const mount: Mount = {
      index: this.#vacant.pop() ?? this.all.length,
      id,
      fd: handleFd,
      uses: 0,
      fsid,
      fsidHigh,
      nowait: RWF.NOWAIT,
      inMemory: type === TMPFS_MAGIC || type === RAMFS_MAGIC,
      tag: tagOf(path),
    };
    this.all[mount.index] = mount;
    this.#byId.set(id, mount);
    this.#sweepSoon();
    return mount;
  }

  /** Counts one more user: a node that became known, or a call on another thread that uses `fd`. */
  use(index: number): void {
    this.all[index]!.uses += 1;
  }

  /** Counts one user less. Does nothing after {@link close}. */
  unuse(index: number): void {
    const mount = this.all[index];
    if (mount === undefined) return;
    mount.uses -= 1;
    if (mount.uses === 0) this.#sweepSoon();
  }

  /**
   * Lets go of unused mounts in the next turn of the event loop: a guest that forgets its last file
   * on a mount may look one up again in the same turn.
   */
  #sweepSoon(): void {
    if (this.#sweeps) return;
    this.#sweeps = true;
    setImmediate(() => {
      this.#sweeps = false;
      for (const mount of this.all)
        if (mount.index > 0 && mount.uses === 0 && mount.id >= 0) this.#leave(mount);
    });
  }

  #leave(mount: Mount): void {
    this.#byId.delete(mount.id);
    this.#vacant.push(mount.index);
    if (mount.fd >= 0) close(mount.fd);
    mount.id = -1;
    mount.fd = -1 as Fd;
  }

  /**
   * Opens a directory of the mount for opening file handles, and tries one. @returns the
   * descriptor, or -1 if handles do not work.
   */
  #openForHandles(fd: Fd, path: string, type: number): Fd {
    if (CACHED_HANDLES_ONLY.has(type)) return this.#warnNoHandles(path, Errno.ESTALE);
    const opened = openat(AT.FDCWD, putDescriptorPath(fd), O.RDONLY | O.DIRECTORY, 0);
    if (opened < 0) return this.#warnNoHandles(path, -opened);
    words[offset.handle >>> 2] = 128;
    let code = nameToHandleAt(opened, at.empty, at.handle, at.mountId, AT.EMPTY_PATH);
    if (code >= 0) {
      code = openByHandleAt(opened, at.handle, O.PATH);
      if (code >= 0) {
        close(code as Fd);
        return opened;
      }
    }
    close(opened);
    return this.#warnNoHandles(path, -code);
  }

  /** Warns, once for each mount, that it has no usable file handles. @returns -1. */
  #warnNoHandles(path: string, errno: number): Fd {
    if (this.#warned.has(path)) return -1 as Fd;
    if (this.#warned.size < MAX_MOUNTS) this.#warned.add(path);
    this.#log.warn(
      { errno: FsError.of(errno).code, mount: path === '' ? 'share' : path },
      'no file handles here: each file that a guest knows keeps a descriptor open (CAP_DAC_READ_SEARCH and a file system with handles avoid that)',
    );
    return -1 as Fd;
  }

  close(): void {
    for (const mount of this.all) if (mount.fd >= 0) close(mount.fd);
    this.all.length = 0;
    this.#vacant.length = 0;
    this.#byId.clear();
  }
}

function tagOf(path: string): number {
  let tag = 0;
  for (let i = 0; i < path.length; i++) tag = (Math.imul(tag, 31) + path.charCodeAt(i)) | 0;
  return tag >>> 0;
}

/** The mount id in call memory, as name_to_handle_at(2) gave it. */
export function handleMount(): number {
  return signedWords[offset.mountId >>> 2]!;
}

/**
 * Whether a handle's mount id fits the one that stat gave. Without mount ids (before Linux 5.8,
 * where `statMount` gives a device above 2^32) they cannot be compared, and the answer is true.
 */
export function isMountOf(handleMountId: number, statMountId: number): boolean {
  return (statMountId | 0) === handleMountId || statMountId >= 2 ** 32;
}
