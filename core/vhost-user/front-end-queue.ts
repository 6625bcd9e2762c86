import { advancePromises, drain, eventfd, type OwnedFd, watch, type Watch } from '../system/index.js';
import { DriverQueue, type DriverQueueOptions } from '../virtqueue/index.js';
import { FrontEndError } from './front-end-channel.js';
import type { SharedMemory } from './shared-memory.js';

/** A request that waits for room in the ring, or for its reply. */
interface Request {
  readonly input: readonly Uint8Array[];
  readonly room: readonly number[];
  /** Offset of its memory in the shared memory. -1 before it is in the ring. */
  offset: number;
  resolve(reply: Uint8Array): void;
  reject(error: Error): void;
}

/** One queue of a front-end: the ring, its eventfds, and requests as promises on top. */
export class FrontEndQueue {
  readonly index: number;
  /**
   * The ring itself, for callers that manage memory and completions themselves. They must not call
   * {@link request}.
   */
  readonly driver: DriverQueue;
  readonly kick: OwnedFd = eventfd();
  readonly call: OwnedFd = eventfd();
  readonly err: OwnedFd = eventfd();
  readonly #memory: SharedMemory;
  /** Segments of an indirect table; 0 if there are no such tables. */
  readonly #indirect: number;
  /** Requests in the ring, by token. */
  readonly #inFlight = new Map<number, Request>();
  readonly #waiting: Request[] = [];
  #watch: Watch | undefined;
  #failure: Error | undefined;

  /** The memory for the ring must be zeroed, as a new {@link SharedMemory} is. */
  constructor(index: number, memory: SharedMemory, options: DriverQueueOptions) {
    this.index = index;
    this.#memory = memory;
    this.#indirect = options.indirect ?? 0;
    const offset = memory.allocate(DriverQueue.bytes(options));
    if (offset < 0) throw new FrontEndError('the shared memory is too small for the rings');
    this.driver = new DriverQueue(memory.mapping, memory.guestAddress(0), offset, options);
  }

  /**
   * Sends a request of readable segments, with writable segments of the given sizes for the reply.
   * @returns the reply's bytes, as many as the daemon said it wrote.
   * @throws FrontEndError if the daemon goes away, or the request can never fit.
   */
  request(input: readonly Uint8Array[], room: readonly number[]): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      const segments = input.length + room.length;
      const most = this.#indirect || this.driver.size;
      if (segments > most) {
        reject(new FrontEndError(`a request of ${segments} segments, of ${most} at most`));
        return;
      }
      this.#watch ??= watch(this.call.value, () => this.#collect());
      this.#waiting.push({ input, room, offset: -1, resolve, reject });
      this.#submit();
    });
  }

  /** Rejects all requests. */
  fail(error: Error): void {
    this.#failure = error;
    for (const request of [...this.#inFlight.values(), ...this.#waiting]) request.reject(error);
    this.#inFlight.clear();
    this.#waiting.length = 0;
    advancePromises();
  }

  close(): void {
    this.fail(new FrontEndError('the front-end was closed'));
    this.#watch?.close();
    this.kick.close();
    this.call.close();
    this.err.close();
  }

  /** Puts waiting requests into the ring, as long as there is room in it and in the memory. */
  #submit(): void {
    const { driver } = this;
    let submitted = false;
    for (let request = this.#waiting[0]; request !== undefined; request = this.#waiting[0]) {
      const segments = request.input.length + request.room.length;
      if (driver.freeDescriptors < (this.#indirect > 0 ? 1 : segments)) break;
      const bytes = sum(request.input.map((part) => part.length)) + sum(request.room);
      request.offset = this.#memory.allocate(bytes);
      if (request.offset < 0) break;
      this.#waiting.shift();
      this.#place(request);
      submitted = true;
    }
    if (submitted) driver.kick(this.kick.value);
    if (this.#inFlight.size === 0 && this.#waiting.length > 0) {
      this.#waiting.shift()!.reject(new FrontEndError('the request does not fit into the shared memory'));
    }
  }

  #place(request: Request): void {
    const { driver } = this;
    const memory = this.#memory;
    let at = request.offset;
    driver.begin();
    for (const part of request.input) {
      memory.bytes.set(part, at);
      driver.readable(memory.guestAddress(at), part.length);
      at += part.length;
    }
    for (const length of request.room) {
      driver.writable(memory.guestAddress(at), length);
      at += length;
    }
    this.#inFlight.set(driver.submit(), request);
  }

  #collect(): void {
    drain(this.call.value);
    const { driver } = this;
    do {
      for (let token = driver.poll(); token >= 0; token = driver.poll())
        this.#finish(token, driver.usedLength);
    } while (driver.enableInterrupts());
    this.#submit();
    advancePromises();
  }

  #finish(token: number, length: number): void {
    const request = this.#inFlight.get(token);
    if (request === undefined) {
      this.fail(
        new FrontEndError(`queue ${this.index}: the daemon gave back a request that it does not have`),
      );
      return;
    }
    this.#inFlight.delete(token);
    const start = request.offset + sum(request.input.map((part) => part.length));
    const room = sum(request.room);
    const reply = this.#memory.bytes.slice(start, start + Math.min(length, room));
    this.#memory.release(request.offset);
    if (length <= room) request.resolve(reply);
    else request.reject(new FrontEndError(`the daemon wrote ${length} bytes into ${room}`));
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
