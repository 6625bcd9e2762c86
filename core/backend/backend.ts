/**
 * # The backend contract
 *
 * A backend is one object that stands for a file system. This file has all that its author needs.
 * The engine owns what makes FUSE hard: node ids, generations, lookup counts, handles, directory
 * positions, locks, interrupts and the wire format. A backend never sees any of these.
 *
 * ## Capabilities are the methods present
 *
 * Three methods are required: `mount`, `lookup` and `getattr`. Every other method is a capability.
 * The engine looks at which methods the object has and offers guests exactly those. Leave out what
 * you cannot do. A method that only throws ENOSYS is worse than none, because guests believe in it.
 * "Absent:" below says what guests see without the method. Where an absent method would change
 * something, guests get EROFS if the backend has no method at all that changes anything, and else
 * EPERM, as Linux answers for a file system without that operation.
 *
 * ## Nodes, identity and keys
 *
 * `N` is your own object for a file, directory or link. The same file gives the same object, from
 * whichever name, from the moment when you first return it until `forget`. The engine compares
 * nodes with `===`. `F` is your own object for an open file; it may be `undefined`.
 *
 * `key` gives a node's durable identity. Node ids, generations and default inode numbers come from
 * it, so they are the same after a restart. A key stands for one file for ever: an inode number
 * needs its generation beside it, and a path is a key only where nothing is ever renamed. Without
 * `key` the ids last as long as the daemon.
 *
 * ## Lifetime
 *
 * `mount` comes first, once; `restore` next, if there is saved state; `unmount` last, once. Between
 * these a node lives until `forget`, which means that no guest, open file or lock refers to it any
 * more. A file whose last name is removed lives on while it is open: `release` comes first, then
 * `forget`. Each `open`, `create` and `tmpfile` is followed by one `release`. A method of a node or
 * file is never called after its `forget` or `release`, and neither of these while a promise that
 * uses it is pending.
 *
 * ## Values and promises
 *
 * Every method may return a value or a promise of it, except `key` and `forget`, which return at
 * once. With a value the request is answered in the same turn of the event loop, without garbage.
 * With a promise other requests go on meanwhile: two calls of one backend may be under way at the
 * same time, in any order, also for the same file. One pair is in order: `read` is called when the
 * `write`s of its bytes that the same guest has sent before have ended. A synchronous method may
 * return one object that it refills for each answer, since the engine reads it before it calls the
 * backend again. What a promise resolves to must stay unchanged.
 *
 * Buffers and contexts that you are given are yours until your method returns, or until the promise
 * that it returned settles. Not longer: the memory is the guest's and the objects are used again.
 *
 * ## Threads
 *
 * All methods are called on one thread, which serves all guests. A method that blocks, computes for
 * long or waits synchronously holds up every guest. Return a promise instead.
 *
 * ## Errors
 *
 * Throw `FsError.of('ENOSPC')`, or reject with it, and the guest's program sees that errno. Any
 * errno is allowed; those named below are what the guest's kernel and programs expect. Anything
 * else that is thrown is a mistake in the backend: the guest sees EIO, the log has the stack, and
 * the daemon goes on. An error of Node's own calls keeps its errno where that says what is full or
 * used up (ENOSPC, EDQUOT, EROFS, EFBIG, ENOMEM, ENFILE), and is logged too. EMFILE, of this
 * process, is ENFILE for guests. A result outside its range (a count larger than asked for) is such
 * a mistake.
 *
 * Permissions are checked by the guest's kernel, which mounts with `default_permissions`. Throw
 * EACCES or EPERM only for what the mode bits do not tell.
 *
 * ## Caching
 *
 * The guest's kernel keeps names, attributes and content, for as long as `cache` allows, and does
 * not ask while it does. It knows of the changes that it makes itself. What changes behind its
 * back, by another guest or by the backend, it learns when the time is over, or for content when
 * the file is opened again and its size, mtime or ctime differ. `Opened.directIo` and
 * `Opened.keepCache` decide for one open file.
 *
 * ## Names
 *
 * Linux names are bytes, and yours are strings. Bytes that are not UTF-8 come as lone surrogates,
 * U+DC80 to U+DCFF, and go back as the same bytes: see `decodeName` and `encodeName`. A name that
 * you are given has 1 to 255 bytes, no slash and no NUL, and is not `.` or `..`. It may be
 * `constructor` or `__proto__`: keep names in a `Map`.
 *
 * ## What the engine guarantees
 *
 * - Arguments are checked. Offsets and sizes are whole numbers from 0 to 2^53-1, and so is their
 *   sum.
 * - Nodes and files are those that you handed out, and still in use.
 * - `unlink`, `rmdir`, `rename` and creations may race with each other: the guest's kernel locks
 *   directories within one guest, but several guests may share a backend.
 * - Record locks and flock are done, between guests too. A backend has a part in them only where
 *   others have its files without this engine: see `lock`.
 * - When a guest gives up, `context.signal` is aborted. When it disappears, its files are released
 *   and its nodes forgotten, in that order.
 */
import type { AttributeChanges, Attributes, FsStatistics } from './attributes.js';
import type { Awaitable } from './awaitable.js';
import type { GuestBuffer } from './buffer.js';
import type { Context } from './context.js';
import type { LockHold } from './flags.js';
import type { BackendHost } from './host.js';
import type { Metric } from './metric.js';

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
  /** The backend's own object for the file. */
  readonly node: N;
  /** Its attributes, as `getattr` gives them. */
  readonly attributes: Attributes;
}

/**
 * An open file and how the guest's kernel is to treat it. `file` is the backend's own object, or
 * nothing.
 */
export interface Opened<F> {
  /** Given to every method of the open file. */
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
  /** 1 to 255 bytes, encoded like any name. */
  readonly name: string;
  /** Type bits as in `Attributes.mode`; 0 where not known. */
  readonly type: number;
  /**
   * Inode number as `getattr` shows it. Default: unknown, the guest sees a placeholder in `d_ino`;
   * for `.` and `..` the number of a node whose attributes have none.
   */
  readonly ino?: number | bigint | undefined;
  /**
   * Whether a look-up of this name would cost a request of its own. READDIRPLUS then gives it
   * without its node, and the guest looks it up if it needs it: `ls -l` does, `ls` does not.
   * Default: false.
   */
  readonly lookupLater?: boolean | undefined;
}

/** Answer of {@link Backend.ioctl}. */
export interface IoctlResult {
  /** Return value of the guest's `ioctl(2)`. */
  readonly result: number;
  /** What the program's memory is to have. Default: nothing. */
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
  /**
   * The guest collects writes and sends them later (FUSE_WRITEBACK_CACHE). Not for a backend that
   * stores other bytes than were written, or whose files others change: guests read too little
   * then.
   */
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
  /**
   * Of these, what a guest must know: one whose kernel does not offer it is refused at its mount
   * (EPROTO). Default: none; each is used where the guest offers it.
   */
  readonly required?: readonly ('posixAcl' | 'securityContext')[];
}

/** What `health` reports. */
export interface Health {
  /** Whether guests can be served now. */
  readonly ok: boolean;
  /** One line for the operator. */
  readonly detail?: string;
}

/**
 * A file system. Its capabilities are the methods that it has; the rules for all of them are at the
 * head of this file.
 * @typeParam N the backend's own object for a file, directory or link.
 * @typeParam F the backend's own object for an open file.
 */
export interface Backend<N extends object = object, F = unknown> {
  /**
   * Default cache policy. The export's options override it, part by part. Read once, after `mount`.
   * Absent parts: names and attributes for 1 second, missing names not at all, `data: 'auto'`, no
   * write-back.
   */
  readonly cache?: Partial<CachePolicy>;
  /** Behaviour that no method's presence can show. Read when a guest mounts. */
  readonly semantics?: Semantics;
  /**
   * Bytes of the JavaScript heap that the backend keeps for a node from its first return until
   * `forget`, with the longest name that a guest can choose if it keeps that: what its objects,
   * maps and strings take, not what guests store in the file. The engine limits by it how many
   * nodes guests know at a time, so that they are refused (ENFILE) before the heap is full. To
   * measure it: `process.memoryUsage().heapUsed` after a collection, before and after 100,000
   * look-ups of names of 255 bytes. A composition adds what the backends below have: `wrap` does.
   * Read once, after `mount`. Absent: 256.
   */
  readonly nodeBytes?: number;

  /**
   * Begins service. Called once, before anything else.
   * @param host what the engine offers: a log, and memory for I/O between backends.
   * @returns the root directory. It is never forgotten.
   * @throws UsageError for a mistake of the operator, which is then shown as one line.
   */
  mount(host: BackendHost): Awaitable<N>;
  /**
   * Ends service: everything acknowledged is made durable, everything is closed. Called once, after
   * all else. Absent: there is nothing to end.
   */
  unmount?(): Awaitable<void>;
  /**
   * State that node keys don't carry, such as the content of an in-memory tree, for a snapshot.
   * Absent: keys are enough.
   * @returns bytes that `restore` of the same version or a later one understands.
   */
  save?(): Awaitable<Uint8Array>;
  /**
   * Takes up what `save` gave. Called after `mount`, before any other method. The root stays the
   * node that `mount` returned.
   * @throws any error where it cannot; the export is then not opened.
   */
  restore?(state: Uint8Array): Awaitable<void>;
  /**
   * Keeps a directory for this mount alone, until `unmount` or the end of the process, however that
   * comes. Called by backends that are made of others, such as an overlay, which changes what
   * nobody else may change meanwhile. Absent: such a backend works without this protection.
   * @throws EBUSY while another mount, of this process or another on the same machine, has claimed
   * it.
   */
  claim?(directory: N): Awaitable<void>;
  /**
   * Whether the backend can serve, asked by monitoring. It should answer soon, from what is known.
   * Absent: nothing is reported.
   */
  health?(): Awaitable<Health>;
  /**
   * The backend's own figures, asked by monitoring up to once a second. Returns at once. Absent:
   * there are none. One that throws is logged, and leaves the other figures as they are.
   */
  metrics?(): readonly Metric[];

  /**
   * The node's durable identity: see "Nodes, identity and keys". Called once for each node when the
   * engine first sees it, and by snapshots. Returns at once. Absent: node ids and default inode
   * numbers change with each start of the daemon, and there are no snapshots.
   */
  key?(node: N): NodeKey;
  /**
   * Finds a node again by its key, after a restart. The node is then in use, as after `lookup`.
   * Absent: there are no snapshots.
   * @throws ESTALE when it is gone; the guest then sees ESTALE for it.
   */
  resolve?(key: NodeKey): Awaitable<N>;
  /**
   * No guest, open file or lock refers to the node any more. Drop what you keep for it. A later
   * `lookup` may return it, or another object for the same file. Returns at once; never called for
   * the root. Absent: nodes need no care.
   */
  forget?(node: N): void;

  /**
   * Begins to tell by {@link BackendHost.changed} what others change in a directory, and in the
   * files there. Called for directories that guests know, if anybody wants to know. Absent: the
   * backend tells by itself, or never.
   * @returns ends it, which is called before `forget`; nothing where no more can be watched.
   */
  watch?(directory: N): (() => void) | undefined;
  /**
   * Finds a name in a directory. The guest's kernel then keeps name and attributes for the times of
   * the cache policy, and refers to the node until `forget`.
   * @returns the node and its attributes; nothing where there is no such name, which is cheaper
   * than throwing ENOENT and may be kept for `negativeTimeout`.
   * @throws ENOTDIR where `parent` is no directory.
   */
  lookup(parent: N, name: string, context: Context): Awaitable<Entry<N> | undefined>;
  /**
   * The directory that a directory, not the root, is in: `..`. The node is then in use, as after
   * `lookup`. Absent: a listing that does not tell the inode number of `..` has a placeholder for
   * it, and guests cannot open a directory by its handle (open_by_handle_at(2)) once they have
   * forgotten it.
   * @throws ENOENT where it was removed.
   */
  parent?(directory: N, context: Context): Awaitable<N>;
  /**
   * Attributes of a node. Serves GETATTR and STATX. The guest keeps them for `attributeTimeout`;
   * with write-back it believes its own size and times of a file for as long as it knows the file.
   * @param file the open file where the guest asks through one; its name may be removed by then.
   */
  getattr(node: N, file: F | undefined, context: Context): Awaitable<Attributes>;
  /**
   * Changes attributes, all or none: chmod(2), chown(2), truncate(2), utimensat(2). ctime moves on,
   * and mtime with a change of size. What a longer `size` adds is zeros. The guest takes the
   * returned attributes in place of those it has. Absent: EROFS or EPERM.
   * @param file the open file where the guest asks through one (ftruncate(2)).
   * @returns the attributes as they are then.
   * @throws EFBIG or ENOSPC for a size; EISDIR for the size of a directory.
   */
  setattr?(node: N, changes: AttributeChanges, file: F | undefined, context: Context): Awaitable<Attributes>;
  /**
   * Target of a symbolic link. The guest's kernel follows it, relative to the link's directory, and
   * keeps it with the content of files. Absent: EINVAL; show no symbolic links then.
   * @returns 1 to 4,095 bytes once encoded like a name; more is ENAMETOOLONG for the guest.
   * @throws EINVAL where the node is no symbolic link.
   */
  readlink?(node: N, context: Context): Awaitable<string>;

  /**
   * Creates a regular file, device, FIFO or socket that is not opened. It belongs to `context.uid`
   * and `context.gid`, or to the directory's group where that has set-group-id. Absent: EROFS or
   * EPERM, for regular files only if there is no `create` either.
   * @param mode type bits, one of those that mknod(2) creates, and permission bits.
   * @param rdev of a device, as {@link makeDevice} encodes it; else 0.
   * @throws EEXIST where the name is taken; ENOENT where `parent` was removed; ENOSPC.
   */
  mknod?(parent: N, name: string, mode: number, rdev: number, context: Context): Awaitable<Entry<N>>;
  /**
   * Creates an empty directory. Owner as for `mknod`; a directory in one with set-group-id has that
   * bit too. Absent: EROFS or EPERM.
   * @param mode permission bits, without type bits.
   * @throws EEXIST where the name is taken; ENOENT where `parent` was removed; ENOSPC; EMLINK.
   */
  mkdir?(parent: N, name: string, mode: number, context: Context): Awaitable<Entry<N>>;
  /**
   * Creates a symbolic link. Owner as for `mknod`. Absent: EROFS or EPERM.
   * @param target at most 4,095 bytes, decoded like a name; it is stored as it is.
   * @throws EEXIST where the name is taken; ENOENT where `parent` was removed; ENOSPC.
   */
  symlink?(parent: N, name: string, target: string, context: Context): Awaitable<Entry<N>>;
  /**
   * Adds a name to an existing node that is no directory. Absent: EROFS or EPERM.
   * @returns the same node, with the attributes that it has then (`nlink` and ctime).
   * @throws EEXIST where the name is taken; EMLINK; EXDEV where the node cannot have a name there.
   */
  link?(node: N, parent: N, name: string, context: Context): Awaitable<Entry<N>>;
  /**
   * Removes the name of what is no directory. The node lives on while it has names or is open; the
   * guest's kernel lets go of it later (`release`, then `forget`). Absent: EROFS or EPERM.
   * @throws ENOENT where there is no such name; EISDIR for a directory.
   */
  unlink?(parent: N, name: string, context: Context): Awaitable<void>;
  /**
   * Removes an empty directory. Nothing can be created in it afterwards, though it may still be in
   * use. Absent: EROFS or EPERM.
   * @throws ENOENT where there is no such name; ENOTDIR; ENOTEMPTY where it has names.
   */
  rmdir?(parent: N, name: string, context: Context): Awaitable<void>;
  /**
   * Renames in one step: at every moment `newName` stands for the old or the new file. Replaces
   * what `newName` stands for, a file by a file, an empty directory by a directory. Two names of
   * the same file: nothing happens. Absent: EROFS or EPERM.
   * @param flags {@link RenameFlags}: EXCHANGE comes alone.
   * @throws ENOENT; EEXIST with NOREPLACE; ENOTEMPTY, ENOTDIR and EISDIR as rename(2); EINVAL for
   * flags that the backend does not support; EXDEV where programs are to copy instead.
   */
  rename?(
    parent: N,
    name: string,
    newParent: N,
    newName: string,
    flags: number,
    context: Context,
  ): Awaitable<void>;

  /**
   * Opens what is no directory. Absent: opening always succeeds, `file` is `undefined`, and the
   * guest truncates by `setattr`. Without `write`, the engine refuses to open for writing (EROFS or
   * EPERM).
   * @param flags {@link OpenFlags}, without CREAT and EXCL. With TRUNC the file is cut to 0 bytes.
   * With write-back the engine asks for reading too, and without APPEND: the guest fills pages by
   * reading, and knows the end.
   * @throws ENXIO, ETXTBSY, EROFS and the like; ESTALE where the file is gone.
   */
  open?(node: N, flags: number, context: Context): Awaitable<Opened<F>>;
  /**
   * Creates a regular file and opens it, in one step. Where the name is taken, opens that file
   * unless `flags` has EXCL. Owner as for `mknod`. Absent: the guest calls `mknod` and `open`; with
   * no `mknod` either, EROFS or EPERM.
   * @param mode permission bits.
   * @throws EEXIST with EXCL; EISDIR; ENOENT where `parent` was removed; ENOSPC.
   */
  create?(parent: N, name: string, mode: number, flags: number, context: Context): Awaitable<Created<N, F>>;
  /**
   * Creates an open file that has no name (O_TMPFILE). Its `nlink` is 0 until `link` gives it a
   * name, which EXCL among the flags forbids. Absent: EOPNOTSUPP in the guest, and programs make a
   * named file instead.
   * @param parent a directory, which says in which file system the file is.
   */
  tmpfile?(parent: N, mode: number, flags: number, context: Context): Awaitable<Created<N, F>>;
  /**
   * Reads into the buffer, which is the guest's own memory. A count below the buffer's length means
   * the end of the file: the guest's page cache takes the rest as zeros. Absent: EINVAL.
   * @param buffer up to 1 MiB; reads come in any order, several at a time, after the same guest's
   * earlier writes of these bytes.
   * @param offset bytes from the file's start; it may be beyond the end.
   * @returns the bytes read, 0 to `buffer.length`.
   * @throws EIO and the like; nothing of the buffer counts then.
   */
  read?(node: N, file: F, buffer: GuestBuffer, offset: number, context: Context): Awaitable<number>;
  /**
   * Writes the buffer. A gap between the end and `offset` is zeros. mtime and ctime move on.
   * Absent: no file can be opened for writing.
   * @param buffer up to 1 MiB of the guest's own memory. The guest may change it meanwhile.
   * @param offset where to write, also for a file opened with APPEND: the guest knows the end. With
   * several guests, write to a file opened with APPEND at its end.
   * @param flags {@link WriteFlags}.
   * @returns the bytes written, 0 to `buffer.length`; less than all only where the next byte gives
   * an error, which the guest then asks for by another write.
   * @throws ENOSPC, EDQUOT, EFBIG, EIO. With write-back the guest learns of it at fsync(2).
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
   * A descriptor of the open file was closed; there may be others, so that this may come more than
   * once. The last moment to give an error to close(2). Absent: there is nothing to report.
   */
  flush?(node: N, file: F, context: Context): Awaitable<void>;
  /**
   * The last descriptor was closed, and no request uses the file any more. Called once for every
   * `open`, `create` and `tmpfile`. An error reaches no program, only the log. Absent: open files
   * need no care.
   */
  release?(node: N, file: F): Awaitable<void>;
  /**
   * Has others keep to the locks of guests who use the same files by another engine. Called before
   * each lock that a guest gets on a node, for all that the locks on it need then, and where some
   * were given up for what the rest needs: NONE with the last. One call for a node at a time.
   *
   * When it ends, guests must see what others wrote before they gave their locks up. With less than
   * before, what guests have written must be where others see it when it ends. Absent: locks hold
   * among the guests of this export.
   * @param hold of the node as a whole, whichever of its bytes are locked.
   * @param isWaiting whether the guest waits for the lock: it is asked for again after EAGAIN.
   * @param context absent where locks are given up, and where guests have had them since before a
   * restart.
   * @throws EAGAIN where somebody else's lock is in the way; ENOLCK; EIO where what was held was
   * lost, or can't be given up properly. What is given up counts as given up then, too.
   */
  lock?(node: N, hold: LockHold, isWaiting: boolean, context: Context | undefined): Awaitable<void>;
  /**
   * Makes the file durable: its content, and unless `dataOnly` its attributes. With write-back the
   * guest has written all before. Absent: fsync(2) succeeds, and the guest does not ask again.
   * @throws EIO, ENOSPC where data that was acknowledged is lost.
   */
  fsync?(node: N, file: F, dataOnly: boolean, context: Context): Awaitable<void>;

  /**
   * Lists a directory. `.` and `..` may come first, for their inode numbers: they should where
   * attributes have numbers. Anywhere else they are left out. Called once for each opening and each
   * rewind. The engine pulls entries as the guest reads, keeps their order for seeks, and calls the
   * iterator's `return` when the directory is closed early. Every name that is there all the time
   * must come once. Guests that list with attributes have each name looked up by `lookup`. Absent:
   * EACCES for opening the directory; its names can still be looked up.
   */
  readdir?(node: N, context: Context): Awaitable<Iterable<DirectoryEntry> | AsyncIterable<DirectoryEntry>>;
  /**
   * Makes a directory's names durable. Absent: fsync(2) of a directory succeeds, and the guest does
   * not ask again.
   */
  fsyncdir?(node: N, dataOnly: boolean, context: Context): Awaitable<void>;
  /**
   * Figures of the file system that holds the node, for statfs(2) and `df`. Absent: zeros, which
   * `df` leaves out.
   */
  statfs?(node: N, context: Context): Awaitable<FsStatistics>;
  /**
   * Makes everything durable: syncfs(2) in the guest, which has written its cache before. Absent:
   * syncfs(2) succeeds with that, and the guest does not ask again.
   */
  syncfs?(context: Context): Awaitable<void>;

  /**
   * Value of an extended attribute. The guest does not keep it, and asks for `security.capability`
   * often. Absent: EOPNOTSUPP in the guest, which does not ask again.
   * @param name with its namespace, such as `user.mime_type`.
   * @returns 0 to 65,536 bytes; nothing where there is no such attribute (ENODATA). The engine
   * answers ERANGE where the guest's buffer is too small.
   * @throws EOPNOTSUPP for a namespace that is not supported.
   */
  getxattr?(node: N, name: string, context: Context): Awaitable<Uint8Array | undefined>;
  /**
   * Names of the extended attributes, with their namespaces. Absent: EOPNOTSUPP in the guest, which
   * does not ask again.
   * @returns at most 65,536 bytes, with one more for each name; beyond, the guest sees E2BIG.
   */
  listxattr?(node: N, context: Context): Awaitable<readonly string[]>;
  /**
   * Sets an extended attribute. ctime moves on. Absent: EOPNOTSUPP in the guest, which does not ask
   * again.
   * @param value 0 to 65,536 bytes. A copy, which may be kept.
   * @param flags {@link XattrFlags}.
   * @param killSgid clear set-group-id too (FUSE_SETXATTR_ACL_KILL_SGID), for an access control
   * list that is set by somebody without privilege.
   * @throws EEXIST with CREATE, ENODATA with REPLACE, where the condition does not hold; EOPNOTSUPP
   * for a namespace; ENOSPC; E2BIG.
   */
  setxattr?(
    node: N,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
    context: Context,
  ): Awaitable<void>;
  /**
   * Removes an extended attribute. ctime moves on. Absent: EOPNOTSUPP in the guest, which does not
   * ask again.
   * @throws ENODATA where there is no such attribute.
   */
  removexattr?(node: N, name: string, context: Context): Awaitable<void>;

  /**
   * Sets space aside, or takes it away: fallocate(2). With no mode the file grows to `offset +
   * length` if it is shorter. Absent: EOPNOTSUPP in the guest, which does not ask again;
   * posix_fallocate(3) then writes zeros.
   * @param mode {@link FallocateMode}.
   * @param length 1 or more bytes.
   * @throws EOPNOTSUPP for a mode that the backend does not support; ENOSPC; EFBIG.
   */
  fallocate?(
    node: N,
    file: F,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Awaitable<void>;
  /**
   * Finds the next data (SEEK_DATA) or hole (SEEK_HOLE) at or after `offset`. The end of the file
   * is a hole. Not called with write-back, where the guest answers by itself. Absent: the file is
   * one piece of data.
   * @returns a position from `offset` to the file's size.
   * @throws ENXIO where `offset` is at or beyond the end, or no data follows.
   */
  lseek?(node: N, file: F, offset: number, whence: 'data' | 'hole', context: Context): Awaitable<number>;
  /**
   * Copies between open files of this backend: copy_file_range(2). Absent: the guest copies by
   * `read` and `write`, and does not ask again.
   * @returns the bytes copied, 0 to `length`; 0 only at the end of the source. The guest asks again
   * for the rest.
   * @throws EXDEV or EOPNOTSUPP where the guest is to copy by itself this time; EINVAL where the
   * ranges overlap in one file.
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
   * A well-formed ioctl(2) on an open file: Linux has sized input and output by the command's
   * number. Absent: ENOTTY.
   * @param command the whole number, as the program gave it.
   * @param input the program's argument, 0 or more bytes. A copy.
   * @param outputSize most bytes of {@link IoctlResult.output}.
   * @throws ENOTTY for a command that is not known.
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
