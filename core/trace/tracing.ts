import { performance } from 'node:perf_hooks';
import { Clock } from '../backend/clock.js';
import {
  BODY,
  type Arguments,
  type Observation,
  Observed,
  type Reply,
  type ObservedRequest,
  type RequestObserver,
} from '../fuse/index.js';
import { Opcode } from '../fuse/wire/abi.js';
import { fuse_in_header, WRITE_DATA } from '../fuse/wire/structures.js';
import { Pool } from '../memory/index.js';
import { export_record, Kind, padded, record_header, RECORD_MAX_BYTES, request_record } from './record.js';
import type { RecordBuffer } from './record-buffer.js';

/**
 * Bytes of a request that are kept where nobody wants data: two names, or a link and its target.
 */
const REQUEST_BYTES = 4864;
/** Bytes of a reply: `struct fuse_entry_out` and `fuse_open_out`. */
const REPLY_BYTES = 144;
/** Bytes of a listing's reply, whose names tell what nodes are called. */
const LISTING_BYTES = 128 * 1024;
/** Bytes of data that a request may have. */
const DATA_BYTES = 2 ** 20 + 4096;
/** Bytes of data that may be kept for requests that are not answered yet; of others, none are. */
const HELD_BYTES = 16 * 2 ** 20;
/** Larger records are not kept for further requests. */
const SPARE_BYTES = 8192;

/** Somebody who looks at the requests of a daemon. */
export interface TraceReader {
  readonly buffer: RecordBuffer;
  /** Whether he wants the content that guests write, beside names and numbers. */
  readonly data: boolean;
}

/**
 * Makes records of what guests ask for, while there is somebody to read them. Queue threads pass
 * everything on meanwhile.
 */
export class Tracing {
  /** By number. A number is given again when its export is gone. */
  readonly #exports: ({ readonly tag: string; readonly observed: Observed } | undefined)[] = [];
  readonly #readers = new Set<TraceReader>();

  /** Adds an export. @returns what its sessions are to be given. */
  add(tag: string): Observed {
    const observed = new Observed();
    const free = this.#exports.indexOf(undefined);
    const index = free < 0 ? this.#exports.length : free;
    this.#exports[index] = { tag, observed };
    for (const { buffer } of this.#readers) addExport(buffer, index, tag);
    if (this.#readers.size > 0) observed.observer = this.#observer(index);
    return observed;
  }

  /** Removes an export. */
  remove(observed: Observed): void {
    const index = this.#exports.findIndex((one) => one?.observed === observed);
    if (index >= 0) this.#exports[index] = undefined;
    observed.observer = undefined;
  }

  /** Begins to tell somebody. */
  open(reader: TraceReader): void {
    reader.buffer.begin();
    for (const [index, one] of this.#exports.entries())
      if (one !== undefined) addExport(reader.buffer, index, one.tag);
    this.#readers.add(reader);
    this.#renew();
  }

  close(reader: TraceReader): void {
    this.#readers.delete(reader);
    this.#renew();
  }

  #renew(): void {
    for (const [index, one] of this.#exports.entries())
      if (one !== undefined)
        one.observed.observer = this.#readers.size > 0 ? this.#observer(index) : undefined;
  }

  #observer(index: number): RequestObserver {
    return new Recorder(index, [...this.#readers]);
  }
}

function addExport(buffer: RecordBuffer, index: number, tag: string): void {
  const bytes = Buffer.from(tag);
  const record = new Uint8Array(export_record.bytes + padded(bytes.length));
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  view.setUint16(record_header.kind, Kind.EXPORT, true);
  view.setUint16(record_header.export, index, true);
  view.setUint32(export_record.tag, bytes.length, true);
  record.set(bytes, export_record.bytes);
  buffer.keep(record);
}

/** One record, whose first part is there when the request begins. */
class Pending implements Observation {
  readonly #recorder: Recorder;
  bytes = new Uint8Array(1024);
  view = new DataView(this.bytes.buffer);
  /** Bytes of the first part. */
  used = 0;
  began = 0;
  opcode = 0;

  constructor(recorder: Recorder) {
    this.#recorder = recorder;
  }

  /** Makes room for so many bytes in all. */
  grow(bytes: number): void {
    if (bytes <= this.bytes.length) return;
    const grown = new Uint8Array(2 ** Math.ceil(Math.log2(bytes)));
    grown.set(this.bytes.subarray(0, this.used));
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  ended(request: ObservedRequest, length: number, output: Reply): void {
    this.#recorder.ended(this, request, length, output);
  }
}

class Recorder implements RequestObserver {
  readonly #export: number;
  readonly #readers: readonly TraceReader[];
  readonly #data: boolean;
  readonly #spare = new Pool<Pending>();
  /** Bytes of the large records of requests that are not answered yet. */
  #held = 0;
  readonly #clock = new Clock();

  constructor(index: number, readers: readonly TraceReader[]) {
    this.#export = index;
    this.#readers = readers;
    this.#data = readers.some(({ data }) => data);
  }

  began(
    guest: number,
    request: ObservedRequest,
    input: Arguments,
    flags: number,
    flags2: number,
  ): Observation {
    const pending = this.#spare.take() ?? new Pending(this);
    const { readable, writable } = request.message;
    const { length } = readable;
    const opcode = input.words[fuse_in_header.opcode >> 2]!;
    // The data of a WRITE is not among the arguments, but in the guest's memory.
    const isWrite = opcode === Opcode.WRITE && length > WRITE_DATA;
    const head = isWrite
      ? WRITE_DATA
      : Math.min(length, input.bytes.length, this.#data ? DATA_BYTES : REQUEST_BYTES);
    const wanted = isWrite && this.#data ? Math.min(length - head, DATA_BYTES) : 0;
    const data = this.#held + wanted > HELD_BYTES ? 0 : wanted;
    const used = request_record.bytes + padded(head + data);
    pending.used = 0;
    pending.grow(used);
    if (pending.bytes.length > SPARE_BYTES) this.#held += pending.bytes.length;
    const { bytes, view } = pending;
    for (let i = 0; i < head; i++) bytes[request_record.bytes + i] = input.bytes[i]!;
    if (data > 0) readable.copyOut(head, bytes, request_record.bytes + head, data);
    bytes.fill(0, request_record.bytes + head + data, used);
    view.setUint16(record_header.kind, Kind.REQUEST, true);
    view.setUint16(record_header.export, this.#export, true);
    view.setUint32(request_record.guest, guest, true);
    view.setUint32(request_record.room, writable.length, true);
    view.setUint32(request_record.flags, flags, true);
    view.setUint32(request_record.flags2, flags2, true);
    view.setUint32(request_record.length, length, true);
    view.setUint32(request_record.request, head + data, true);
    pending.used = used;
    pending.opcode = opcode;
    const clock = this.#clock;
    clock.tick();
    view.setFloat64(request_record.time, clock.seconds * 1e6 + clock.nanoseconds / 1000, true);
    pending.began = performance.now();
    return pending;
  }

  ended(pending: Pending, request: ObservedRequest, length: number, output: Reply): void {
    const duration = performance.now() - pending.began;
    if (pending.bytes.length > SPARE_BYTES) this.#held -= pending.bytes.length;
    const isListing = pending.opcode === Opcode.READDIRPLUS && length >= 0;
    const structure = length <= 0 ? 0 : Math.min(length, REPLY_BYTES);
    const reply = isListing ? Math.min(request.data, LISTING_BYTES) : structure;
    const total = pending.used + padded(reply);
    if (total > RECORD_MAX_BYTES) return;
    pending.grow(total);
    const { bytes, view, used } = pending;
    bytes.fill(0, used, total);
    if (isListing) copyListing(request, bytes, used, reply);
    else for (let i = 0; i < reply; i++) bytes[used + i] = output.bytes[BODY + i]!;
    view.setUint32(0, total, true);
    view.setFloat64(request_record.duration, duration * 1000, true);
    view.setInt32(request_record.result, length, true);
    view.setUint32(request_record.data, length < 0 ? 0 : request.data, true);
    view.setUint32(request_record.reply, reply, true);
    for (const { buffer } of this.#readers) buffer.add(bytes, total);
    if (bytes.length <= SPARE_BYTES) this.#spare.give(pending);
  }
}

/** Listings are in the guest's memory already. It may be too short for what it was told. */
function copyListing({ message }: ObservedRequest, target: Uint8Array, at: number, bytes: number): void {
  const { writable } = message;
  const count = Math.min(bytes, Math.max(0, writable.length - BODY));
  if (count > 0) writable.copyOut(BODY, target, at, count);
}
