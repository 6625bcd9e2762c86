import type { Fd } from './fd.js';
import { constants, fstatSync, openSync } from 'node:fs';
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
/** Between two attempts at what does not take anything, in milliseconds. */
const RETRY_MS = 100;

/** Writes at most {@link CHUNK} bytes: how many it took, or minus the errno; EAGAIN for later. */
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
  readonly #scratch = NativeMemory.allocate(2 * CHUNK);
  readonly #writeNow: Write;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #lost = 0;
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
    process.on('exit', () => this.#advance());
  }

  /** Writes a line, now or as soon as can be. */
  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#bytes + bytes.length > this.#limit) {
      this.#lost += 1;
    } else {
      this.#waiting.push(bytes);
      this.#bytes += bytes.length;
    }
    if (this.#retry === undefined) this.#advance();
  }

  #find(): Write {
    const fd = this.#fd;
    try {
      const stats = fstatSync(fd);
      if (stats.isFile()) return (at, count) => result(native.write(fd, at, count));
      if (stats.isSocket()) {
        const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        return (at, count) => result(native.send(fd, at, count, flags));
      }
    } catch {
      // It is closed: every attempt fails.
    }
    const own = this.#reopen();
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
    poll[CHUNK / 4] = this.#fd;
    poll[CHUNK / 4 + 1] = POLLOUT;
    if (native.poll(this.#scratch.address + CHUNK, 1, 0) !== 1) return EAGAIN;
    return result(native.write(this.#fd, at, count));
  }

  /** Writes until nothing waits or nothing more is taken. */
  #advance(): void {
    if (this.#lost > 0 && this.#bytes === 0) {
      const told = Buffer.from(this.#onLost(this.#lost));
      this.#lost = 0;
      this.#waiting.push(told);
      this.#bytes += told.length;
    }
    while (this.#waiting.length > 0) {
      const first = this.#waiting[0]!;
      const count = Math.min(first.length, CHUNK);
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
    this.#lost += this.#waiting.length;
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
