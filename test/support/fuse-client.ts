/**
 * The kernel's side of FUSE for tests. It builds raw requests and reads raw replies, over any
 * transport. Layouts are those of Linux `include/uapi/linux/fuse.h`. Every reply's header is
 * checked as the Linux kernel checks it.
 */
import assert from 'node:assert/strict';
import { InitFlag as FirstWord, InitFlag2 as SecondWord, Opcode } from '../../core/fuse/wire/abi.js';

/** What carries a request: the front-end over a virtqueue, or anything else that moves bytes. */
export interface FuseTransport {
  /**
   * Sends one request.
   * @param queue virtqueue index: 0 is hiprio.
   * @param outSize bytes of room for the reply, header included; 0 for a request without reply.
   * @returns the bytes that the daemon said it wrote.
   */
  request(queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array>;
}

/** Opcodes (`enum fuse_opcode`). */
export { Opcode as Op };

/** INIT flags (`FUSE_*`), those of both words in one number. */
export const InitFlag = {
  ...wide(FirstWord, 0n),
  ...wide(SecondWord, 32n),
};

function wide<Name extends string>(
  flags: Readonly<Record<Name, number>>,
  shift: bigint,
): Readonly<Record<Name, bigint>> {
  const entries = Object.entries<number>(flags).map(([name, flag]) => [name, BigInt(flag >>> 0) << shift]);
  return Object.fromEntries(entries) as Record<Name, bigint>;
}

/** What a Linux 6 guest offers and any daemon understands. */
export const usualInitFlags: bigint =
  InitFlag.ASYNC_READ |
  InitFlag.POSIX_LOCKS |
  InitFlag.ATOMIC_O_TRUNC |
  InitFlag.BIG_WRITES |
  InitFlag.FLOCK_LOCKS |
  InitFlag.AUTO_INVAL_DATA |
  InitFlag.DO_READDIRPLUS |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.MAX_PAGES |
  InitFlag.INIT_EXT;

/** Node id of the root (`FUSE_ROOT_ID`). */
export const ROOT = 1n;

/** The daemon answered with an error. `errno` is positive. */
export class FuseError extends Error {
  override readonly name = 'FuseError';
  readonly errno: number;

  constructor(opcode: number, errno: number) {
    super(`opcode ${opcode} failed with errno ${errno}`);
    this.errno = errno;
  }
}

/** Asserts that a request is answered with an error. */
export function rejectsWith(reply: Promise<unknown>, errno: number): Promise<void> {
  return assert.rejects(reply, (error) => error instanceof FuseError && error.errno === errno);
}

/** `struct fuse_attr`. */
export interface Attr {
  readonly ino: bigint;
  readonly size: number;
  readonly blocks: number;
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
  readonly atimensec: number;
  readonly mtimensec: number;
  readonly ctimensec: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly blksize: number;
  readonly flags: number;
}

/** `struct fuse_entry_out`. */
export interface EntryReply {
  readonly nodeid: bigint;
  readonly generation: bigint;
  readonly entryValid: number;
  readonly attrValid: number;
  readonly attr: Attr;
}

/** `struct fuse_open_out`. */
export interface OpenReply {
  readonly fh: bigint;
  readonly openFlags: number;
}

/** `struct fuse_init_out`, the fields tests look at. */
export interface InitReply {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: bigint;
  readonly maxBackground: number;
  readonly maxWrite: number;
  readonly timeGran: number;
  readonly maxPages: number;
}

/** `struct fuse_dirent`, of READDIRPLUS with its entry. */
export interface Dirent {
  readonly ino: bigint;
  readonly off: bigint;
  readonly type: number;
  readonly name: string;
  readonly entry?: EntryReply;
}

/** `struct fuse_file_lock`. Types as in `fcntl(2)`: 0 read, 1 write, 2 unlock. */
export interface FileLock {
  readonly start: bigint;
  readonly end: bigint;
  readonly type: number;
  readonly pid: number;
}

/** `struct fuse_kstatfs`. */
export interface StatfsReply {
  readonly blocks: number;
  readonly bfree: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
  readonly bsize: number;
  readonly namelen: number;
  readonly frsize: number;
}

/** What SETATTR changes; each field present sets its FATTR bit. */
export interface SetattrRequest {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: { readonly seconds: number; readonly nanoseconds: number } | 'now';
  readonly mtime?: { readonly seconds: number; readonly nanoseconds: number } | 'now';
  readonly fh?: bigint;
}

/** Who asks, and on which queue. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly queue: number;
}

const IN_HEADER_BYTES = 40;
const OUT_HEADER_BYTES = 16;
const ENTRY_OUT_BYTES = 128;
const ATTR_OUT_BYTES = 104;
const OPEN_OUT_BYTES = 16;

/**
 * Appends fields in wire order. The layouts are written out here, apart from those of the engine,
 * so that a mistake in its tables is seen.
 */
export class RequestBytes {
  readonly #bytes: number[] = [];

  u16(value: number): this {
    this.#bytes.push(value & 0xff, (value >>> 8) & 0xff);
    return this;
  }

  u32(value: number): this {
    return this.u16(value & 0xffff).u16(value >>> 16);
  }

  u64(value: bigint | number): this {
    const wide = BigInt.asUintN(64, BigInt(value));
    return this.u32(Number(wide & 0xffffffffn)).u32(Number(wide >> 32n));
  }

  raw(bytes: Uint8Array): this {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }

  /** A NUL-terminated name. */
  name(name: string | Uint8Array): this {
    return this.raw(typeof name === 'string' ? Buffer.from(name) : name).raw(Uint8Array.of(0));
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** A FUSE client: one guest's kernel. */
export class FuseClient {
  readonly #transport: FuseTransport;
  /** Taken for each request; tests may change it. */
  caller: Caller = { uid: 0, gid: 0, pid: 1, queue: 1 };
  #unique = 0n;

  constructor(transport: FuseTransport) {
    this.#transport = transport;
  }

  /** Unique id of the request sent last. */
  get unique(): bigint {
    return this.#unique;
  }

  /**
   * The bytes of a request, with a header that counts them. Takes a new unique id unless one is
   * given.
   */
  encode(opcode: number, nodeid: bigint, args: Uint8Array, unique = (this.#unique += 2n)): Uint8Array {
    const request = new Uint8Array(IN_HEADER_BYTES + args.length);
    const { uid, gid, pid } = this.caller;
    request.set(
      new RequestBytes()
        .u32(request.length)
        .u32(opcode)
        .u64(unique)
        .u64(nodeid)
        .u32(uid)
        .u32(gid)
        .u32(pid)
        .u32(0)
        .bytes(),
    );
    request.set(args, IN_HEADER_BYTES);
    return request;
  }

  /**
   * Sends a request and checks its reply's header.
   * @param room bytes of room for the reply's body.
   * @returns the reply's body.
   * @throws FuseError where the daemon answers with an error; Error where its reply breaks the
   * protocol.
   */
  async call(opcode: number, nodeid: bigint, args: Uint8Array, room: number): Promise<Uint8Array> {
    const request = this.encode(opcode, nodeid, args);
    const unique = this.#unique;
    const reply = await this.#transport.request(this.caller.queue, request, OUT_HEADER_BYTES + room);
    return checkReply(reply, opcode, unique);
  }

  /** Sends a request that has no reply, on the hiprio queue. */
  async send(opcode: number, nodeid: bigint, args: Uint8Array): Promise<void> {
    const reply = await this.#transport.request(0, this.encode(opcode, nodeid, args), 0);
    if (reply.length !== 0) throw new Error(`opcode ${opcode} was answered with ${reply.length} bytes`);
  }

  /** Starts the session. */
  async init(flags = usualInitFlags, minor = 38, major = 7): Promise<InitReply> {
    const fields = new RequestBytes().u32(major).u32(minor).u32(131072);
    fields.u32(Number(flags & 0xffffffffn)).u32(Number(flags >> 32n));
    const body = await this.call(Opcode.INIT, 0n, fields.raw(new Uint8Array(44)).bytes(), 64);
    const view = viewOf(body, 64);
    const low = BigInt(view.getUint32(12, true));
    const high = BigInt(view.getUint32(32, true));
    return {
      major: view.getUint32(0, true),
      minor: view.getUint32(4, true),
      maxReadahead: view.getUint32(8, true),
      flags: low | ((low & InitFlag.INIT_EXT) === 0n ? 0n : high << 32n),
      maxBackground: view.getUint16(16, true),
      maxWrite: view.getUint32(20, true),
      timeGran: view.getUint32(24, true),
      maxPages: view.getUint16(28, true),
    };
  }

  async destroy(): Promise<void> {
    await this.call(Opcode.DESTROY, 0n, new Uint8Array(0), 0);
  }

  async lookup(parent: bigint, name: string | Uint8Array): Promise<EntryReply> {
    return decodeEntry(
      await this.call(Opcode.LOOKUP, parent, new RequestBytes().name(name).bytes(), ENTRY_OUT_BYTES),
    );
  }

  /** Looks a path up, component by component, from the root. */
  async walk(path: string): Promise<EntryReply> {
    let entry: EntryReply | undefined;
    for (const name of path.split('/').filter(Boolean))
      entry = await this.lookup(entry?.nodeid ?? ROOT, name);
    if (entry === undefined) throw new Error('walk: an empty path');
    return entry;
  }

  forget(nodeid: bigint, nlookup = 1n): Promise<void> {
    return this.send(Opcode.FORGET, nodeid, new RequestBytes().u64(nlookup).bytes());
  }

  batchForget(nodes: readonly (readonly [nodeid: bigint, nlookup: bigint])[]): Promise<void> {
    const fields = new RequestBytes().u32(nodes.length).u32(0);
    for (const [nodeid, nlookup] of nodes) fields.u64(nodeid).u64(nlookup);
    return this.send(Opcode.BATCH_FORGET, 0n, fields.bytes());
  }

  async getattr(nodeid: bigint, fh?: bigint): Promise<Attr> {
    const args = new RequestBytes()
      .u32(fh === undefined ? 0 : 1)
      .u32(0)
      .u64(fh ?? 0n);
    return decodeAttr(await this.call(Opcode.GETATTR, nodeid, args.bytes(), ATTR_OUT_BYTES), 16);
  }

  async setattr(nodeid: bigint, changes: SetattrRequest): Promise<Attr> {
    const { mode, uid, gid, size, atime, mtime, fh } = changes;
    const time = (value: SetattrRequest['atime']) =>
      value === 'now' || value === undefined ? undefined : value;
    let valid = 0;
    if (mode !== undefined) valid |= 1 << 0;
    if (uid !== undefined) valid |= 1 << 1;
    if (gid !== undefined) valid |= 1 << 2;
    if (size !== undefined) valid |= 1 << 3;
    if (atime !== undefined) valid |= atime === 'now' ? (1 << 4) | (1 << 7) : 1 << 4;
    if (mtime !== undefined) valid |= mtime === 'now' ? (1 << 5) | (1 << 8) : 1 << 5;
    if (fh !== undefined) valid |= 1 << 6;
    const args = new RequestBytes().u32(valid).u32(0);
    args
      .u64(fh ?? 0n)
      .u64(size ?? 0)
      .u64(0);
    args
      .u64(time(atime)?.seconds ?? 0)
      .u64(time(mtime)?.seconds ?? 0)
      .u64(0);
    args
      .u32(time(atime)?.nanoseconds ?? 0)
      .u32(time(mtime)?.nanoseconds ?? 0)
      .u32(0);
    args.u32(mode ?? 0).u32(0);
    args
      .u32(uid ?? 0)
      .u32(gid ?? 0)
      .u32(0);
    return decodeAttr(await this.call(Opcode.SETATTR, nodeid, args.bytes(), ATTR_OUT_BYTES), 16);
  }

  async readlink(nodeid: bigint): Promise<string> {
    return Buffer.from(await this.call(Opcode.READLINK, nodeid, new Uint8Array(0), 4096)).toString();
  }

  async symlink(parent: bigint, name: string, target: string): Promise<EntryReply> {
    return decodeEntry(
      await this.call(
        Opcode.SYMLINK,
        parent,
        new RequestBytes().name(name).name(target).bytes(),
        ENTRY_OUT_BYTES,
      ),
    );
  }

  async mknod(parent: bigint, name: string, mode: number, rdev = 0, umask = 0): Promise<EntryReply> {
    const args = new RequestBytes().u32(mode).u32(rdev).u32(umask).u32(0).name(name);
    return decodeEntry(await this.call(Opcode.MKNOD, parent, args.bytes(), ENTRY_OUT_BYTES));
  }

  async mkdir(parent: bigint, name: string, mode = 0o755, umask = 0): Promise<EntryReply> {
    const args = new RequestBytes().u32(mode).u32(umask).name(name);
    return decodeEntry(await this.call(Opcode.MKDIR, parent, args.bytes(), ENTRY_OUT_BYTES));
  }

  async unlink(parent: bigint, name: string): Promise<void> {
    await this.call(Opcode.UNLINK, parent, new RequestBytes().name(name).bytes(), 0);
  }

  async rmdir(parent: bigint, name: string): Promise<void> {
    await this.call(Opcode.RMDIR, parent, new RequestBytes().name(name).bytes(), 0);
  }

  /** RENAME, or RENAME2 where there are flags. */
  async rename(parent: bigint, name: string, newParent: bigint, newName: string, flags = 0): Promise<void> {
    const args = new RequestBytes().u64(newParent);
    if (flags !== 0) args.u32(flags).u32(0);
    await this.call(
      flags === 0 ? Opcode.RENAME : Opcode.RENAME2,
      parent,
      args.name(name).name(newName).bytes(),
      0,
    );
  }

  async link(nodeid: bigint, newParent: bigint, newName: string): Promise<EntryReply> {
    const args = new RequestBytes().u64(nodeid).name(newName);
    return decodeEntry(await this.call(Opcode.LINK, newParent, args.bytes(), ENTRY_OUT_BYTES));
  }

  open(nodeid: bigint, flags = 0): Promise<OpenReply> {
    return this.#open(Opcode.OPEN, nodeid, flags);
  }

  opendir(nodeid: bigint): Promise<OpenReply> {
    return this.#open(Opcode.OPENDIR, nodeid, 0);
  }

  async #open(opcode: number, nodeid: bigint, flags: number): Promise<OpenReply> {
    return decodeOpen(
      await this.call(opcode, nodeid, new RequestBytes().u32(flags).u32(0).bytes(), OPEN_OUT_BYTES),
      0,
    );
  }

  /** Creates and opens. `flags` as for `open(2)`; 2 is O_RDWR. */
  async create(
    parent: bigint,
    name: string,
    mode = 0o644,
    flags = 2,
    umask = 0,
  ): Promise<{ entry: EntryReply; open: OpenReply }> {
    const args = new RequestBytes().u32(flags).u32(mode).u32(umask).u32(0).name(name);
    const body = await this.call(Opcode.CREATE, parent, args.bytes(), ENTRY_OUT_BYTES + OPEN_OUT_BYTES);
    return { entry: decodeEntry(body), open: decodeOpen(body, ENTRY_OUT_BYTES) };
  }

  read(nodeid: bigint, fh: bigint, offset: number, size: number): Promise<Uint8Array> {
    const args = new RequestBytes().u64(fh).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
    return this.call(Opcode.READ, nodeid, args.bytes(), size);
  }

  /** @returns the bytes written. */
  async write(nodeid: bigint, fh: bigint, offset: number, data: Uint8Array, writeFlags = 0): Promise<number> {
    const head = new RequestBytes()
      .u64(fh)
      .u64(offset)
      .u32(data.length)
      .u32(writeFlags)
      .u64(0)
      .u32(0)
      .u32(0)
      .bytes();
    const args = new Uint8Array(head.length + data.length);
    args.set(head);
    args.set(data, head.length);
    return viewOf(await this.call(Opcode.WRITE, nodeid, args, 8), 8).getUint32(0, true);
  }

  /** @returns the bytes copied. */
  async copyFileRange(
    from: readonly [nodeid: bigint, fh: bigint, offset: number],
    to: readonly [nodeid: bigint, fh: bigint, offset: number],
    length: number,
  ): Promise<number> {
    const args = new RequestBytes().u64(from[1]).u64(from[2]);
    args.u64(to[0]).u64(to[1]).u64(to[2]).u64(length).u64(0);
    return viewOf(await this.call(Opcode.COPY_FILE_RANGE, from[0], args.bytes(), 8), 8).getUint32(0, true);
  }

  async flush(nodeid: bigint, fh: bigint, lockOwner = 0n): Promise<void> {
    await this.call(Opcode.FLUSH, nodeid, new RequestBytes().u64(fh).u64(0).u64(lockOwner).bytes(), 0);
  }

  async fsync(nodeid: bigint, fh: bigint, dataOnly = false): Promise<void> {
    const args = new RequestBytes()
      .u64(fh)
      .u32(dataOnly ? 1 : 0)
      .u32(0);
    await this.call(Opcode.FSYNC, nodeid, args.bytes(), 0);
  }

  async release(nodeid: bigint, fh: bigint, flags = 0, releaseFlags = 0, lockOwner = 0n): Promise<void> {
    const args = new RequestBytes().u64(fh).u32(flags).u32(releaseFlags).u64(lockOwner);
    await this.call(Opcode.RELEASE, nodeid, args.bytes(), 0);
  }

  async releasedir(nodeid: bigint, fh: bigint): Promise<void> {
    await this.call(Opcode.RELEASEDIR, nodeid, new RequestBytes().u64(fh).u32(0).u32(0).u64(0).bytes(), 0);
  }

  /** One READDIR: the entries from offset `offset` on that fit in `size` bytes. */
  async readdir(nodeid: bigint, fh: bigint, offset = 0n, size = 4096): Promise<Dirent[]> {
    return decodeDirents(await this.#readdir(Opcode.READDIR, nodeid, fh, offset, size), false);
  }

  /** One READDIRPLUS; each entry with a node id counts as a lookup. */
  async readdirplus(nodeid: bigint, fh: bigint, offset = 0n, size = 4096): Promise<Dirent[]> {
    return decodeDirents(await this.#readdir(Opcode.READDIRPLUS, nodeid, fh, offset, size), true);
  }

  #readdir(opcode: number, nodeid: bigint, fh: bigint, offset: bigint, size: number): Promise<Uint8Array> {
    const args = new RequestBytes().u64(fh).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
    return this.call(opcode, nodeid, args.bytes(), size);
  }

  /** All names of a directory, in its order, without `.` and `..`. */
  async list(nodeid: bigint): Promise<string[]> {
    const { fh } = await this.opendir(nodeid);
    const names: string[] = [];
    let offset = 0n;
    for (;;) {
      const entries = await this.readdir(nodeid, fh, offset);
      if (entries.length === 0) break;
      names.push(...entries.map((entry) => entry.name));
      offset = entries.at(-1)!.off;
    }
    await this.releasedir(nodeid, fh);
    return names.filter((name) => name !== '.' && name !== '..');
  }

  async statfs(nodeid = ROOT): Promise<StatfsReply> {
    const view = viewOf(await this.call(Opcode.STATFS, nodeid, new Uint8Array(0), 80), 80);
    const u64 = (at: number) => Number(view.getBigUint64(at, true));
    return {
      blocks: u64(0),
      bfree: u64(8),
      bavail: u64(16),
      files: u64(24),
      ffree: u64(32),
      bsize: view.getUint32(40, true),
      namelen: view.getUint32(44, true),
      frsize: view.getUint32(48, true),
    };
  }

  async access(nodeid: bigint, mask: number): Promise<void> {
    await this.call(Opcode.ACCESS, nodeid, new RequestBytes().u32(mask).u32(0).bytes(), 0);
  }

  async setxattr(nodeid: bigint, name: string, value: Uint8Array, flags = 0): Promise<void> {
    const args = new RequestBytes().u32(value.length).u32(flags).name(name).raw(value);
    await this.call(Opcode.SETXATTR, nodeid, args.bytes(), 0);
  }

  getxattr(nodeid: bigint, name: string, size = 65536): Promise<Uint8Array> {
    return this.call(Opcode.GETXATTR, nodeid, new RequestBytes().u32(size).u32(0).name(name).bytes(), size);
  }

  async listxattr(nodeid: bigint, size = 65536): Promise<string[]> {
    const body = await this.call(Opcode.LISTXATTR, nodeid, new RequestBytes().u32(size).u32(0).bytes(), size);
    return Buffer.from(body).toString().split('\0').filter(Boolean);
  }

  async removexattr(nodeid: bigint, name: string): Promise<void> {
    await this.call(Opcode.REMOVEXATTR, nodeid, new RequestBytes().name(name).bytes(), 0);
  }

  async getlk(nodeid: bigint, fh: bigint, owner: bigint, lock: FileLock): Promise<FileLock> {
    const view = viewOf(await this.#lock(Opcode.GETLK, nodeid, fh, owner, lock, 0, 24), 24);
    return {
      start: view.getBigUint64(0, true),
      end: view.getBigUint64(8, true),
      type: view.getUint32(16, true),
      pid: view.getUint32(20, true),
    };
  }

  /** SETLK, or SETLKW with `wait`; `flags` 1 is flock. */
  async setlk(
    nodeid: bigint,
    fh: bigint,
    owner: bigint,
    lock: FileLock,
    wait = false,
    flags = 0,
  ): Promise<void> {
    await this.#lock(wait ? Opcode.SETLKW : Opcode.SETLK, nodeid, fh, owner, lock, flags, 0);
  }

  #lock(
    opcode: number,
    nodeid: bigint,
    fh: bigint,
    owner: bigint,
    lock: FileLock,
    flags: number,
    room: number,
  ) {
    const args = new RequestBytes()
      .u64(fh)
      .u64(owner)
      .u64(lock.start)
      .u64(lock.end)
      .u32(lock.type)
      .u32(lock.pid);
    return this.call(opcode, nodeid, args.u32(flags).u32(0).bytes(), room);
  }

  interrupt(unique: bigint): Promise<void> {
    return this.send(Opcode.INTERRUPT, 0n, new RequestBytes().u64(unique).bytes());
  }

  async fallocate(nodeid: bigint, fh: bigint, mode: number, offset: number, length: number): Promise<void> {
    const args = new RequestBytes().u64(fh).u64(offset).u64(length).u32(mode).u32(0);
    await this.call(Opcode.FALLOCATE, nodeid, args.bytes(), 0);
  }

  async lseek(nodeid: bigint, fh: bigint, offset: number, whence: number): Promise<number> {
    const args = new RequestBytes().u64(fh).u64(offset).u32(whence).u32(0);
    return Number(viewOf(await this.call(Opcode.LSEEK, nodeid, args.bytes(), 8), 8).getBigUint64(0, true));
  }
}

/**
 * Checks a reply as Linux does (`fs/fuse/virtio_fs.c`, `virtio_fs_requests_done_work`).
 * @returns its body.
 */
export function checkReply(reply: Uint8Array, opcode: number, unique: bigint): Uint8Array {
  const view = viewOf(reply, OUT_HEADER_BYTES);
  const length = view.getUint32(0, true);
  const error = view.getInt32(4, true);
  if (length !== reply.length)
    throw new Error(`opcode ${opcode}: len ${length}, but ${reply.length} bytes used`);
  if (view.getBigUint64(8, true) !== unique) throw new Error(`opcode ${opcode}: reply to another request`);
  if (error !== 0) throw new FuseError(opcode, -error);
  return reply.subarray(OUT_HEADER_BYTES);
}

function decodeAttr(body: Uint8Array, at: number): Attr {
  const view = viewOf(body, at + 88);
  const u32 = (offset: number) => view.getUint32(at + offset, true);
  const u64 = (offset: number) => Number(view.getBigUint64(at + offset, true));
  const i64 = (offset: number) => Number(view.getBigInt64(at + offset, true));
  return {
    ino: view.getBigUint64(at, true),
    size: u64(8),
    blocks: u64(16),
    atime: i64(24),
    mtime: i64(32),
    ctime: i64(40),
    atimensec: u32(48),
    mtimensec: u32(52),
    ctimensec: u32(56),
    mode: u32(60),
    nlink: u32(64),
    uid: u32(68),
    gid: u32(72),
    rdev: u32(76),
    blksize: u32(80),
    flags: u32(84),
  };
}

function decodeEntry(body: Uint8Array, at = 0): EntryReply {
  const view = viewOf(body, at + ENTRY_OUT_BYTES);
  return {
    nodeid: view.getBigUint64(at, true),
    generation: view.getBigUint64(at + 8, true),
    entryValid: Number(view.getBigUint64(at + 16, true)) + view.getUint32(at + 32, true) / 1e9,
    attrValid: Number(view.getBigUint64(at + 24, true)) + view.getUint32(at + 36, true) / 1e9,
    attr: decodeAttr(body, at + 40),
  };
}

function decodeOpen(body: Uint8Array, at: number): OpenReply {
  const view = viewOf(body, at + OPEN_OUT_BYTES);
  return { fh: view.getBigUint64(at, true), openFlags: view.getUint32(at + 8, true) };
}

function decodeDirents(body: Uint8Array, plus: boolean): Dirent[] {
  const entries: Dirent[] = [];
  const skip = plus ? ENTRY_OUT_BYTES : 0;
  for (let at = 0; at < body.length;) {
    const view = viewOf(body, at + skip + 24);
    const length = view.getUint32(at + skip + 16, true);
    const start = at + skip + 24;
    if (start + length > body.length) throw new Error('a directory entry runs over the end of the reply');
    entries.push({
      ino: view.getBigUint64(at + skip, true),
      off: view.getBigUint64(at + skip + 8, true),
      type: view.getUint32(at + skip + 20, true),
      name: Buffer.from(body.subarray(start, start + length)).toString(),
      ...(plus ? { entry: decodeEntry(body, at) } : {}),
    });
    at += skip + ((24 + length + 7) & ~7);
  }
  return entries;
}

function viewOf(bytes: Uint8Array, least: number): DataView {
  if (bytes.length < least) throw new Error(`a reply of ${bytes.length} bytes, not at least ${least}`);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
