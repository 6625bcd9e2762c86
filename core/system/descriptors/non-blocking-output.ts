import type { Fd } from './fd.js';
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { result } from '../calls/libc.js';
import { EAGAIN, EINTR } from '../calls/negative-errno.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from '../memory/native-memory.js';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const POLLOUT = 4;

/**
 * Bytes written at a time. A pipe that is ready takes as many at once, pipe(7), PIPE_BUF.
 */
const CHUNK = 4096;
/** The same for files: lines that are written together come into a file together. */
const FILE_CHUNK = 65_536;
const LINE_FEED = 0x0a;
/** Between two attempts at what does not take anything, in milliseconds. */
const RETRY_MS = 100;

/** Writes some bytes: how many it took, or minus the errno; EAGAIN for later. */
type Write = (at: number, count: number) => number;

/**
 * Writes to a descriptor that is shared with other processes, such as standard error, and never
 * waits for whoever reads it: what does not take anything, is full, or is closed, loses what there
 * is no room for. Files are written at once, so that nothing is lost when the process ends.
 */
export class Output {
  readonly #fd: Fd;
  readonly #limit: number;
  readonly #onLost: (count: number) => string;
  readonly #scratch = NativeMemory.allocate(FILE_CHUNK + CHUNK);
  readonly #writeNow: Write;
  readonly #atExit = (): void => this.#advance();
  #chunk = CHUNK;
  #own = -1 as Fd;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #lost = 0;
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
    this.#advance();
    clearTimeout(this.#retry);
    if (this.#own >= 0) closeSync(this.#own);
    this.#scratch.free();
  }

  #find(): Write {
    const fd = this.#fd;
    try {
      const stats = fstatSync(fd);
      if (stats.isFile()) {
        this.#chunk = FILE_CHUNK;
        return (at, count) => result(native.write(fd, at, count));
      }
      if (stats.isSocket()) {
        const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        return (at, count) => result(native.send(fd, at, count, flags));
      }
    } catch {
      // It is closed: every attempt fails.
    }
    const own = this.#reopen();
    this.#own = own;
    if (own >= 0) return (at, count) => result(native.write(own, at, count));
    return (at, count) => this.#writeIfReady(at, count);
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
    poll[FILE_CHUNK / 4] = this.#fd;
    poll[FILE_CHUNK / 4 + 1] = POLLOUT;
    if (native.poll(this.#scratch.address + FILE_CHUNK, 1, 0) !== 1) return EAGAIN;
    return result(native.write(this.#fd, at, count));
  }

  /** Writes until nothing waits or nothing more is taken. */
  #advance(): void {
    if (this.#lost > 0 && this.#bytes === 0) {
      const told = Buffer.from((this.#last === LINE_FEED ? '' : '\n') + this.#onLost(this.#lost));
      this.#lost = 0;
      this.#waiting.push(told);
      this.#bytes += told.length;
    }
    while (this.#waiting.length > 0) {
      const first = this.#waiting[0]!;
      const count = Math.min(first.length, this.#chunk);
      this.#scratch.u8.set(first.subarray(0, count));
      const written = this.#writeNow(this.#scratch.address, count);
      if (written > 0) this.#took(written);
      else if (written === EAGAIN) {
        this.#later();
        return;
      } else if (written !== EINTR) {
        this.#lose();
        return;
      }
    }
    if (this.#lost > 0) this.#advance();
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

function linesIn(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(LINE_FEED); at >= 0; at = bytes.indexOf(LINE_FEED, at + 1)) count += 1;
  return count;
}
