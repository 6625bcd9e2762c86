import { performance } from 'node:perf_hooks';
import { Errno } from '../backend/index.js';
import { errorName } from '../monitoring/names.js';
import { LocalTransport } from '../contract/local-transport.js';
import { Session } from '../fuse/index.js';
import * as abi from '../fuse/wire/abi.js';
import * as wire from '../fuse/wire/structures.js';
import type { Export } from '../state/index.js';
import { listedNodes, type TracedRequest } from './reader.js';

const { Opcode } = abi;
const HEADER = wire.fuse_in_header.bytes;
const REPLY_HEADER = wire.fuse_out_header.bytes;
const ROOT = 1n;
/** Longer requests and replies are not replayed, in bytes. */
const MOST_BYTES = 2 ** 20 + 4096;
const TYPE_MASK = 0o170000;
const REGULAR = 0o100000;

/** Offsets of further node ids in requests, from their begin. */
const NODES: Readonly<Record<number, number>> = {
  [Opcode.RENAME]: HEADER + wire.fuse_rename_in.newdir,
  [Opcode.RENAME2]: HEADER + wire.fuse_rename2_in.newdir,
  [Opcode.LINK]: HEADER + wire.fuse_link_in.oldnodeid,
  [Opcode.COPY_FILE_RANGE]: HEADER + wire.fuse_copy_file_range_in.nodeid_out,
  [Opcode.COPY_FILE_RANGE_64]: HEADER + wire.fuse_copy_file_range_in.nodeid_out,
};

const copies = [wire.fuse_copy_file_range_in.fh_in, wire.fuse_copy_file_range_in.fh_out];

/** Offsets of `fh`s in the arguments. */
const HANDLES: Readonly<Record<number, readonly number[]>> = {
  [Opcode.READ]: [wire.fuse_read_in.fh],
  [Opcode.WRITE]: [wire.fuse_write_in.fh],
  [Opcode.READDIR]: [wire.fuse_read_in.fh],
  [Opcode.READDIRPLUS]: [wire.fuse_read_in.fh],
  [Opcode.RELEASE]: [wire.fuse_release_in.fh],
  [Opcode.RELEASEDIR]: [wire.fuse_release_in.fh],
  [Opcode.FLUSH]: [wire.fuse_flush_in.fh],
  [Opcode.FSYNC]: [wire.fuse_fsync_in.fh],
  [Opcode.FSYNCDIR]: [wire.fuse_fsync_in.fh],
  [Opcode.GETLK]: [wire.fuse_lk_in.fh],
  [Opcode.SETLK]: [wire.fuse_lk_in.fh],
  [Opcode.SETLKW]: [wire.fuse_lk_in.fh],
  [Opcode.IOCTL]: [wire.fuse_ioctl_in.fh],
  [Opcode.FALLOCATE]: [wire.fuse_fallocate_in.fh],
  [Opcode.LSEEK]: [wire.fuse_lseek_in.fh],
  [Opcode.COPY_FILE_RANGE]: copies,
  [Opcode.COPY_FILE_RANGE_64]: copies,
};

/** Those that have an `fh` only if a bit of another word says so. */
const OPTIONAL_HANDLES: Readonly<
  Record<number, { readonly fh: number; readonly word: number; readonly bit: number }>
> = {
  [Opcode.GETATTR]: {
    fh: wire.fuse_getattr_in.fh,
    word: wire.fuse_getattr_in.getattr_flags,
    bit: abi.GETATTR_FH,
  },
  [Opcode.STATX]: { fh: wire.fuse_statx_in.fh, word: wire.fuse_statx_in.getattr_flags, bit: abi.GETATTR_FH },
  [Opcode.SETATTR]: { fh: wire.fuse_setattr_in.fh, word: wire.fuse_setattr_in.valid, bit: abi.FATTR_FH },
};

/** Replies that begin with the node of a name. */
const ENTRIES = new Set<number>([
  Opcode.LOOKUP,
  Opcode.MKNOD,
  Opcode.MKDIR,
  Opcode.SYMLINK,
  Opcode.LINK,
  Opcode.CREATE,
  Opcode.TMPFILE,
]);

/** Where a reply has an `fh`. */
const OPENED: Readonly<Record<number, number>> = {
  [Opcode.OPEN]: wire.fuse_open_out.fh,
  [Opcode.OPENDIR]: wire.fuse_open_out.fh,
  [Opcode.CREATE]: wire.fuse_entry_out.bytes + wire.fuse_open_out.fh,
  [Opcode.TMPFILE]: wire.fuse_entry_out.bytes + wire.fuse_open_out.fh,
};

/** Replies of so many bytes of content are compared by their length. */
const CONTENT = new Set<number>([Opcode.READ, Opcode.READLINK, Opcode.GETXATTR, Opcode.LISTXATTR]);

/** What became of a request that was served again. */
export type Outcome =
  | { readonly kind: 'same' | 'skipped' }
  /** `was` and `is` say what differs. */
  | { readonly kind: 'different'; readonly was: string; readonly is: string };

/** How long requests of one opcode took, then and now, in microseconds. */
export interface Times {
  count: number;
  recorded: number;
  replayed: number;
}

interface ReplayedGuest {
  readonly session: Session;
  readonly transport: LocalTransport;
  readonly handles: Map<bigint, bigint>;
  readonly waiting: Set<Promise<unknown>>;
}

/**
 * Serves the requests of a capture once more, by another export. Numbers of nodes and open files
 * are those that this export gives: what replies told then and tell now is put together. Requests
 * come one after the other; only locks that are waited for let others pass.
 */
export class Replay {
  readonly #export: Export;
  readonly #guests = new Map<number, ReplayedGuest>();
  readonly #nodes = new Map<bigint, bigint>([[ROOT, ROOT]]);
  /** By opcode. */
  readonly times = new Map<number, Times>();

  constructor(one: Export) {
    this.#export = one;
  }

  /** Serves a request as it was, with the nodes and files of now. */
  async serve(one: TracedRequest): Promise<Outcome> {
    const { opcode, recorded, guest: number } = one;
    const isWhole = opcode === Opcode.WRITE || recorded.request.length === recorded.length;
    if (!isWhole || recorded.length > MOST_BYTES || recorded.room > MOST_BYTES) return { kind: 'skipped' };
    if (opcode === Opcode.NOTIFY_REPLY || opcode === Opcode.BATCH_FORGET) return { kind: 'skipped' };
    const guest = this.#guests.get(number) ?? (await this.#connect(number, one));
    const request = new Uint8Array(recorded.length);
    request.set(recorded.request);
    if (!this.#translate(request, opcode, guest)) return { kind: 'skipped' };
    const head = opcode === Opcode.WRITE ? Math.min(wire.WRITE_DATA, request.length) : request.length;
    const began = performance.now();
    const answered = guest.transport.send(request, head, recorded.room).then((reply) => {
      this.#count(one, (performance.now() - began) * 1000);
      return this.#compare(one, reply, guest);
    });
    guest.session.submit();
    if (opcode !== Opcode.SETLKW) return answered;
    // It may wait for what comes later.
    const waiting = answered.finally(() => guest.waiting.delete(waiting));
    guest.waiting.add(waiting);
    const isLate = Symbol('late');
    const first = await Promise.race([
      waiting,
      new Promise((resolve) => setImmediate(() => resolve(isLate))),
    ]);
    return first === isLate ? { kind: 'same' } : waiting;
  }

  /** Ends all sessions; locks that are still waited for end with EINTR. */
  async close(): Promise<void> {
    for (const { session, transport, waiting } of this.#guests.values()) {
      await session.close();
      await Promise.allSettled(waiting);
      transport.close();
    }
  }

  async #connect(number: number, { opcode, recorded }: TracedRequest): Promise<ReplayedGuest> {
    const session = new Session(this.#export);
    const transport = new LocalTransport(session);
    const guest = {
      session,
      transport,
      handles: new Map<bigint, bigint>(),
      waiting: new Set<Promise<unknown>>(),
    };
    this.#guests.set(number, guest);
    if (opcode !== Opcode.INIT) {
      const { flags, flags2 } = recorded;
      await transport.send(initRequest(flags, flags2), HEADER + wire.fuse_init_in.bytes, 4096);
    }
    return guest;
  }

  /** @returns whether all that the request names is known now. */
  #translate(request: Uint8Array, opcode: number, { handles }: ReplayedGuest): boolean {
    const view = viewOf(request);
    if (view.getUint32(wire.fuse_in_header.len, true) !== request.length) return false;
    const swap = (at: number, of: ReadonlyMap<bigint, bigint>): boolean => {
      if (at + 8 > request.length) return false;
      const now = of.get(view.getBigUint64(at, true));
      if (now === undefined) return false;
      view.setBigUint64(at, now, true);
      return true;
    };
    const hasNode = view.getBigUint64(wire.fuse_in_header.nodeid, true) !== 0n;
    if (hasNode && !swap(wire.fuse_in_header.nodeid, this.#nodes)) return false;
    const node = NODES[opcode];
    if (node !== undefined && !swap(node, this.#nodes)) return false;
    for (const fh of HANDLES[opcode] ?? []) if (!swap(HEADER + fh, handles)) return false;
    const optional = OPTIONAL_HANDLES[opcode];
    if (optional === undefined || HEADER + optional.word + 4 > request.length) return true;
    const has = (view.getUint32(HEADER + optional.word, true) & optional.bit) !== 0;
    return !has || swap(HEADER + optional.fh, handles);
  }

  #count({ opcode, duration }: TracedRequest, now: number): void {
    const times = this.times.get(opcode) ?? { count: 0, recorded: 0, replayed: 0 };
    this.times.set(opcode, times);
    times.count += 1;
    times.recorded += duration;
    times.replayed += now;
  }

  #compare(one: TracedRequest, reply: Uint8Array, guest: ReplayedGuest): Outcome {
    const { opcode, errno, isMissing, recorded } = one;
    if (reply.length < REPLY_HEADER) return { kind: 'same' };
    const error = -viewOf(reply).getInt32(wire.fuse_out_header.error, true);
    const body = reply.subarray(REPLY_HEADER);
    const isMissingNow =
      opcode === Opcode.LOOKUP && (error === Errno.ENOENT || (error === 0 && nodeOf(body) === 0n));
    const then = opcode === Opcode.LOOKUP && errno === Errno.ENOENT ? true : isMissing;
    if (then || isMissingNow) {
      if (then === isMissingNow) return { kind: 'same' };
      return { kind: 'different', was: then ? 'missing' : 'found', is: isMissingNow ? 'missing' : 'found' };
    }
    if (error !== errno) return { kind: 'different', was: errorText(errno), is: errorText(error) };
    if (error !== 0) return { kind: 'same' };
    this.#learn(opcode, recorded.reply, body, guest);
    const was = telling(opcode, recorded.reply, one.bytes ?? 0);
    const is = telling(opcode, body, body.length);
    return was === is ? { kind: 'same' } : { kind: 'different', was, is };
  }

  /** Puts the nodes and open files of both replies together. */
  #learn(opcode: number, then: Uint8Array, now: Uint8Array, { handles }: ReplayedGuest): void {
    if (ENTRIES.has(opcode)) {
      const [was, is] = [nodeOf(then), nodeOf(now)];
      if (was !== 0n && is !== 0n) this.#nodes.set(was, is);
    }
    const fh = OPENED[opcode];
    if (fh !== undefined && fh + 8 <= Math.min(then.length, now.length))
      handles.set(viewOf(then).getBigUint64(fh, true), viewOf(now).getBigUint64(fh, true));
    if (opcode !== Opcode.READDIRPLUS) return;
    const nodes = new Map([...listedNodes(now)].map(([node, name]) => [name, node]));
    for (const [was, name] of listedNodes(then)) {
      const is = nodes.get(name);
      if (was !== 0n && is !== undefined && is !== 0n) this.#nodes.set(was, is);
    }
  }
}

/** What a reply tells that must be the same, in words. */
function telling(opcode: number, reply: Uint8Array, bytes: number): string {
  if (CONTENT.has(opcode)) return `${bytes} bytes`;
  const view = viewOf(reply);
  if (opcode === Opcode.WRITE && reply.length >= 4) return `${view.getUint32(0, true)} bytes`;
  const attributes = ENTRIES.has(opcode)
    ? wire.fuse_entry_out.attr
    : opcode === Opcode.GETATTR || opcode === Opcode.SETATTR
      ? wire.fuse_attr_out.attr
      : undefined;
  if (attributes === undefined || attributes + wire.fuse_attr.bytes > reply.length) return 'ok';
  const mode = view.getUint32(attributes + wire.fuse_attr.mode, true);
  const type = `type 0${(mode & TYPE_MASK).toString(8)}`;
  if ((mode & TYPE_MASK) !== REGULAR) return type;
  return `${type}, ${view.getBigUint64(attributes + wire.fuse_attr.size, true)} bytes`;
}

function errorText(errno: number): string {
  return errno === 0 ? 'ok' : errorName(errno);
}

function nodeOf(reply: Uint8Array): bigint {
  return reply.length >= 8 ? viewOf(reply).getBigUint64(0, true) : 0n;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** INIT of a guest that was there before the capture began. */
function initRequest(flags: number, flags2: number): Uint8Array {
  const request = new Uint8Array(HEADER + wire.fuse_init_in.bytes);
  const view = viewOf(request);
  view.setUint32(wire.fuse_in_header.len, request.length, true);
  view.setUint32(wire.fuse_in_header.opcode, Opcode.INIT, true);
  view.setUint32(wire.fuse_in_header.unique, 2, true);
  view.setUint32(HEADER + wire.fuse_init_in.major, abi.KERNEL_VERSION, true);
  view.setUint32(HEADER + wire.fuse_init_in.minor, abi.KERNEL_MINOR_VERSION, true);
  view.setUint32(HEADER + wire.fuse_init_in.flags, flags | abi.InitFlag.INIT_EXT, true);
  view.setUint32(HEADER + wire.fuse_init_in.flags2, flags2, true);
  return request;
}
