import { NAME_MAX, WriteFlags } from '../backend/index.js';
import {
  Arguments,
  batchSize,
  BODY,
  fuse_attr,
  fuse_attr_out,
  fuse_entry_out,
  fuse_getattr_in,
  fuse_in_header,
  fuse_read_in,
  fuse_write_in,
  fuse_write_out,
  GATHERED_FROM,
  GATHERED_MOST,
  GETATTR_FH,
  hashOfName,
  isInRange,
  isName,
  isWholeWrite,
  Opcode,
  putAttributesValid,
  putEntry,
  type HandleGeneration,
  type HandleIndex,
  type NodeIdHigh,
  type NodeIdLow,
  putHeader,
  putMissing,
  putWritten,
  readData,
  readOffset,
  readSize,
  sendWords,
  writeData,
  writeFlags,
  writeOffset,
  writeSize,
} from '../fuse/index.js';
import { STAT, STATX_FIELD, STATX_NAME } from '../system/calls/files.js';
import { type Fd, CallList, type DescriptorUse, mustReadOn } from '../system/index.js';
import type { Completions, QueueMessage, QueueService } from '../virtqueue/index.js';
import type { DirectCalls } from './direct-calls.js';
import type { ThreadMailbox } from './mailbox.js';
import { Count, type FileTableView } from './shared-file-table.js';
import { ENOENT } from '../system/calls/negative-errno.js';

const HEADER = fuse_in_header.bytes;
const ATTR = (BODY + fuse_attr_out.attr) >> 2;
const ENTRY_ATTR = (BODY + fuse_entry_out.attr) >> 2;
/** Longer reads are passed on, so that they do not hold the other queues of this thread. */
const OWN_READ_BYTES = 2 ** 20;

/** A request that waits in the batch, to be carried out together with others. */
class Gathered {
  message: QueueMessage | undefined = undefined;
  opcode = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** For READ. */
  fd = 0 as Fd;
  flags = 0;
  length = 0;
  offset = 0;
  /** For GETATTR and LOOKUP; `name` is the name's hash. */
  nodeLow = 0 as NodeIdLow;
  nodeHigh = 0 as NodeIdHigh;
  name = 0;
}

/**
 * Serves requests on a queue thread. READ, WRITE, GETATTR and LOOKUP become plain system calls on
 * descriptors from the session's file table. Everything else is passed on to the engine's thread:
 * other opcodes, malformed requests, files that the table does not have.
 */
export class DirectService implements QueueService {
  readonly completions: Completions;
  readonly #in = new Arguments();
  readonly #out = new Uint32Array((BODY + fuse_entry_out.bytes) / 4);
  readonly #mailbox: ThreadMailbox;
  readonly #fileTable: FileTableView;
  readonly #use: DescriptorUse;
  readonly #calls: DirectCalls;
  readonly #tellEngine: () => void;
  /** Requests that were passed on, by the id of their chain. */
  readonly #passed: (QueueMessage | undefined)[] = [];
  readonly #gathered = Array.from({ length: GATHERED_MOST }, () => new Gathered());
  #count = 0;
  #limit = 0;
  /** Of the request that is being answered. */
  #uniqueLow = 0;
  #uniqueHigh = 0;
  /**
   * Whether the gathered writes clear set-id bits: all of them do, or none. Undefined while there
   * are none.
   */
  #clears: boolean | undefined;

  constructor(
    mailbox: ThreadMailbox,
    fileTable: FileTableView,
    use: DescriptorUse,
    calls: DirectCalls,
    tellEngine: () => void,
  ) {
    this.#mailbox = mailbox;
    this.#fileTable = fileTable;
    this.#use = use;
    this.#calls = calls;
    this.#tellEngine = tellEngine;
    const answer = (id: number, written: number | undefined): void => this.#answer(id, written);
    this.completions = {
      get pending() {
        return mailbox.pending;
      },
      get ready() {
        return mailbox.ready;
      },
      collect() {
        while (mailbox.ready) mailbox.collect(answer);
      },
      attend() {
        mailbox.setPolling(true);
      },
      rest() {
        mailbox.setPolling(false);
        return mailbox.ready;
      },
    };
  }

  dispatch(message: QueueMessage, following: number): void {
    if (!this.#mailbox.take()) return;
    const input = this.#in;
    const isWhole = input.load(message) === 0;
    const opcode = isWhole ? input.words[fuse_in_header.opcode >> 2]! : 0;
    const seen = following + 1;
    let isServed = false;
    if (this.#fileTable.passesAll) isServed = false;
    else if (opcode === Opcode.READ) isServed = this.#read(message, seen);
    else if (opcode === Opcode.WRITE) isServed = this.#write(message, seen);
    else if (opcode === Opcode.GETATTR) isServed = this.#getattr(message, seen);
    else if (opcode === Opcode.LOOKUP) isServed = this.#lookup(message, seen);
    if (this.#count === 0) this.#use.leave();
    if (!isServed) this.#pass(message);
  }

  submit(): void {
    if (this.#count > 0) this.#carryOut();
    this.#use.leave();
  }

  /** @returns whether the request was answered or gathered. If not, it is to be passed on. */
  #read(message: QueueMessage, seen: number): boolean {
    const input = this.#in;
    if (input.length < fuse_read_in.bytes || message.writable.length <= BODY) return false;
    const length = readSize(input, message);
    const offset = readOffset(input);
    if (length === 0 || length > OWN_READ_BYTES || !isInRange(offset, length)) return false;
    this.#use.enter();
    if (!this.#findFile(fuse_read_in.fh)) return false;
    const { fd, readFlags } = this.#fileTable;
    const buffer = readData(message, length);
    if (this.#calls.gathers && length <= CallList.SMALL_BYTES && this.#mayGather(seen)) {
      const one = this.#put(message, Opcode.READ, seen);
      one.fd = fd;
      one.flags = readFlags;
      one.length = length;
      one.offset = offset;
      this.#calls.addRead(fd, buffer, offset, readFlags);
      this.#added();
      return true;
    }
    this.#takeUnique();
    return this.#endRead(
      message,
      this.#calls.read(fd, buffer, offset, readFlags),
      length,
      fd,
      offset,
      readFlags,
    );
  }

  #endRead(
    message: QueueMessage,
    count: number,
    length: number,
    fd: Fd,
    offset: number,
    flags: number,
  ): boolean {
    // A read with flags (RWF_NOWAIT) returns what needs no waiting. Where there is more, or where
    // such a read fails, the request is passed on.
    const isShort = count !== length && flags !== 0;
    if (isShort && (count < 0 || mustReadOn(fd, offset, count))) return false;
    this.#tally(Count.READS, Count.BYTES_READ, count);
    if (count < 0) this.#refuse(message, count);
    else this.#reply(message, BODY, BODY + count);
    return true;
  }

  #write(message: QueueMessage, seen: number): boolean {
    const input = this.#in;
    if (input.length < fuse_write_in.bytes || message.writable.length < BODY + fuse_write_out.bytes)
      return false;
    const length = writeSize(input);
    const offset = writeOffset(input);
    if (length === 0 || !isWholeWrite(message, length) || !isInRange(offset, length)) return false;
    this.#use.enter();
    if (!this.#findFile(fuse_write_in.fh) || !this.#fileTable.writes) return false;
    const { fd } = this.#fileTable;
    const clears = (writeFlags(input) & WriteFlags.KILL_SUIDGID) !== 0;
    const buffer = writeData(message, length);
    const isAlike = this.#clears === undefined || this.#clears === clears;
    if (this.#calls.gathers && length <= CallList.SMALL_BYTES && isAlike && this.#mayGather(seen)) {
      this.#clears = clears;
      this.#put(message, Opcode.WRITE, seen);
      this.#calls.addWrite(fd, buffer, offset);
      this.#added();
      return true;
    }
    this.#takeUnique();
    this.#calls.clearSetIds(clears);
    this.#endWrite(message, this.#calls.write(fd, buffer, offset));
    return true;
  }

  #endWrite(message: QueueMessage, count: number): void {
    this.#tally(Count.WRITES, Count.BYTES_WRITTEN, count);
    if (count < 0) {
      this.#refuse(message, count);
      return;
    }
    putWritten(this.#out, count);
    this.#reply(message, BODY + fuse_write_out.bytes);
  }

  #getattr(message: QueueMessage, seen: number): boolean {
    const input = this.#in;
    if (input.length < fuse_getattr_in.bytes || message.writable.length < BODY + fuse_attr_out.bytes)
      return false;
    const { ints } = input;
    const nodeLow = ints[fuse_in_header.nodeid >> 2] as NodeIdLow;
    const nodeHigh = ints[(fuse_in_header.nodeid >> 2) + 1] as NodeIdHigh;
    this.#use.enter();
    const throughHandle = (input.u32(fuse_getattr_in.getattr_flags) & GETATTR_FH) !== 0;
    if (throughHandle && !this.#findFile(fuse_getattr_in.fh)) return false;
    if (!this.#fileTable.findNode(nodeLow, nodeHigh)) return false;
    const { fd } = this.#fileTable;
    if (this.#calls.gathers && this.#mayGather(seen)) {
      const one = this.#put(message, Opcode.GETATTR, seen);
      one.nodeLow = nodeLow;
      one.nodeHigh = nodeHigh;
      this.#calls.addStat(fd);
      this.#added();
      return true;
    }
    this.#takeUnique();
    return this.#endGetattr(message, this.#calls.stat(fd), nodeLow, nodeHigh);
  }

  /** @param at index of the first word of `struct stat`, or minus an errno. */
  #endGetattr(message: QueueMessage, at: number, nodeLow: NodeIdLow, nodeHigh: NodeIdHigh): boolean {
    const fileTable = this.#fileTable;
    if (at < 0 || !fileTable.findNode(nodeLow, nodeHigh)) return false;
    const stat = this.#calls.stats;
    if (!fileTable.confirmNode(stat, at)) return false;
    this.#putAttributes(ATTR, FROM_STAT, at);
    putAttributesValid(this.#out, fileTable.attributesValid);
    this.#tally(Count.GETATTRS, undefined, 0);
    this.#reply(message, BODY + fuse_attr_out.bytes);
    return true;
  }

  #lookup(message: QueueMessage, seen: number): boolean {
    const input = this.#in;
    const { bytes, ints, end } = input;
    const start = HEADER;
    const last = end - 1;
    if (message.writable.length < BODY + fuse_entry_out.bytes) return false;
    if (last <= start || last - start > NAME_MAX) return false;
    if (bytes.indexOf(0, start) !== last || !isName(bytes, start, last)) return false;
    const nodeLow = ints[fuse_in_header.nodeid >> 2] as NodeIdLow;
    const nodeHigh = ints[(fuse_in_header.nodeid >> 2) + 1] as NodeIdHigh;
    this.#use.enter();
    const fileTable = this.#fileTable;
    if (!fileTable.findNode(nodeLow, nodeHigh) || !fileTable.names) return false;
    const { fd } = fileTable;
    if (this.#calls.gathers && this.#mayGather(seen)) {
      const one = this.#put(message, Opcode.LOOKUP, seen);
      one.nodeLow = nodeLow;
      one.nodeHigh = nodeHigh;
      one.name = hashOfName(bytes, start, last);
      this.#calls.addStatName(fd, bytes, start, last);
      this.#added();
      return true;
    }
    this.#takeUnique();
    const at = this.#calls.statName(fd, bytes, start, last);
    return this.#endLookup(message, at, nodeLow, nodeHigh, hashOfName(bytes, start, last));
  }

  /**
   * @param at index of the first word of `struct statx`, or minus an errno.
   * @param name the name's hash.
   */
  #endLookup(
    message: QueueMessage,
    at: number,
    nodeLow: NodeIdLow,
    nodeHigh: NodeIdHigh,
    name: number,
  ): boolean {
    const fileTable = this.#fileTable;
    const out = this.#out;
    if (at === ENOENT) {
      const bytes = putMissing(out, fileTable.negativeValid);
      this.#tally(Count.LOOKUPS, undefined, bytes === 0 ? ENOENT : 0);
      if (bytes === 0) this.#refuse(message, ENOENT);
      else this.#reply(message, BODY + bytes);
      return true;
    }
    const statx = this.#calls.stats;
    // A statx that lacks fields is left to the engine's thread. So is a device file, whose number
    // comes in two halves.
    if (at < 0 || (statx[at + (STATX_FIELD.MASK >> 2)]! & STATX_NAME.MASK) !== STATX_NAME.MASK) return false;
    if (statx[at + (STATX_FIELD.RDEV_MAJOR >> 2)] !== 0 || statx[at + (STATX_FIELD.RDEV_MINOR >> 2)] !== 0)
      return false;
    if (!fileTable.findEntry(nodeLow, nodeHigh, name, statx, at) || !fileTable.confirmEntry(statx, at))
      return false;
    const { nodeLow: low, nodeHigh: high, generation } = fileTable;
    this.#putAttributes(ENTRY_ATTR, FROM_STATX, at);
    out[ENTRY_ATTR + (fuse_attr.mode >> 2)]! &= 0xffff;
    putEntry(out, BODY, low, high, generation, fileTable.entryValid, fileTable.attributesValid);
    this.#tally(Count.LOOKUPS, undefined, 0);
    this.#reply(message, BODY + fuse_entry_out.bytes);
    return true;
  }

  /**
   * Puts `struct fuse_attr` into the reply.
   * @param fields which words of the stat its words are copied from: {@link FROM_STAT} or {@link
   * FROM_STATX}.
   */
  #putAttributes(to: number, fields: Int32Array, from: number): void {
    const out = this.#out;
    const stat = this.#calls.stats;
    for (let i = 0; i < fields.length; i++) out[to + i] = stat[from + fields[i]!]!;
    out[to + (fuse_attr.flags >> 2)] = 0;
  }

  #findFile(fhOffset: number): boolean {
    const { ints } = this.#in;
    const at = (HEADER + fhOffset) >> 2;
    const node = fuse_in_header.nodeid >> 2;
    return this.#fileTable.findFile(
      ints[at] as HandleIndex,
      ints[at + 1] as HandleGeneration,
      ints[node] as NodeIdLow,
      ints[node + 1] as NodeIdHigh,
    );
  }

  #mayGather(seen: number): boolean {
    return this.#count > 0 || seen >= GATHERED_FROM;
  }

  /** Adds the current request to the batch. */
  #put(message: QueueMessage, opcode: number, seen: number): Gathered {
    if (this.#count === 0) this.#limit = batchSize(seen);
    const one = this.#gathered[this.#count]!;
    const { ints } = this.#in;
    one.message = message;
    one.opcode = opcode;
    one.uniqueLow = ints[fuse_in_header.unique >> 2]!;
    one.uniqueHigh = ints[(fuse_in_header.unique >> 2) + 1]!;
    return one;
  }

  #added(): void {
    this.#count += 1;
    if (this.#count === this.#limit) this.#carryOut();
  }

  /**
   * Carries the batch out. Never throws, and leaves the list of calls empty: other queues of this
   * thread use it too.
   */
  #carryOut(): void {
    const count = this.#count;
    this.#count = 0;
    try {
      if (this.#clears !== undefined) this.#calls.clearSetIds(this.#clears);
      this.#clears = undefined;
      this.#calls.run();
      this.#answerAll(count);
    } catch {
      // Requests without an answer can get none any more: the queue stops.
      for (let i = 0; i < count; i++) {
        const message = this.#gathered[i]!.message!;
        if (message.id >= 0 && this.#passed[message.id] !== message) message.fail();
      }
    } finally {
      this.#calls.clear();
      this.#use.leave();
    }
  }

  /** Answers each gathered request, or passes it on. */
  #answerAll(count: number): void {
    for (let i = 0; i < count; i++) {
      const one = this.#gathered[i]!;
      const { opcode } = one;
      const message = one.message!;
      this.#uniqueLow = one.uniqueLow;
      this.#uniqueHigh = one.uniqueHigh;
      let isServed = true;
      if (opcode === Opcode.GETATTR) {
        isServed = this.#endGetattr(message, this.#calls.statted(i), one.nodeLow, one.nodeHigh);
      } else if (opcode === Opcode.LOOKUP) {
        isServed = this.#endLookup(message, this.#calls.statted(i), one.nodeLow, one.nodeHigh, one.name);
      } else {
        const done = this.#calls.transferred(i);
        if (opcode === Opcode.WRITE) this.#endWrite(message, done);
        else isServed = this.#endRead(message, done, one.length, one.fd, one.offset, one.flags);
      }
      if (!isServed) this.#pass(message);
    }
  }

  #takeUnique(): void {
    const { ints } = this.#in;
    this.#uniqueLow = ints[fuse_in_header.unique >> 2]!;
    this.#uniqueHigh = ints[(fuse_in_header.unique >> 2) + 1]!;
  }

  #refuse(message: QueueMessage, code: number): void {
    putHeader(this.#out, BODY, code, this.#uniqueLow, this.#uniqueHigh);
    sendWords(message.writable, this.#out, BODY);
    message.complete(BODY);
  }

  /**
   * Sends a reply.
   * @param bytes size of header and structure.
   * @param total size including the data, which is in place already.
   */
  #reply(message: QueueMessage, bytes: number, total = bytes): void {
    putHeader(this.#out, total, 0, this.#uniqueLow, this.#uniqueHigh);
    sendWords(message.writable, this.#out, bytes);
    message.complete(total);
  }

  #tally(which: number, bytes: number | undefined, count: number): void {
    const { counts } = this.#fileTable;
    counts[which] = counts[which]! + 1;
    if (count < 0) counts[Count.FAILURES] = counts[Count.FAILURES]! + 1;
    else if (bytes !== undefined) counts[bytes] = counts[bytes]! + count;
  }

  #pass(message: QueueMessage): void {
    const { id } = message;
    this.#passed[id] = message;
    this.#mailbox.pass(id);
    if (this.#mailbox.mustSignal) this.#tellEngine();
  }

  #answer(id: number, written: number | undefined): void {
    const message = this.#passed[id]!;
    this.#passed[id] = undefined;
    if (written === undefined) message.fail();
    else message.complete(written);
  }
}

/**
 * For each word of `struct fuse_attr` except its last (`flags`): the word of `struct stat` or
 * `struct statx` that it is copied from.
 */
const FROM_STAT = words(STAT);
const FROM_STATX = words({ ...STATX_FIELD, RDEV: STATX_FIELD.RDEV_MAJOR });

type StatOffsets = Record<
  | 'INO'
  | 'SIZE'
  | 'BLOCKS'
  | 'ATIME'
  | 'MTIME'
  | 'CTIME'
  | 'MODE'
  | 'NLINK'
  | 'UID'
  | 'GID'
  | 'RDEV'
  | 'BLKSIZE',
  number
>;

function long(offset: number): readonly number[] {
  return [offset, offset + 4];
}

function words(from: StatOffsets): Int32Array {
  return Int32Array.from(
    [
      ...long(from.INO),
      ...long(from.SIZE),
      ...long(from.BLOCKS),
      ...long(from.ATIME),
      ...long(from.MTIME),
      ...long(from.CTIME),
      from.ATIME + 8,
      from.MTIME + 8,
      from.CTIME + 8,
      from.MODE,
      from.NLINK,
      from.UID,
      from.GID,
      from.RDEV,
      from.BLKSIZE,
    ],
    (offset) => offset >> 2,
  );
}
