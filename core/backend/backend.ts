import type { AttributeChanges, Attributes, FsStatistics } from './attributes.js';
import type { Awaitable } from './awaitable.js';
import type { GuestBuffer } from './buffer.js';
import type { Context } from './context.js';
import type { BackendHost } from './plugin.js';

/**
 * A node's durable identity: equal for the same file, for ever different for different ones (an
 * inode number must come with its generation). Node ids, generations and default inode numbers are
 * derived from it.
 */
export type NodeKey = string | number | Uint8Array;

/**
 * What a lookup or creation found. The engine reads it as {@link Attributes} are read: a
 * synchronous backend may return one refilled object.
 */
export interface Entry<N> {
  readonly node: N;
  readonly attributes: Attributes;
}

/**
 * An open file and how the guest's kernel is to treat it. `file` is the backend's own object, or
 * nothing.
 */
export interface Opened<F> {
  readonly file: F;
  /**
   * The guest bypasses its page cache (FOPEN_DIRECT_IO). Default: the export's cache policy
   * decides.
   */
  readonly directIo?: boolean;
  /**
   * The guest may keep cached data from before this open (FOPEN_KEEP_CACHE). Default: the cache
   * policy decides.
   */
  readonly keepCache?: boolean;
  /** No seeking (FOPEN_NONSEEKABLE). Default false. */
  readonly nonSeekable?: boolean;
}

/** A created and opened file. */
export interface Created<N, F> extends Entry<N>, Opened<F> {}

/** One name in a directory. */
export interface DirectoryEntry {
  readonly name: string;
  /** Type bits as in `Attributes.mode`; 0 where not known. */
  readonly type: number;
  /**
   * Inode number as `getattr` shows it. Default: unknown, the guest sees a placeholder in `d_ino`.
   */
  readonly ino?: number | bigint | undefined;
}

/** Answer of {@link Backend.ioctl}. */
export interface IoctlResult {
  /** Return value of the guest's `ioctl(2)`. */
  readonly result: number;
  readonly output?: Uint8Array;
}

/**
 * How a guest may cache what this backend serves. Times in seconds, 0 or more; `Infinity` for ever.
 */
export interface CachePolicy {
  /** How long a name may be resolved without asking. */
  readonly entryTimeout: number;
  /** How long a missing name may be taken as missing without asking. */
  readonly negativeTimeout: number;
  /** How long attributes may be shown without asking. */
  readonly attributeTimeout: number;
  /**
   * File content: `auto` caches and drops the cache at open when size or mtime changed, `always`
   * keeps it, `never` bypasses the page cache (FOPEN_DIRECT_IO).
   */
  readonly data: 'auto' | 'always' | 'never';
  /** The guest collects writes and sends them later (FUSE_WRITEBACK_CACHE). */
  readonly writeback: boolean;
}

/** Behaviour that no method's presence can show. All default to false. */
export interface Semantics {
  /**
   * Enforces POSIX ACLs stored as `system.posix_acl_*` and applies the umask itself
   * (FUSE_POSIX_ACL, FUSE_DONT_MASK).
   */
  readonly posixAcl?: boolean;
  /**
   * Clears set-id bits and file capabilities on write, truncate and chown as asked
   * (FUSE_HANDLE_KILLPRIV_V2).
   */
  readonly killPriv?: boolean;
  /** Sets `context.securityContext` atomically with a creation (FUSE_SECURITY_CTX). */
  readonly securityContext?: boolean;
  /** Marks submounts in attributes (FUSE_SUBMOUNTS). */
  readonly submounts?: boolean;
}

/** What `health` reports. */
export interface Health {
  readonly ok: boolean;
  /** One line for the operator. */
  readonly detail?: string;
}

/**
 * A file system. Its capabilities are the methods that it has: the engine advertises and serves
 * exactly those, and answers for the rest as Linux expects of a file system without them (ENOSYS,
 * EROFS or EOPNOTSUPP, as the opcode table in `docs/opcodes.md` says).
 *
 * - `N` is the backend's own node object, one per file for as long as the node is not forgotten:
 *   the same file gives the same object, from any name. `F` is its own object for an open file.
 * - Any method may return a value or a promise. With values the request is answered in the same
 *   turn of the event loop.
 * - Errors are thrown as {@link FsError}.
 * - Names have no slash and no NUL, are not `.` or `..`, and are at most 255 bytes: the engine has
 *   checked. Offsets and sizes are integers from 0 to 2^53-1.
 * - Permission checks are the guest kernel's (it mounts with `default_permissions`); a backend
 *   checks only what the kernel can't.
 */
export interface Backend<N extends object = object, F = unknown> {
  /** Default cache policy; the export's options override it, part by part. */
  readonly cache?: Partial<CachePolicy>;
  readonly semantics?: Semantics;

  /** Begins service. Called once, before anything else. @returns the root directory. */
  mount(host: BackendHost): Awaitable<N>;
  /**
   * Ends service: everything acknowledged is made durable, everything is closed. Called once, after
   * all else.
   */
  unmount?(): Awaitable<void>;
  /** State that node keys don't carry (the content of an in-memory tree), for a snapshot. */
  save?(): Awaitable<Uint8Array>;
  /** Takes up what `save` gave. Called after `mount`, before any other method. */
  restore?(state: Uint8Array): Awaitable<void>;
  /**
   * Keeps a directory for this mount alone, until `unmount` or the end of the process, however that
   * comes. For a backend made of others, such as an overlay, which changes what nobody else may
   * change meanwhile.
   * @throws EBUSY while another mount, of this process or another on the same machine, has claimed
   * it.
   */
  claim?(directory: N): Awaitable<void>;
  /** Whether the backend can serve, asked by monitoring. */
  health?(): Awaitable<Health>;

  /** The node's durable identity. Absent: node ids last for the daemon's life only. */
  key?(node: N): NodeKey;
  /** Finds a node again by its key, after a restart. @throws ESTALE when it is gone. */
  resolve?(key: NodeKey): Awaitable<N>;
  /** No guest, handle or lock refers to the node any more. */
  forget?(node: N): void;

  /** Finds a name. @returns nothing where there is none: cheaper than throwing ENOENT. */
  lookup(parent: N, name: string, context: Context): Awaitable<Entry<N> | undefined>;
  /** Attributes, of the open `file` where the guest asks through one. */
  getattr(node: N, file: F | undefined, context: Context): Awaitable<Attributes>;
  /** Changes attributes, all or none, and returns them as they are then. */
  setattr?(node: N, changes: AttributeChanges, file: F | undefined, context: Context): Awaitable<Attributes>;
  /** Target of a symbolic link, at most 4,095 bytes, encoded like a name. */
  readlink?(node: N, context: Context): Awaitable<string>;

  /**
   * Creates a node that is not opened. `mode` has type and permission bits, `rdev` as {@link
   * makeDevice} encodes.
   */
  mknod?(parent: N, name: string, mode: number, rdev: number, context: Context): Awaitable<Entry<N>>;
  mkdir?(parent: N, name: string, mode: number, context: Context): Awaitable<Entry<N>>;
  symlink?(parent: N, name: string, target: string, context: Context): Awaitable<Entry<N>>;
  /** Adds a name to an existing node that is no directory. */
  link?(node: N, parent: N, name: string, context: Context): Awaitable<Entry<N>>;
  /** Removes a name. The node lives on while it is open: until `release`, then `forget`. */
  unlink?(parent: N, name: string, context: Context): Awaitable<void>;
  rmdir?(parent: N, name: string, context: Context): Awaitable<void>;
  /** `flags` as {@link RenameFlags}; EINVAL for what the backend does not support. */
  rename?(
    parent: N,
    name: string,
    newParent: N,
    newName: string,
    flags: number,
    context: Context,
  ): Awaitable<void>;

  /**
   * Opens a file; `flags` as {@link OpenFlags}, without CREAT and EXCL. Absent: opening always
   * succeeds.
   */
  open?(node: N, flags: number, context: Context): Awaitable<Opened<F>>;
  /**
   * Creates (or with no EXCL opens) and opens, in one step. Absent: the guest uses `mknod` and
   * `open`.
   */
  create?(parent: N, name: string, mode: number, flags: number, context: Context): Awaitable<Created<N, F>>;
  /**
   * Creates an open file that has no name (O_TMPFILE); `link` may give it one unless `flags` has
   * EXCL.
   */
  tmpfile?(parent: N, mode: number, flags: number, context: Context): Awaitable<Created<N, F>>;
  /**
   * Reads into the buffer.
   * @returns the bytes read; less than `buffer.length` only at the end of the file.
   */
  read?(node: N, file: F, buffer: GuestBuffer, offset: number, context: Context): Awaitable<number>;
  /**
   * Writes the buffer. `flags` as {@link WriteFlags}. An append is at `offset` as the guest knows
   * it, unless the file was opened with APPEND by several guests: then the backend writes at the
   * end.
   * @returns the bytes written; less than `buffer.length` only where the next byte gives an error.
   */
  write?(
    node: N,
    file: F,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): Awaitable<number>;
  /**
   * A descriptor was closed (there may be others): the last moment to give an error to `close(2)`.
   */
  flush?(node: N, file: F, context: Context): Awaitable<void>;
  /** The last descriptor was closed. Called once for every `open`, `create` and `tmpfile`. */
  release?(node: N, file: F): Awaitable<void>;
  /** Makes the file durable: its content, and unless `dataOnly` its attributes. */
  fsync?(node: N, file: F, dataOnly: boolean, context: Context): Awaitable<void>;

  /**
   * Lists a directory, without `.` and `..`, once per open and rewind. The engine pulls entries as
   * the guest reads, keeps their order for seeks, and calls the iterator's `return` when the
   * directory is closed early.
   */
  readdir?(node: N, context: Context): Awaitable<Iterable<DirectoryEntry> | AsyncIterable<DirectoryEntry>>;
  /** Makes a directory's names durable. */
  fsyncdir?(node: N, dataOnly: boolean, context: Context): Awaitable<void>;
  /** Figures of the file system that holds the node. Absent: zeros. */
  statfs?(node: N, context: Context): Awaitable<FsStatistics>;
  /** Makes everything durable (`syncfs(2)` in the guest). */
  syncfs?(context: Context): Awaitable<void>;

  /** Value of an extended attribute. @returns nothing where there is none (ENODATA). */
  getxattr?(node: N, name: string, context: Context): Awaitable<Uint8Array | undefined>;
  /** Names of the extended attributes. */
  listxattr?(node: N, context: Context): Awaitable<readonly string[]>;
  /**
   * `flags` as {@link XattrFlags}. `killSgid`: clear set-group-id too
   * (FUSE_SETXATTR_ACL_KILL_SGID).
   */
  setxattr?(
    node: N,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
    context: Context,
  ): Awaitable<void>;
  removexattr?(node: N, name: string, context: Context): Awaitable<void>;

  /** `mode` as {@link FallocateMode}; EOPNOTSUPP for what the backend does not support. */
  fallocate?(
    node: N,
    file: F,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Awaitable<void>;
  /**
   * Next data (SEEK_DATA) or hole (SEEK_HOLE) at or after `offset`.
   * @throws ENXIO beyond the end.
   */
  lseek?(node: N, file: F, offset: number, whence: 'data' | 'hole', context: Context): Awaitable<number>;
  /**
   * Copies between open files of this backend.
   * @returns the bytes copied; 0 at the end of the source.
   */
  copyFileRange?(
    node: N,
    file: F,
    offset: number,
    toNode: N,
    toFile: F,
    toOffset: number,
    length: number,
    context: Context,
  ): Awaitable<number>;
  /**
   * A well-formed `ioctl(2)`: Linux has sized input and output from the command. ENOTTY for an
   * unknown one.
   */
  ioctl?(
    node: N,
    file: F,
    command: number,
    input: Uint8Array,
    outputSize: number,
    context: Context,
  ): Awaitable<IoctlResult>;
}
