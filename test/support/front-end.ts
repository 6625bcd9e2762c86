import { setTimeout as sleep } from 'node:timers/promises';
import {
  advancePromises,
  drain,
  type OwnedFd,
  SystemError,
  type UnixConnection,
  watch,
  type Watch,
} from '../../core/system/index.js';
import {
  FrontEnd as Connected,
  FrontEndError,
  type FrontEndOptions as ConnectedOptions,
  type FrontEndQueue,
  ProtocolFeature,
  type SharedMemory,
} from '../../core/vhost-user/index.js';
import { decodeInflight, encodeInflight, type Inflight } from '../../core/vhost-user/messages.js';
import { encodeSingleRegion } from './payloads.js';

/** A request that waits for room in the ring, or for its reply. */
interface Request {
  readonly input: readonly Uint8Array[];
  readonly room: readonly number[];
  /** Offset of its memory in the shared memory. -1 before it is in the ring. */
  offset: number;
  resolve(reply: Uint8Array): void;
  reject(error: Error): void;
}

/** Requests of one queue, as promises. */
class Requests {
  readonly #queue: FrontEndQueue;
  readonly #memory: SharedMemory;
  /** Segments of an indirect table; 0 if there are no such tables. */
  readonly #indirect: number;
  /** Free entries of the descriptor table. A request with an indirect table takes one. */
  #freeDescriptors: number;
  /** Requests in the ring, by token. */
  readonly #inFlight = new Map<number, Request>();
  readonly #waiting: Request[] = [];
  #watch: Watch | undefined;
  #failure: Error | undefined;

  constructor(queue: FrontEndQueue, memory: SharedMemory, indirect: number) {
    this.#queue = queue;
    this.#memory = memory;
    this.#indirect = indirect;
    this.#freeDescriptors = queue.driver.size;
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
      const most = this.#indirect || this.#queue.driver.size;
      if (segments > most) {
        reject(new FrontEndError(`a request of ${segments} segments, of ${most} at most`));
        return;
      }
      this.#watch ??= watch(this.#queue.call.value, () => this.#collect());
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
  }

  /** Puts waiting requests into the ring, as long as there is room in it and in the memory. */
  #submit(): void {
    const { driver } = this.#queue;
    let submitted = false;
    for (let request = this.#waiting[0]; request !== undefined; request = this.#waiting[0]) {
      if (this.#freeDescriptors < this.#descriptorsOf(request)) break;
      const bytes = sum(request.input.map((part) => part.length)) + sum(request.room);
      request.offset = this.#memory.allocate(bytes);
      if (request.offset < 0) break;
      this.#waiting.shift();
      this.#place(request);
      submitted = true;
    }
    if (submitted) driver.kick(this.#queue.kick.value);
    if (this.#inFlight.size === 0 && this.#waiting.length > 0) {
      this.#waiting.shift()!.reject(new FrontEndError('the request does not fit into the shared memory'));
    }
  }

  #descriptorsOf({ input, room }: Request): number {
    return this.#indirect > 0 ? 1 : input.length + room.length;
  }

  #place(request: Request): void {
    const { driver } = this.#queue;
    this.#freeDescriptors -= this.#descriptorsOf(request);
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
    drain(this.#queue.call.value);
    const { driver } = this.#queue;
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
        new FrontEndError(`queue ${this.#queue.index}: the daemon gave back a request that it does not have`),
      );
      return;
    }
    this.#inFlight.delete(token);
    this.#freeDescriptors += this.#descriptorsOf(request);
    const start = request.offset + sum(request.input.map((part) => part.length));
    const room = sum(request.room);
    const reply = this.#memory.bytes.slice(start, start + Math.min(length, room));
    this.#memory.release(request.offset);
    if (length <= room) request.resolve(reply);
    else request.reject(new FrontEndError(`the daemon wrote ${length} bytes into ${room}`));
  }
}

/** How a front-end sets its device up. */
export interface FrontEndOptions extends ConnectedOptions {
  /** Announces memory by ADD_MEM_REG where the daemon can. Default false. */
  readonly memorySlots?: boolean | undefined;
  /**
   * Keeps an in-flight region, where the daemon has them (INFLIGHT_SHMFD). When the daemon goes
   * away, requests then wait for {@link FrontEnd.reconnect}. Default false.
   */
  readonly inflight?: boolean | undefined;
}

/** A front-end that sends requests and waits for their replies. It can outlive daemons. */
export class FrontEnd extends Connected {
  readonly #options: FrontEndOptions;
  readonly #requests: Requests[] = [];
  /** The in-flight region, which outlives connections. */
  protected inflight: { readonly fd: OwnedFd; readonly region: Inflight } | undefined;
  #isClosed = false;
  /** Why no request can be sent any more. */
  #failure: FrontEndError | undefined;

  protected constructor(target: string | UnixConnection, options: FrontEndOptions) {
    super(target, options);
    this.#options = options;
    this.failWithConnection();
  }

  static override async connect(
    target: string | UnixConnection,
    options: FrontEndOptions = {},
  ): Promise<FrontEnd> {
    for (let tries = 1; ; tries++) {
      try {
        return await new FrontEnd(target, options).setUp();
      } catch (error) {
        // A socket is there a moment before anybody listens on it.
        const isRefused = error instanceof SystemError && error.code === 'ECONNREFUSED';
        if (!isRefused || tries === 50) throw error;
        await sleep(20);
      }
    }
  }

  /**
   * Sends a request: readable segments, and sizes of writable segments for its reply.
   * @returns the reply's bytes, as many as the daemon said it wrote.
   */
  request(queue: number, input: readonly Uint8Array[], room: readonly number[]): Promise<Uint8Array> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    this.#requests[queue] ??= new Requests(this.queues[queue]!, this.memory, this.#options.indirect ?? 0);
    return this.#requests[queue].request(input, room);
  }

  /**
   * Connects to the next daemon after the former one has gone, with the same memory, queues and
   * in-flight region. Requests without a reply get theirs from the new daemon. As Cloud Hypervisor
   * does, it gives the available index as the base; the daemon knows better by the region.
   * @throws SystemError if nobody listens there, FrontEndError if the daemon refuses something, or
   * offers less than the former one.
   */
  async reconnect(target: string | UnixConnection): Promise<void> {
    const inflight = this.inflight;
    if (inflight === undefined) throw new FrontEndError('there is no in-flight region');
    this.open(target);
    this.failWithConnection();
    const { features, protocolFeatures } = this;
    await this.negotiate();
    if (this.features !== features || this.protocolFeatures !== protocolFeatures) {
      throw this.channel.end('the new daemon offers other features than the former one');
    }
    const { region, fd } = inflight;
    await this.channel.command('SET_INFLIGHT_FD', encodeInflight(region), [fd.value]);
    await this.shareMemory();
    for (const { index } of this.queues) await this.startQueue(index);
  }

  /**
   * Goes to another daemon with memory and rings, as a guest that moves. The queues are stopped.
   * @param load gives the daemon the session's state. @returns what it returns.
   */
  async moveTo<T>(target: string, bases: readonly number[], load: () => Promise<T>): Promise<T> {
    const { channel } = this;
    this.open(target);
    this.failWithConnection();
    channel.end('the guest has moved');
    await this.negotiate();
    await this.shareMemory();
    const loaded = await load();
    for (const [index, base] of bases.entries()) await this.startQueue(index, base);
    return loaded;
  }

  /** Ends the connection, rejects all requests, and gives everything back. Idempotent. */
  override close(): void {
    this.#isClosed = true;
    for (const requests of this.#requests) requests?.close();
    this.inflight?.fd.close();
    super.close();
  }

  protected override get wantedProtocolFeatures(): bigint {
    const inflight = this.#options.inflight === true ? ProtocolFeature.INFLIGHT_SHMFD : 0n;
    return super.wantedProtocolFeatures | inflight | ProtocolFeature.DEVICE_STATE;
  }

  protected override async shareMemory(): Promise<void> {
    if (this.has('INFLIGHT_SHMFD') && this.inflight === undefined) await this.askForInflight();
    if (this.#options.memorySlots !== true || !this.has('CONFIGURE_MEM_SLOTS')) return super.shareMemory();
    const { region, fd } = this.memory;
    return this.channel.command('ADD_MEM_REG', encodeSingleRegion(region), [fd]);
  }

  /** Requests end with their connection, unless another daemon can go on with them. */
  protected failWithConnection(): void {
    const { ended } = this;
    void ended.then((error) => {
      if (ended !== this.ended) return;
      if (this.inflight !== undefined && !this.#isClosed) return;
      this.#failure = error;
      for (const requests of this.#requests) requests?.fail(error);
    });
  }

  /** Has the daemon make the in-flight region, and gives it back. */
  protected async askForInflight(): Promise<void> {
    const wanted = {
      size: 0,
      offset: 0,
      queues: this.queues.length,
      queueSize: this.#options.queueSize ?? 128,
    };
    const { payload, fds } = await this.channel.exchange('GET_INFLIGHT_FD', encodeInflight(wanted));
    const [fd] = fds;
    if (fd === undefined || fds.length > 1 || payload.length < 20) {
      for (const one of fds) one.close();
      throw new FrontEndError('the daemon gave no in-flight region');
    }
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.inflight = { fd, region: decodeInflight('GET_INFLIGHT_FD', view) };
    await this.channel.command('SET_INFLIGHT_FD', encodeInflight(this.inflight.region), [fd.value]);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
