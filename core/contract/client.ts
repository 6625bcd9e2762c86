import { setImmediate as nextTurn } from 'node:timers/promises';
import { decodeName, Errno, FsError } from '../backend/index.js';
import * as abi from '../fuse/wire/abi.js';
import * as wire from '../fuse/wire/structures.js';
import { OFFSET_MAX } from '../state/index.js';
import { ContractFailure, NotSupported } from './expect.js';
import { type Dispatcher, LocalTransport } from './local-transport.js';
import type { NamePattern } from './name-pattern.js';
import {
  Fields,
  type Found,
  listed,
  type Listed,
  opened,
  type OpenFile,
  stat,
  type Stat,
  text,
  view,
} from './replies.js';

export type { Found, Listed, OpenFile, Stat } from './replies.js';

const { Opcode } = abi;

/** Node id of the root (FUSE_ROOT_ID). */
export const ROOT = 1n;

/** Changes to a file's attributes. Times are in nanoseconds. */
export interface Changes {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: bigint | 'now';
  readonly mtime?: bigint | 'now';
  /** The open file through which the change is made, if any. */
  readonly file?: OpenFile;
}

/** The user who sends a request. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
}

/** What a client does not say or write as it likes. */
export interface ClientOptions {
  readonly names?: NamePattern | undefined;
  /** The only content that is written. */
  readonly content?: Uint8Array | undefined;
}

const SECOND = 1_000_000_000n;
const HEAD = wire.fuse_in_header.bytes;
const NOTHING = new Uint8Array(0);

/** After so many requests timers and other input get their turn: most backends answer at once. */
const REQUESTS_A_TURN = 64;

const OPERATIONS: ReadonlyMap<number, string> = new Map(
  Object.entries(Opcode).map(([name, opcode]) => [opcode, name]),
);

function lockRequest(fh: bigint, type: number, owner: bigint): Uint8Array {
  const { fuse_lk_in: at, fuse_file_lock: lock } = wire;
  return new Fields(at.bytes)
    .u64(at.fh, fh)
    .u64(at.owner, owner)
    .u64(at.lk + lock.end, OFFSET_MAX)
    .u32(at.lk + lock.type, type).bytes;
}

/**
 * A small replacement for a guest's kernel: it sends FUSE requests to a session and reads the
 * replies, as Linux would.
 */
export class Client {
  readonly #transport: LocalTransport;
  readonly #lookups = new Map<bigint, bigint>();
  readonly #names: NamePattern | undefined;
  readonly #content: Uint8Array | undefined;
  #noted: { readonly directory: bigint; readonly names: Set<string> } | undefined;
  #unique = 0n;
  #end: { readonly at: number; readonly milliseconds: number } | undefined;
  caller: Caller = { uid: 0, gid: 0 };
  /** The last request that failed, for people, and its error. */
  failure: { readonly request: string; readonly error: FsError } | undefined;

  constructor(session: Dispatcher, { names, content }: ClientOptions = {}) {
    this.#transport = new LocalTransport(session);
    this.#names = names;
    this.#content = content;
  }

  /** From then on no request is sent but FORGET: a rule that does not end must not go on. */
  endAfter(milliseconds: number): void {
    this.#end = { at: performance.now() + milliseconds, milliseconds };
  }

  /** From then on the actual names that are made in a directory are noted. */
  note(directory: bigint, names: Set<string>): void {
    this.#noted = { directory, names };
  }

  /** Starts the session. */
  async init(): Promise<void> {
    const { fuse_init_in: at } = wire;
    const { InitFlag: flag } = abi;
    const flags =
      flag.ASYNC_READ |
      flag.POSIX_LOCKS |
      flag.ATOMIC_O_TRUNC |
      flag.BIG_WRITES |
      flag.FLOCK_LOCKS |
      flag.DO_READDIRPLUS |
      flag.READDIRPLUS_AUTO |
      flag.PARALLEL_DIROPS |
      flag.MAX_PAGES |
      flag.INIT_EXT;
    const fields = new Fields(at.bytes)
      .u32(at.major, abi.KERNEL_VERSION)
      .u32(at.minor, abi.KERNEL_MINOR_VERSION);
    fields.u32(at.max_readahead, 131_072).u32(at.flags, flags);
    await this.#call(Opcode.INIT, 0n, wire.fuse_init_out.bytes, fields.bytes);
  }

  /** Sends FORGETs for all lookups of all nodes. */
  async forgetAll(): Promise<void> {
    const nodes = [...this.#lookups];
    this.#lookups.clear();
    const at = wire.fuse_forget_in;
    for (const [id, count] of nodes) {
      const nlookup = new Fields(at.bytes).u64(at.nlookup, count).bytes;
      await this.#exchange(Opcode.FORGET, id, -1, [nlookup], NOTHING);
    }
  }

  close(): void {
    this.#transport.close();
  }

  /**
   * Sends several requests together, so that the session knows how many follow each. Each call
   * sends one.
   */
  together<T>(calls: readonly (() => Promise<T>)[]): Promise<T[]> {
    return this.#transport.together(calls);
  }

  /**
   * Sends a request, and right behind it that the guest gives it up. The call must send one before
   * it returns. @returns what the request would have given.
   */
  async giveUp<T>(call: () => Promise<T>): Promise<T> {
    const asked = call();
    const at = wire.fuse_interrupt_in;
    const fields = new Fields(at.bytes).u64(at.unique, this.#unique);
    const [result] = await Promise.all([
      asked,
      this.#exchange(Opcode.INTERRUPT, 0n, -1, [fields.bytes], NOTHING),
    ]);
    return result;
  }

  lookup(parent: bigint, name: string): Promise<Found> {
    return this.#entry(Opcode.LOOKUP, parent, this.#known(name));
  }

  /** Looks up a name. @returns undefined if it is missing. */
  async find(parent: bigint, name: string): Promise<Found | undefined> {
    try {
      return await this.lookup(parent, name);
    } catch (error) {
      if (error instanceof FsError && error.errno === Errno.ENOENT) return undefined;
      throw error;
    }
  }

  async stat(id: bigint, file?: OpenFile): Promise<Stat> {
    const at = wire.fuse_getattr_in;
    const fields = new Fields(at.bytes);
    if (file !== undefined) fields.u32(at.getattr_flags, abi.GETATTR_FH).u64(at.fh, file.fh);
    const reply = await this.#call(Opcode.GETATTR, id, wire.fuse_attr_out.bytes, fields.bytes);
    return stat(reply, wire.fuse_attr_out.attr);
  }

  async change(id: bigint, changes: Changes): Promise<Stat> {
    const at = wire.fuse_setattr_in;
    const { mode, uid, gid, size, atime, mtime, file } = changes;
    const fields = new Fields(at.bytes);
    let valid = 0;
    if (mode !== undefined) valid |= abi.FATTR_MODE;
    if (uid !== undefined) valid |= abi.FATTR_UID;
    if (gid !== undefined) valid |= abi.FATTR_GID;
    if (size !== undefined) valid |= abi.FATTR_SIZE;
    if (file !== undefined) valid |= abi.FATTR_FH;
    if (atime !== undefined) valid |= abi.FATTR_ATIME | (atime === 'now' ? abi.FATTR_ATIME_NOW : 0);
    if (mtime !== undefined) valid |= abi.FATTR_MTIME | (mtime === 'now' ? abi.FATTR_MTIME_NOW : 0);
    fields
      .u32(at.valid, valid)
      .u64(at.fh, file?.fh ?? 0n)
      .u64(at.size, size ?? 0);
    fields
      .u32(at.mode, mode ?? 0)
      .u32(at.uid, uid ?? 0)
      .u32(at.gid, gid ?? 0);
    for (const [time, seconds, nanoseconds] of [
      [atime, at.atime, at.atimensec],
      [mtime, at.mtime, at.mtimensec],
    ] as const) {
      if (time === undefined || time === 'now') continue;
      const rest = BigInt.asUintN(64, ((time % SECOND) + SECOND) % SECOND);
      fields.u64(seconds, (time - rest) / SECOND).u32(nanoseconds, Number(rest));
    }
    const reply = await this.#call(Opcode.SETATTR, id, wire.fuse_attr_out.bytes, fields.bytes);
    return stat(reply, wire.fuse_attr_out.attr);
  }

  async readlink(id: bigint): Promise<string> {
    return decodeName(await this.#call(Opcode.READLINK, id, 4096));
  }

  mknod(parent: bigint, name: string, mode: number, rdev = 0): Promise<Found> {
    const at = wire.fuse_mknod_in;
    const fields = new Fields(at.bytes).u32(at.mode, mode).u32(at.rdev, rdev);
    return this.#make(Opcode.MKNOD, parent, this.#file(name), [fields.bytes]);
  }

  mkdir(parent: bigint, name: string, mode = 0o755): Promise<Found> {
    const at = wire.fuse_mkdir_in;
    const called = this.#names?.directory(name) ?? name;
    return this.#make(Opcode.MKDIR, parent, called, [new Fields(at.bytes).u32(at.mode, mode).bytes]);
  }

  symlink(parent: bigint, name: string, target: string): Promise<Found> {
    return this.#make(Opcode.SYMLINK, parent, this.#file(name), [], text(target));
  }

  link(id: bigint, parent: bigint, name: string): Promise<Found> {
    const at = wire.fuse_link_in;
    const fields = new Fields(at.bytes).u64(at.oldnodeid, id);
    return this.#make(Opcode.LINK, parent, this.#file(name), [fields.bytes]);
  }

  async unlink(parent: bigint, name: string): Promise<void> {
    await this.#call(Opcode.UNLINK, parent, 0, this.#known(name));
  }

  async rmdir(parent: bigint, name: string): Promise<void> {
    await this.#call(Opcode.RMDIR, parent, 0, this.#known(name));
  }

  async rename(parent: bigint, name: string, newParent: bigint, newName: string, flags = 0): Promise<void> {
    const at = wire.fuse_rename2_in;
    const fields = new Fields(at.bytes).u64(at.newdir, newParent).u32(at.flags, flags);
    const [from, to] = [this.#known(name), this.#names?.renamed(name, newName) ?? newName];
    await this.#call(Opcode.RENAME2, parent, 0, fields.bytes, from, text(to));
    this.#made(newParent, to);
  }

  async open(id: bigint, flags = 0): Promise<OpenFile> {
    const at = wire.fuse_open_in;
    const fields = new Fields(at.bytes).u32(at.flags, flags);
    return opened(id, await this.#call(Opcode.OPEN, id, wire.fuse_open_out.bytes, fields.bytes), 0);
  }

  async create(
    parent: bigint,
    name: string,
    mode: number,
    flags: number,
  ): Promise<Found & { file: OpenFile }> {
    const at = wire.fuse_create_in;
    const fields = new Fields(at.bytes).u32(at.flags, flags).u32(at.mode, mode);
    const room = wire.fuse_entry_out.bytes + wire.fuse_open_out.bytes;
    const called = this.#file(name);
    const reply = await this.#call(Opcode.CREATE, parent, room, fields.bytes, text(called));
    this.#made(parent, called);
    const found = this.#found(reply, 0);
    return { ...found, file: opened(found.id, reply, wire.fuse_entry_out.bytes) };
  }

  async tmpfile(parent: bigint, mode: number, flags: number): Promise<Found & { file: OpenFile }> {
    const at = wire.fuse_create_in;
    const fields = new Fields(at.bytes).u32(at.flags, flags).u32(at.mode, mode);
    const room = wire.fuse_entry_out.bytes + wire.fuse_open_out.bytes;
    const reply = await this.#call(Opcode.TMPFILE, parent, room, fields.bytes, text('/'));
    const found = this.#found(reply, 0);
    return { ...found, file: opened(found.id, reply, wire.fuse_entry_out.bytes) };
  }

  /** Reads up to 1 MiB. */
  read({ id, fh }: OpenFile, offset: number, size: number): Promise<Uint8Array> {
    const at = wire.fuse_read_in;
    const fields = new Fields(at.bytes).u64(at.fh, fh).u64(at.offset, offset).u32(at.size, size);
    return this.#call(Opcode.READ, id, size, fields.bytes);
  }

  /**
   * Writes up to 1 MiB. @returns the bytes written.
   * @throws NotSupported for what is not a part of the one content that the backend takes.
   */
  async write({ id, fh }: OpenFile, offset: number, data: Uint8Array): Promise<number> {
    const given = this.#content?.subarray(offset, offset + data.length);
    if (given !== undefined && Buffer.compare(given, data) !== 0)
      throw new NotSupported('it writes other content than was given');
    const at = wire.fuse_write_in;
    const fields = new Fields(at.bytes).u64(at.fh, fh).u64(at.offset, offset).u32(at.size, data.length);
    const reply = await this.#send(Opcode.WRITE, id, wire.fuse_write_out.bytes, [fields.bytes], data);
    return view(reply).getUint32(wire.fuse_write_out.size, true);
  }

  /** Sends FLUSH and RELEASE, as Linux does when the last descriptor of a file is closed. */
  async closeFile({ id, fh }: OpenFile): Promise<void> {
    const flush = wire.fuse_flush_in;
    await this.#call(Opcode.FLUSH, id, 0, new Fields(flush.bytes).u64(flush.fh, fh).bytes);
    const release = wire.fuse_release_in;
    await this.#call(Opcode.RELEASE, id, 0, new Fields(release.bytes).u64(release.fh, fh).bytes);
  }

  async fsync({ id, fh }: OpenFile, dataOnly: boolean): Promise<void> {
    const at = wire.fuse_fsync_in;
    const fields = new Fields(at.bytes)
      .u64(at.fh, fh)
      .u32(at.fsync_flags, dataOnly ? abi.FSYNC_FDATASYNC : 0);
    await this.#call(Opcode.FSYNC, id, 0, fields.bytes);
  }

  /**
   * Gets, changes or gives up a record lock on a whole file, without waiting.
   * @param type one of LockType.
   */
  async lock({ id, fh }: OpenFile, type: number, owner: bigint): Promise<void> {
    await this.#call(Opcode.SETLK, id, 0, lockRequest(fh, type, owner));
  }

  /** The type of a lock that would be in the way of one on the whole file, or UNLOCK. */
  async lockInTheWay({ id, fh }: OpenFile, type: number, owner: bigint): Promise<number> {
    const reply = await this.#call(Opcode.GETLK, id, wire.fuse_lk_out.bytes, lockRequest(fh, type, owner));
    return view(reply).getUint32(wire.fuse_lk_out.lk + wire.fuse_file_lock.type, true);
  }

  async opendir(id: bigint): Promise<OpenFile> {
    const at = wire.fuse_open_in;
    const fields = new Fields(at.bytes);
    return opened(id, await this.#call(Opcode.OPENDIR, id, wire.fuse_open_out.bytes, fields.bytes), 0);
  }

  async closedir({ id, fh }: OpenFile): Promise<void> {
    const at = wire.fuse_release_in;
    await this.#call(Opcode.RELEASEDIR, id, 0, new Fields(at.bytes).u64(at.fh, fh).bytes);
  }

  async fsyncdir({ id, fh }: OpenFile): Promise<void> {
    const at = wire.fuse_fsync_in;
    await this.#call(Opcode.FSYNCDIR, id, 0, new Fields(at.bytes).u64(at.fh, fh).bytes);
  }

  /** Reads the entries from a cookie on that fit into `size` bytes; none at the end. */
  async readdir({ id, fh }: OpenFile, cookie: bigint, size = 4096): Promise<Listed[]> {
    const at = wire.fuse_read_in;
    const fields = new Fields(at.bytes).u64(at.fh, fh).u64(at.offset, cookie).u32(at.size, size);
    const reply = await this.#call(Opcode.READDIR, id, size, fields.bytes);
    const names = this.#names;
    const entries = listed(reply);
    if (names === undefined) return entries;
    return entries.map((entry) => ({ ...entry, name: names.listed(entry.name) }));
  }

  /** The actual name of a file that is made. */
  #file(name: string): string {
    return this.#names?.file(name) ?? name;
  }

  #made(parent: bigint, name: string): void {
    if (parent === this.#noted?.directory) this.#noted.names.add(name);
  }

  /** The bytes of the name of what may be there. */
  #known(name: string): Uint8Array {
    return text(this.#names?.known(name) ?? name);
  }

  /** Figures of the file system. */
  async statfs(
    id: bigint,
  ): Promise<Record<'blocks' | 'bfree' | 'bavail' | 'files' | 'ffree' | 'bsize' | 'namelen', number>> {
    const at = wire.fuse_kstatfs;
    const data = view(await this.#call(Opcode.STATFS, id, wire.fuse_statfs_out.bytes));
    const wide = (offset: number): number => Number(data.getBigUint64(offset, true));
    return {
      blocks: wide(at.blocks),
      bfree: wide(at.bfree),
      bavail: wide(at.bavail),
      files: wide(at.files),
      ffree: wide(at.ffree),
      bsize: data.getUint32(at.bsize, true),
      namelen: data.getUint32(at.namelen, true),
    };
  }

  async syncfs(): Promise<void> {
    await this.#call(Opcode.SYNCFS, ROOT, 0, new Uint8Array(wire.fuse_syncfs_in.bytes));
  }

  getxattr(id: bigint, name: string, size = 65_536): Promise<Uint8Array> {
    const at = wire.fuse_getxattr_in;
    return this.#call(Opcode.GETXATTR, id, size, new Fields(at.bytes).u32(at.size, size).bytes, text(name));
  }

  async listxattr(id: bigint): Promise<string[]> {
    const at = wire.fuse_getxattr_in;
    const reply = await this.#call(
      Opcode.LISTXATTR,
      id,
      65_536,
      new Fields(at.bytes).u32(at.size, 65_536).bytes,
    );
    const names = decodeName(reply).split('\0');
    names.pop();
    return names;
  }

  async setxattr(id: bigint, name: string, value: Uint8Array, flags = 0): Promise<void> {
    const at = wire.fuse_setxattr_in;
    const head = new Fields(wire.SETXATTR_IN_COMPAT).u32(at.size, value.length).u32(at.flags, flags);
    await this.#call(Opcode.SETXATTR, id, 0, head.bytes, text(name), value);
  }

  async removexattr(id: bigint, name: string): Promise<void> {
    await this.#call(Opcode.REMOVEXATTR, id, 0, text(name));
  }

  async fallocate({ id, fh }: OpenFile, mode: number, offset: number, length: number): Promise<void> {
    const at = wire.fuse_fallocate_in;
    const fields = new Fields(at.bytes)
      .u64(at.fh, fh)
      .u64(at.offset, offset)
      .u64(at.length, length)
      .u32(at.mode, mode);
    await this.#call(Opcode.FALLOCATE, id, 0, fields.bytes);
  }

  async lseek({ id, fh }: OpenFile, offset: number, whence: 'data' | 'hole'): Promise<number> {
    const at = wire.fuse_lseek_in;
    const fields = new Fields(at.bytes).u64(at.fh, fh).u64(at.offset, offset);
    fields.u32(at.whence, whence === 'data' ? abi.SEEK_DATA : abi.SEEK_HOLE);
    const reply = await this.#call(Opcode.LSEEK, id, wire.fuse_lseek_out.bytes, fields.bytes);
    return Number(view(reply).getBigUint64(0, true));
  }

  async copyRange(
    from: OpenFile,
    offset: number,
    to: OpenFile,
    toOffset: number,
    length: number,
  ): Promise<number> {
    const at = wire.fuse_copy_file_range_in;
    const fields = new Fields(at.bytes)
      .u64(at.fh_in, from.fh)
      .u64(at.off_in, offset)
      .u64(at.nodeid_out, to.id);
    fields.u64(at.fh_out, to.fh).u64(at.off_out, toOffset).u64(at.len, length);
    const reply = await this.#call(Opcode.COPY_FILE_RANGE, from.id, wire.fuse_write_out.bytes, fields.bytes);
    return view(reply).getUint32(0, true);
  }

  /** Makes a name, whose bytes come between the others. */
  async #make(
    opcode: number,
    parent: bigint,
    name: string,
    before: readonly Uint8Array[],
    ...after: Uint8Array[]
  ): Promise<Found> {
    const found = await this.#entry(opcode, parent, ...before, text(name), ...after);
    this.#made(parent, name);
    return found;
  }

  async #entry(opcode: number, id: bigint, ...parts: Uint8Array[]): Promise<Found> {
    return this.#found(await this.#call(opcode, id, wire.fuse_entry_out.bytes, ...parts), 0);
  }

  #found(reply: Uint8Array, from: number): Found {
    const id = view(reply).getBigUint64(from + wire.fuse_entry_out.nodeid, true);
    if (id === 0n) throw FsError.of('ENOENT');
    this.#lookups.set(id, (this.#lookups.get(id) ?? 0n) + 1n);
    return { id, stat: stat(reply, from + wire.fuse_entry_out.attr) };
  }

  #call(opcode: number, id: bigint, room: number, ...parts: Uint8Array[]): Promise<Uint8Array> {
    return this.#send(opcode, id, room, parts, NOTHING);
  }

  async #send(
    opcode: number,
    id: bigint,
    room: number,
    parts: readonly Uint8Array[],
    data: Uint8Array,
  ): Promise<Uint8Array> {
    const end = this.#end;
    if (end !== undefined && performance.now() > end.at)
      throw new ContractFailure('the case', 'an end', `none within ${end.milliseconds / 1000} s`);
    try {
      return await this.#exchange(opcode, id, room, parts, data);
    } catch (error) {
      if (error instanceof FsError) this.failure = { request: describe(opcode, id, parts), error };
      throw error;
    } finally {
      if (this.#unique % BigInt(2 * REQUESTS_A_TURN) === 0n) await nextTurn();
    }
  }

  /**
   * Sends a request.
   * @param room bytes that the reply may have beyond its header; -1 for a request without a reply.
   * @returns the reply's body.
   * @throws FsError for an error reply.
   */
  async #exchange(
    opcode: number,
    id: bigint,
    room: number,
    parts: readonly Uint8Array[],
    data: Uint8Array,
  ): Promise<Uint8Array> {
    const at = wire.fuse_in_header;
    const head = parts.reduce((sum, part) => sum + part.length, HEAD);
    const unique = (this.#unique += 2n);
    const fields = new Fields(head + data.length);
    fields
      .u32(at.len, head + data.length)
      .u32(at.opcode, opcode)
      .u64(at.unique, unique)
      .u64(at.nodeid, id);
    fields.u32(at.uid, this.caller.uid).u32(at.gid, this.caller.gid).u32(at.pid, 1);
    let next = HEAD;
    for (const part of parts) {
      fields.bytes.set(part, next);
      next += part.length;
    }
    fields.bytes.set(data, next);
    const out = wire.fuse_out_header;
    const reply = await this.#transport.send(fields.bytes, head, room < 0 ? 0 : out.bytes + room);
    if (room < 0) return reply;
    if (reply.length < out.bytes) throw new Error(`the engine did not answer opcode ${opcode}`);
    const error = view(reply).getInt32(out.error, true);
    if (error !== 0) throw FsError.of(-error);
    return reply.subarray(out.bytes);
  }
}

/** A request for people. Its names are the parts that end with a NUL. */
function describe(opcode: number, id: bigint, parts: readonly Uint8Array[]): string {
  const names = parts
    .filter((part) => part.at(-1) === 0 && part.indexOf(0) === part.length - 1)
    .map((part) => ` ${JSON.stringify(decodeName(part.subarray(0, -1)))}`);
  const where = names.length > 0 ? names.join(' to') : id === ROOT ? ' of the root' : ` of node ${id}`;
  return `${OPERATIONS.get(opcode) ?? opcode}${where}`;
}
