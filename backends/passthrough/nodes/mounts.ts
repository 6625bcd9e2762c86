import { FsError, type Logger } from '../../../core/backend/index.js';
import { AT, O, RWF, close, fstatfs, openat } from '../../../core/system/calls/files.js';
import { nameToHandleAt, openByHandleAt } from '../../../core/system/calls/file-handles.js';
import { at, offset, putDescriptorPath, signedWords, words } from '../calls/call-memory.js';

/** Mounts that one share may reach into (12 bits of a node's description). */
const MAX_MOUNTS = 4096;

/**
 * A mounted file system that the share reaches: the one that holds the shared directory, and those
 * mounted below it.
 */
export interface Mount {
  /** Place in {@link Mounts.all}; 0 is the share's own. */
  readonly index: number;
  /** As `statMount` gives it; -1 once the mount was left. */
  id: number;
  /**
   * A descriptor on it by which file handles are opened, or -1 where they are not to be had: no
   * support in the file system, no privilege, or not wanted. While it is open nobody can unmount
   * it.
   */
  fd: number;
  /**
   * Nodes on it that guests know, and calls that use its descriptor on a thread: see {@link
   * Mounts.use}.
   */
  uses: number;
  /** Identity of the file system, durable where it has a UUID (`statfs.f_fsid`). */
  readonly fsid: number;
  readonly fsidHigh: number;
  /**
   * Flags for preadv2 that make a read of a regular file fail rather than wait for the disk; 0
   * where it can't tell.
   */
  nowait: number;
  /**
   * Tells mounts of one file system apart: a hash of the path below the share, 0 for the share's
   * own.
   */
  readonly tag: number;
}

/**
 * The mounts that a share reaches, in the order in which they were found. One on which no guest
 * knows a file any more is left, so that the host may unmount it; it is found again when it is
 * needed. The share's own stays.
 */
export class Mounts {
  readonly all: Mount[] = [];
  readonly #byId = new Map<number, Mount>();
  /** Places in {@link all} of mounts that were left. */
  readonly #vacant: number[] = [];
  #sweeps = false;
  /** Mounts of which {@link #without} told, by path; as many as there are places. */
  readonly #said = new Set<string>();
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
   * Enters a mount by an O_PATH descriptor of something on it.
   * @param path where it is, relative to the share; empty for the share itself
   * @throws FsError ENFILE: too many mounts.
   */
  add(id: number, fd: number, directory: boolean, path: string): Mount {
    if (this.all.length >= MAX_MOUNTS && this.#vacant.length === 0) throw FsError.of('ENFILE');
    fstatfs(fd, at.statfs);
    const fsid = words[(offset.statfs + 56) >>> 2]!;
    const fsidHigh = words[(offset.statfs + 60) >>> 2]!;
    const handleFd = this.#useHandles && directory ? this.#openForHandles(fd, path) : -1;
    const mount: Mount = {
      index: this.#vacant.pop() ?? this.all.length,
      id,
      fd: handleFd,
      uses: 0,
      fsid,
      fsidHigh,
      nowait: RWF.NOWAIT,
      tag: tagOf(path),
    };
    this.all[mount.index] = mount;
    this.#byId.set(id, mount);
    this.#sweepSoon();
    return mount;
  }

  /** A node on the mount became known, or a call is about to use its descriptor on a thread. */
  use(index: number): void {
    this.all[index]!.uses += 1;
  }

  /** Ends what {@link use} began; after {@link close} without effect. */
  unuse(index: number): void {
    const mount = this.all[index];
    if (mount === undefined) return;
    mount.uses -= 1;
    if (mount.uses === 0) this.#sweepSoon();
  }

  /**
   * Not at once: a guest that forgets all it knows of a mount may look at it again in the same
   * breath.
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
    mount.fd = -1;
  }

  /** Opens a directory so that handles on its mount can be opened by it, and tries. */
  #openForHandles(fd: number, path: string): number {
    const opened = openat(AT.FDCWD, putDescriptorPath(fd), O.RDONLY | O.DIRECTORY, 0);
    if (opened < 0) return this.#without(path, -opened);
    words[offset.handle >>> 2] = 128;
    let code = nameToHandleAt(opened, at.empty, at.handle, at.mountId, AT.EMPTY_PATH);
    if (code >= 0) {
      code = openByHandleAt(opened, at.handle, O.PATH);
      if (code >= 0) {
        close(code);
        return opened;
      }
    }
    close(opened);
    return this.#without(path, -code);
  }

  /** Says once of a mount that it has no handles. */
  #without(path: string, errno: number): number {
    if (this.#said.has(path)) return -1;
    if (this.#said.size < MAX_MOUNTS) this.#said.add(path);
    this.#log.warn(
      { errno: FsError.of(errno).code, mount: path === '' ? 'share' : path },
      'no file handles here: each file that a guest knows keeps a descriptor open (CAP_DAC_READ_SEARCH and a file system with handles avoid that)',
    );
    return -1;
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

/** Id of the mount that a handle was taken on, as name_to_handle_at(2) gives it. */
export function handleMount(): number {
  return signedWords[offset.mountId >>> 2]!;
}

/** Whether mount ids can be told apart from handles' (Linux 5.8). */
export function isMountOf(handleMountId: number, statMountId: number): boolean {
  return (statMountId | 0) === handleMountId || statMountId >= 2 ** 32;
}
