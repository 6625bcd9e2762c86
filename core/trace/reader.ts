import { decodeName, NAME_MAX } from '../backend/index.js';
import { Opcode } from '../fuse/wire/abi.js';
import * as wire from '../fuse/wire/structures.js';
import { RecordedRequest, shapes, type Shape } from './arguments.js';
import { Paths } from './paths.js';
import {
  export_record,
  FILE_HEADER_BYTES,
  Kind,
  lost_record,
  MAGIC,
  record_header,
  RECORD_MAX_BYTES,
  request_record,
  padded,
  VERSION,
} from './record.js';

/** One request as it was served. */
export interface TracedRequest {
  /** The tag of its export. */
  readonly tag: string;
  readonly guest: number;
  /** Microseconds since the epoch. */
  readonly time: number;
  /** From begin to reply, in microseconds. */
  readonly duration: number;
  readonly opcode: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly node: bigint;
  /** The file, as far as its name is known: see `Paths.of`. */
  readonly path: string;
  /** The new name of a renamed file, or a symbolic link's target. */
  readonly target: string | undefined;
  /** Further arguments, by name. */
  readonly fields: readonly (readonly [string, string | number | bigint])[];
  /** 0 where it succeeded. */
  readonly errno: number;
  /** Whether a look-up was told that there is nothing, in a way that the guest may cache. */
  readonly isMissing: boolean;
  /** Bytes of content, names or values, of requests that transfer any. */
  readonly bytes: number | undefined;
  /** What was kept of request and reply, for a replay. */
  readonly recorded: Recorded;
}

export interface Recorded {
  readonly request: Uint8Array;
  /** How long the request was, and the room for its reply, in bytes. */
  readonly length: number;
  readonly room: number;
  /** The reply without its header: a structure, or a whole listing with attributes. */
  readonly reply: Uint8Array;
  /** What INIT negotiated: both words of flags. */
  readonly flags: number;
  readonly flags2: number;
}

/** What a capture tells: a request, or that so many are missing. */
export type TraceEvent = TracedRequest | { readonly lost: number };

/** Requests whose reply is data. */
const DATA = new Set<number>([
  Opcode.READ,
  Opcode.READDIR,
  Opcode.READDIRPLUS,
  Opcode.READLINK,
  Opcode.GETXATTR,
  Opcode.LISTXATTR,
]);
/** Requests whose reply says how many bytes were written: `struct fuse_write_out`. */
const WRITES = new Set<number>([Opcode.WRITE, Opcode.COPY_FILE_RANGE]);

const NO_SHAPE: Shape = { bytes: () => 0, names: 0, fields: () => [] };

/** Bytes of heap for the names of all exports. */
const NAMES_BYTES = 32 * 2 ** 20;

/** Reads a capture, piece by piece, and follows what nodes are called. */
export class CaptureReader {
  readonly #exports = new Map<number, { readonly tag: string; readonly paths: Paths }>();
  readonly #namesOfOne = (): number => NAMES_BYTES / this.#exports.size;
  /** What is left of the pieces so far. */
  #rest = new Uint8Array(0);
  #hasBegun = false;

  /**
   * What the next piece tells.
   * @throws RangeError for what is no capture.
   */
  *read(piece: Uint8Array): Generator<TraceEvent> {
    let bytes: Uint8Array = piece;
    if (this.#rest.length > 0) {
      bytes = new Uint8Array(this.#rest.length + piece.length);
      bytes.set(this.#rest);
      bytes.set(piece, this.#rest.length);
    }
    let at = 0;
    if (!this.#hasBegun && bytes.length >= FILE_HEADER_BYTES) {
      checkBegin(bytes);
      this.#hasBegun = true;
      at = FILE_HEADER_BYTES;
    }
    while (this.#hasBegun && at + record_header.bytes <= bytes.length) {
      const length = viewOf(bytes, at).getUint32(0, true);
      if (length < record_header.bytes || length % 8 !== 0 || length > RECORD_MAX_BYTES)
        throw new RangeError(`a record of ${length} bytes at an odd place`);
      if (at + length > bytes.length) break;
      const event = this.#record(bytes.subarray(at, at + length));
      if (event !== undefined) yield event;
      at += length;
    }
    this.#rest = bytes.slice(at);
  }

  /** Whether a record has begun that did not end. */
  get isCutOff(): boolean {
    return this.#rest.length > 0 || !this.#hasBegun;
  }

  #record(record: Uint8Array): TraceEvent | undefined {
    const view = viewOf(record, 0);
    const index = view.getUint16(record_header.export, true);
    switch (view.getUint16(record_header.kind, true)) {
      case Kind.EXPORT: {
        if (record.length < export_record.bytes) throw new RangeError('an export is cut off');
        const length = view.getUint32(export_record.tag, true);
        const tag = Buffer.from(
          record.subarray(export_record.bytes, export_record.bytes + length),
        ).toString();
        this.#exports.set(index, { tag, paths: new Paths(this.#namesOfOne) });
        return undefined;
      }
      case Kind.LOST:
        if (record.length < lost_record.bytes) throw new RangeError('a count is cut off');
        return { lost: view.getUint32(lost_record.count, true) };
      case Kind.REQUEST: {
        const from = this.#exports.get(index);
        if (from === undefined) throw new RangeError(`a request of export ${index}, which is not known`);
        return readRequest(record, view, from.tag, from.paths);
      }
      default:
        // One of a later version.
        return undefined;
    }
  }
}

function checkBegin(bytes: Uint8Array): void {
  if (Buffer.from(bytes.subarray(0, MAGIC.length)).toString('latin1') !== MAGIC)
    throw new RangeError('this is no capture');
  const version = viewOf(bytes, 0).getUint32(MAGIC.length, true);
  if (version !== VERSION)
    throw new RangeError(`a capture of version ${version}; this program reads ${VERSION}`);
}

function viewOf(bytes: Uint8Array, at: number): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset + at, bytes.length - at);
}

function readRequest(record: Uint8Array, view: DataView, tag: string, paths: Paths): TracedRequest {
  const at = request_record;
  if (record.length < at.bytes) throw new RangeError('a request is cut off');
  const requestLength = view.getUint32(at.request, true);
  const replyLength = view.getUint32(at.reply, true);
  const replyAt = at.bytes + padded(requestLength);
  if (requestLength < wire.fuse_in_header.bytes || replyAt + replyLength > record.length)
    throw new RangeError('a request is cut off');
  const request = record.subarray(at.bytes, at.bytes + requestLength);
  const reply = record.subarray(replyAt, replyAt + replyLength);
  const flags = view.getUint32(at.flags, true);
  const told = new RecordedRequest(request, flags);
  const opcode = told.u32(wire.fuse_in_header.opcode);
  const node = told.u64(wire.fuse_in_header.nodeid);
  const result = view.getInt32(at.result, true);
  const data = view.getUint32(at.data, true);
  const shape = shapes[opcode] ?? NO_SHAPE;
  const [name = '', second = ''] = told.names(shape.bytes(told), shape.names);
  const isFile = shape.names > 0 && shape.first !== 'attribute';
  const path = isFile ? paths.below(node, name) : paths.of(node);
  const directory =
    shape.second === undefined || shape.second === 'target' || shape.second.directory === undefined
      ? undefined
      : told.u64(shape.second.directory);
  const target =
    shape.second === undefined
      ? undefined
      : directory === undefined
        ? second
        : paths.below(directory, second);
  const entry =
    shape.entry === true && result > 0 && reply.length >= 8
      ? viewOf(reply, 0).getBigUint64(0, true)
      : undefined;
  if (entry !== undefined) paths.learn(node, name, entry);
  if (directory !== undefined && result >= 0) {
    const isExchange =
      opcode === Opcode.RENAME2 &&
      (told.u32(wire.fuse_in_header.bytes + wire.fuse_rename2_in.flags) & 2) !== 0;
    if (isExchange) paths.exchange(node, name, directory, second);
    else paths.move(node, name, directory, second);
  }
  if (opcode === Opcode.READDIRPLUS && result >= 0)
    for (const [child, called] of listedNodes(reply)) paths.learn(node, called, child);
  const fields = shape.fields(told);
  return {
    tag,
    guest: view.getUint32(at.guest, true),
    time: view.getFloat64(at.time, true),
    duration: view.getFloat64(at.duration, true),
    opcode,
    uid: told.u32(wire.fuse_in_header.uid),
    gid: told.u32(wire.fuse_in_header.gid),
    pid: told.u32(wire.fuse_in_header.pid),
    node,
    path,
    target,
    fields: shape.first === 'attribute' ? [['name', name], ...fields] : fields,
    errno: result < 0 ? -result : 0,
    isMissing: opcode === Opcode.LOOKUP && entry === 0n,
    bytes: bytesOf(opcode, result, data, reply),
    recorded: {
      request,
      length: view.getUint32(at.length, true),
      room: view.getUint32(at.room, true),
      reply,
      flags,
      flags2: view.getUint32(at.flags2, true),
    },
  };
}

function bytesOf(opcode: number, result: number, data: number, reply: Uint8Array): number | undefined {
  if (result < 0) return undefined;
  if (DATA.has(opcode)) return result + data;
  if (WRITES.has(opcode) && reply.length >= 4) return viewOf(reply, 0).getUint32(0, true);
  return undefined;
}

/** The nodes of a READDIRPLUS's reply, by name. */
export function* listedNodes(listing: Uint8Array): Generator<[node: bigint, name: string]> {
  const view = viewOf(listing, 0);
  const dirent = wire.fuse_direntplus.dirent;
  for (let at = 0; at + wire.fuse_direntplus.bytes <= listing.length;) {
    const length = view.getUint32(at + dirent + wire.fuse_dirent.namelen, true);
    const nameAt = at + wire.fuse_direntplus.bytes;
    // The guest may have changed it since.
    if (length === 0 || length > NAME_MAX || nameAt + length > listing.length) return;
    yield [view.getBigUint64(at, true), decodeName(listing, nameAt, nameAt + length)];
    at = nameAt + padded(length);
  }
}
