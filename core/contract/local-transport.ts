import { type Message, NativeWindow, SegmentList } from '../memory/index.js';
import { NativeMemory } from '../system/index.js';

/** Bytes of the largest request and reply: 1 MiB of data, headers, and gaps between segments. */
const BUFFER = 1024 * 1024 + 8192;
/** Bytes between segments. Without a gap a list would merge them. */
const GAP = 8;

/** What serves messages: a session. */
export interface Dispatcher {
  dispatch(message: Message, following: number): void;
  submit(): void;
}

/**
 * The sizes of segments. They are odd on purpose, so that a backend fails which uses only the first
 * segment of a buffer.
 */
const CUTS = [1, 4095, 8192, 3, 131_072];

/** A message whose request and reply lie in buffers of this process. */
class LocalMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly #memory = NativeMemory.allocate(2 * BUFFER);
  #settle: ((written: number) => void) | undefined;

  constructor() {
    const window = new NativeWindow(this.#memory);
    this.readable = new SegmentList(window);
    this.writable = new SegmentList(window);
  }

  /**
   * Stores a request.
   * @param head bytes of header, structure and names, which stay in one segment.
   */
  prepare(request: Uint8Array, head: number, room: number): Promise<number> {
    this.readable.clear();
    this.writable.clear();
    fill(this.readable, this.#memory.address, head, request.length);
    this.readable.copyIn(0, request, 0, request.length);
    fill(this.writable, this.#memory.address + BUFFER, 16, room);
    return new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** The first bytes of the reply, copied. */
  reply(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.writable.copyOut(0, bytes, 0, length);
    return bytes;
  }

  complete(written: number): void {
    const settle = this.#settle;
    if (settle === undefined) throw new Error('a request was answered twice');
    this.#settle = undefined;
    settle(written);
  }

  fail(): void {
    this.complete(-1);
  }

  free(): void {
    this.readable.close();
    this.writable.close();
    this.#memory.free();
  }
}

function fill(list: SegmentList, address: number, head: number, length: number): void {
  let at = Math.min(head, length);
  list.push(address, at);
  for (let i = 0; at < length; i++) {
    const bytes = Math.min(CUTS[i % CUTS.length]!, length - at);
    list.push(address + at + (i + 1) * GAP, bytes);
    at += bytes;
  }
}

/** Sends requests to a session in this process, any number at a time. */
export class LocalTransport {
  readonly #session: Dispatcher;
  readonly #spare: LocalMessage[] = [];
  #following = 0;

  constructor(session: Dispatcher) {
    this.#session = session;
  }

  /**
   * Sends a request.
   * @param head the request's bytes before its data.
   * @param room bytes of room for the reply.
   * @returns the reply; empty if the request has none or could not be answered.
   */
  async send(request: Uint8Array, head: number, room: number): Promise<Uint8Array> {
    const message = this.#spare.pop() ?? new LocalMessage();
    const written = message.prepare(request, head, room);
    if (this.#following > 0) this.#following -= 1;
    this.#session.dispatch(message, this.#following);
    const reply = message.reply(Math.max(0, await written));
    this.#spare.push(message);
    return reply;
  }

  /**
   * Sends several requests as if they were in a guest's ring together. Each call must send one
   * before it returns.
   */
  together<T>(calls: readonly (() => Promise<T>)[]): Promise<T[]> {
    this.#following = calls.length;
    const sent = calls.map((call) => call());
    this.#following = 0;
    this.#session.submit();
    return Promise.all(sent);
  }

  close(): void {
    for (const message of this.#spare.splice(0)) message.free();
  }
}
