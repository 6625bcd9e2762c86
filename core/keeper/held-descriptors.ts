import {
  acceptsDescriptors,
  descriptorLimit,
  type Fd,
  type Log,
  OwnedFd,
  type UnixConnection,
  type Watch,
  watch,
} from '../system/index.js';
import { EAGAIN, EINTR } from '../system/calls/negative-errno.js';
import { dup, O, getStatusFlags } from '../system/calls/files.js';

/** Messages are two 32-bit numbers, what to do and with which descriptor. */
const MESSAGE_BYTES = 8;
const HOLD = 1;
const DROP = 2;

/** Messages that wait for room in the socket. A descriptor that waits is not safe yet. */
const MOST_WAITING = 4096;
const RETRY_MS = 2;

/** The keeper reads so often at most. Meanwhile the socket holds a few hundred messages. */
const READ_MS = 5;

/** Descriptors that the keeper holds at most. Its limit is that of its engines. */
const MOST_HELD = Math.floor(descriptorLimit() / 4);

interface Waiting {
  readonly message: Uint8Array;
  readonly fd: OwnedFd | undefined;
}

/**
 * The engine's end: hands copies of descriptors to the keeper, by numbers. A copy is safe as soon
 * as it was sent, for the keeper's socket has it. Nothing here waits.
 */
export class Stash {
  readonly #connection: UnixConnection;
  #last: number;
  #held: number;
  /** Messages by the descriptor's number, or minus that where it is to be dropped. */
  readonly #waiting = new Map<number, Waiting>();
  #retry: NodeJS.Timeout | undefined;

  /**
   * @param last the highest number that is taken.
   * @param held how many the keeper holds.
   */
  constructor(connection: UnixConnection, last: number, held: number) {
    this.#connection = connection;
    this.#last = last;
    this.#held = held;
  }

  /** @returns the copy's number; 0 if too many wait, or are held. */
  hold(fd: number): number {
    if (this.#waiting.size >= MOST_WAITING || this.#held >= MOST_HELD) return 0;
    this.#held += 1;
    const number = ++this.#last;
    this.#send(number, messageOf(HOLD, number), fd as Fd);
    return number;
  }

  drop(number: number): void {
    this.#held -= 1;
    const unsent = this.#waiting.get(number);
    if (unsent === undefined) {
      this.#send(-number, messageOf(DROP, number), undefined);
      return;
    }
    this.#waiting.delete(number);
    unsent.fd?.close();
  }

  close(): void {
    clearTimeout(this.#retry);
    for (const { fd } of this.#waiting.values()) fd?.close();
    this.#waiting.clear();
    this.#connection.close();
  }

  #send(key: number, message: Uint8Array, fd: Fd | undefined): void {
    if (this.#waiting.size === 0 && this.#isSent(message, fd)) return;
    this.#waiting.set(key, { message, fd: fd === undefined ? undefined : new OwnedFd(dup(fd)) });
    this.#retry ??= setTimeout(() => this.#sendWaiting(), RETRY_MS);
  }

  #sendWaiting(): void {
    this.#retry = undefined;
    for (const [key, { message, fd }] of this.#waiting) {
      if (!this.#isSent(message, fd?.value)) {
        this.#retry = setTimeout(() => this.#sendWaiting(), RETRY_MS);
        return;
      }
      fd?.close();
      this.#waiting.delete(key);
    }
  }

  /** @returns false if it must wait. What the keeper's end does not take any more is dropped. */
  #isSent(message: Uint8Array, fd: Fd | undefined): boolean {
    const sent = this.#connection.send(message, fd === undefined ? [] : [fd]);
    return sent !== EAGAIN && sent !== EINTR;
  }
}

function messageOf(what: number, number: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(what, number).buffer);
}

/** The keeper's end: descriptors of files that no name leads to any more. */
export class HeldDescriptors {
  readonly #log: Log;
  readonly #held = new Map<number, OwnedFd>();
  #last = 0;
  #connection: UnixConnection | undefined;
  #watch: Watch | undefined;
  #resume: NodeJS.Timeout | undefined;
  #fds: OwnedFd[] = [];
  #received = Buffer.alloc(0);

  constructor(log: Log) {
    this.#log = log;
  }

  /** The highest number that was ever taken. */
  get last(): number {
    return this.#last;
  }

  /** Takes descriptors from an engine, in the place of the one before. */
  listen(connection: UnixConnection): void {
    this.drain();
    this.#connection = connection;
    this.#watch = watch(connection.fd, () => this.#readSome(connection));
  }

  /** Takes what an engine that has ended has sent. */
  drain(): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    while (this.#read(connection));
    clearTimeout(this.#resume);
    this.#watch?.close();
    connection.close();
    this.#connection = undefined;
    this.#received = Buffer.alloc(0);
    for (const fd of this.#fds.splice(0)) fd.close();
  }

  /** Closes all but these. */
  keepOnly(numbers: readonly number[]): void {
    const kept = new Set(numbers);
    for (const number of this.#held.keys()) if (!kept.has(number)) this.#drop(number);
  }

  close(): void {
    this.drain();
    this.keepOnly([]);
  }

  /**
   * Reads what has come, and looks again a while later: directories that are removed come and go in
   * great number. While many descriptors wait to be closed, messages wait in the socket, and then
   * in the engine.
   */
  #readSome(connection: UnixConnection): void {
    while (acceptsDescriptors() && this.#read(connection));
    this.#watch?.pause();
    this.#resume = setTimeout(() => this.#watch?.resume(), READ_MS);
  }

  /** @returns whether something came. */
  #read(connection: UnixConnection): boolean {
    const chunk = Buffer.alloc(MESSAGE_BYTES * 512);
    const count = connection.recv(chunk, this.#fds, true);
    if (count <= 0) {
      if (count === EAGAIN || count === EINTR) return false;
      if (count < 0) this.#log.error({ errno: -count }, 'descriptors of an engine are not taken any more');
      this.#watch?.close();
      return false;
    }
    this.#received = Buffer.concat([this.#received, chunk.subarray(0, count)]);
    let at = 0;
    for (; at + MESSAGE_BYTES <= this.#received.length; at += MESSAGE_BYTES)
      this.#take(this.#received.readUInt32LE(at), this.#received.readUInt32LE(at + 4));
    this.#received = this.#received.subarray(at);
    return true;
  }

  #take(what: number, number: number): void {
    if (what === DROP) {
      this.#drop(number);
      return;
    }
    this.#last = Math.max(this.#last, number);
    const fd = this.#fds.shift();
    if (fd !== undefined) this.#held.set(number, plain(fd));
    else this.#log.error({ number }, 'an engine’s descriptor did not come through');
  }

  #drop(number: number): void {
    this.#held.get(number)?.close();
    this.#held.delete(number);
  }
}

/** close(2) of an O_PATH descriptor asks no file system's server: it need not wait its turn. */
function plain(fd: OwnedFd): OwnedFd {
  return (getStatusFlags(fd.value) & O.PATH) === 0 ? fd : new OwnedFd(fd.take());
}
