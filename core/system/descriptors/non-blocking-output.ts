import type { Fd } from './fd.js';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { AT, statx, STATX_FIELD } from '../calls/files.js';
import { deferred, result } from '../calls/libc.js';
import { EAGAIN, EINTR } from '../calls/negative-errno.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from '../memory/native-memory.js';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const POLLOUT = 4;
const F_DUPFD_CLOEXEC = 1030;
const AT_STATX_DONT_SYNC = 0x4000;
const { S_IFMT, S_IFREG, S_IFSOCK } = constants;

/**
 * Bytes written at a time. A pipe that is ready takes as many at once, pipe(7), PIPE_BUF.
 */
const CHUNK_BYTES = 4096;
/** The same for files. */
const FILE_CHUNK_BYTES = 65_536;
/** Room beside it for `struct pollfd`, and for `struct statx` and an empty path at the start. */
const SCRATCH_BYTES = FILE_CHUNK_BYTES + 512;
const LINE_FEED = 0x0a;
/** Between two attempts at what does not take anything, in milliseconds. */
const RETRY_MS = 100;
/** How long the end of a process waits for a file to take what is left, and between two looks. */
const END_MS = 500;
const LOOK_MS = 1;

const writeLater = deferred(native.write);

/** Writes some bytes: how many it took, or minus the errno; EAGAIN for later. */
type Write = (at: number, count: number) => number;

/**
 * Writes to a descriptor that is shared with other processes, such as standard error, and never
 * waits for whoever reads it: what does not take anything, is full, or is closed, loses what there
 * is no room for. A file is written on the thread pool, one write at a time, since its disk or
 * server may hang. The end of the process waits half a second for what is left then.
 */
export class Output {
  readonly #fd: Fd;
  readonly #limit: number;
  readonly #onLost: (count: number) => string;
  readonly #scratch = NativeMemory.allocate(SCRATCH_BYTES);
  /** How to write at once; undefined for a file. */
  readonly #writeNow: Write | undefined;
  readonly #atExit = (): void => this.#finish();
  #own = -1 as Fd;
  /** The write on the thread pool, if there is one. */
  #underWay: { readonly bytes: number; readonly position: string | undefined } | undefined;
  #isClosed = false;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #lost = 0;
  /** Those of which somebody was told. */
  #told = 0;
  /** The byte that was written last. */
  #last = LINE_FEED;
  #retry: NodeJS.Timeout | undefined;

  /**
   * @param limit bytes that may wait.
   * @param onLost makes the line that tells how many were lost.
   */
  constructor(fd: Fd, limit: number, onLost: (count: number) => string) {
    this.#fd = fd;
    this.#limit = limit;
    this.#onLost = onLost;
    this.#writeNow = this.#find();
    process.on('exit', this.#atExit);
  }

  /** Lines that were lost, since the begin. */
  get lost(): number {
    return this.#told + this.#lost;
  }

  /** Writes lines, now or as soon as can be. */
  write(lines: string): void {
    const bytes = Buffer.from(lines);
    if (this.#bytes + bytes.length > this.#limit) {
      this.#lost += linesIn(bytes);
    } else {
      this.#waiting.push(bytes);
      this.#bytes += bytes.length;
    }
    if (this.#retry === undefined) this.#advance();
  }

  /** Tries once more to write what waits, and ends. The descriptor stays open. */
  close(): void {
    process.off('exit', this.#atExit);
    this.#finish();
    clearTimeout(this.#retry);
    this.#isClosed = true;
    if (this.#underWay === undefined) this.#release();
  }

  #release(): void {
    if (this.#own >= 0) closeSync(this.#own);
    this.#scratch.free();
  }

  #find(): Write | undefined {
    const fd = this.#fd;
    const type = this.#type();
    if (type === S_IFREG) {
      // Another file may have the number of one that is closed before its write has begun.
      this.#own = result(native.fcntl(fd, F_DUPFD_CLOEXEC, 0)) as Fd;
      return undefined;
    }
    if (type === S_IFSOCK) {
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      return (at, count) => result(native.send(fd, at, count, flags));
    }
    const own = this.#reopen();
    this.#own = own;
    if (own >= 0) return (at, count) => result(native.write(own, at, count));
    return (at, count) => this.#writeIfReady(at, count);
  }

  /** The type of file, as the kernel knows it without asking the file system. */
  #type(): number {
    const { address, u32, u8 } = this.#scratch;
    u8[FILE_CHUNK_BYTES] = 0;
    const flags = AT.EMPTY_PATH | AT_STATX_DONT_SYNC;
    if (statx(this.#fd, address + FILE_CHUNK_BYTES, flags, 0, address) < 0) return 0;
    return u32[STATX_FIELD.MODE >> 2]! & S_IFMT;
  }

  /**
   * An open file of our own: O_NONBLOCK on the one that was given would be so for all who share it.
   */
  #reopen(): Fd {
    try {
      const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
      return openSync(`/proc/self/fd/${this.#fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY) as Fd;
    } catch {
      return -1 as Fd;
    }
  }

  #writeIfReady(at: number, count: number): number {
    const poll = this.#scratch.u32;
    poll[FILE_CHUNK_BYTES / 4] = this.#fd;
    poll[FILE_CHUNK_BYTES / 4 + 1] = POLLOUT;
    if (native.poll(this.#scratch.address + FILE_CHUNK_BYTES, 1, 0) !== 1) return EAGAIN;
    return result(native.write(this.#fd, at, count));
  }

  /** Writes until nothing waits or nothing more is taken. */
  #advance(): void {
    while (this.#underWay === undefined && this.#hasMore()) {
      if (this.#writeNow === undefined) {
        this.#begin();
        return;
      }
      const count = this.#copyOut(CHUNK_BYTES);
      if (!this.#ended(this.#writeNow(this.#scratch.address, count))) return;
    }
  }

  /** Whether something waits. That lines were lost is told when those before have been written. */
  #hasMore(): boolean {
    if (this.#lost > 0 && this.#bytes === 0) {
      const told = Buffer.from((this.#last === LINE_FEED ? '' : '\n') + this.#onLost(this.#lost));
      this.#told += this.#lost;
      this.#lost = 0;
      this.#waiting.push(told);
      this.#bytes += told.length;
    }
    return this.#bytes > 0;
  }

  /** Copies what waits to where it is written from. @returns how many bytes. */
  #copyOut(most: number): number {
    let count = 0;
    for (const bytes of this.#waiting) {
      const part = bytes.subarray(0, most - count);
      this.#scratch.u8.set(part, count);
      count += part.length;
      if (count === most) break;
    }
    return count;
  }

  /** Deals with the result of a write. @returns whether to go on now. */
  #ended(written: number): boolean {
    if (written > 0) this.#took(written);
    else if (written === EAGAIN) this.#later();
    else if (written !== EINTR) this.#lose();
    return written > 0 || written === EINTR;
  }

  /** Begins a write on the thread pool. */
  #begin(): void {
    const bytes = this.#copyOut(FILE_CHUNK_BYTES);
    const own = { bytes, position: positionOf(this.#own) };
    this.#underWay = own;
    const end = (written: number): void => {
      // What has ended since by #finish was dealt with there.
      if (this.#underWay !== own) return;
      this.#underWay = undefined;
      if (this.#isClosed) this.#release();
      else if (this.#ended(written)) this.#advance();
    };
    writeLater(this.#own, this.#scratch.address, bytes).then(end, () => end(-1));
  }

  /**
   * Writes what waits while the process, or this output, ends: no promise is settled any more. That
   * a write to a file has ended is seen by the position of the descriptor.
   */
  #finish(): void {
    this.#advance();
    const until = performance.now() + END_MS;
    while (this.#underWay !== undefined && performance.now() < until) {
      const { bytes, position } = this.#underWay;
      if (positionOf(this.#own) === position) {
        Atomics.wait(ASLEEP, 0, 0, LOOK_MS);
        continue;
      }
      this.#underWay = undefined;
      this.#took(bytes);
      this.#advance();
    }
  }

  /** Takes what was written off what waits. */
  #took(written: number): void {
    this.#bytes -= written;
    let left = written;
    while (left > 0) {
      const first = this.#waiting[0]!;
      this.#last = first[Math.min(first.length, left) - 1]!;
      if (first.length > left) {
        this.#waiting[0] = first.subarray(left);
        return;
      }
      left -= first.length;
      this.#waiting.shift();
    }
  }

  /** What waits is lost: there is no room, or nobody to read it. The next attempt comes later. */
  #lose(): void {
    for (const bytes of this.#waiting) this.#lost += linesIn(bytes);
    this.#waiting = [];
    this.#bytes = 0;
    this.#later();
  }

  #later(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#advance();
    }, RETRY_MS).unref();
  }
}

const ASLEEP = new Int32Array(new SharedArrayBuffer(4));

/** Where a descriptor stands in its file, by proc(5): the file system is not asked. */
function positionOf(fd: Fd): string | undefined {
  try {
    return /^pos:.*/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[0];
  } catch {
    return undefined;
  }
}

function linesIn(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(LINE_FEED); at >= 0; at = bytes.indexOf(LINE_FEED, at + 1)) count += 1;
  return count;
}
