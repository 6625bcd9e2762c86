import { SegmentList, type Message } from '../../core/memory/index.js';
import { NativeWindow } from '../../core/memory/index.js';
import { NativeMemory } from '../../core/system/index.js';
import type { FuseTransport } from './fuse-client.js';

/** The transport failed the queue: a request was neither understood nor answered. */
export class QueueFailed extends Error {
  override readonly name = 'QueueFailed';
}

/** How a request's bytes are cut into segments: lengths, the last one repeated. */
export type Cut = (length: number, writable: boolean) => readonly number[];

/** As Linux lays a request out: the header by itself, the rest behind it. */
const linuxCut: Cut = (length, writable) => {
  const head = Math.min(length, writable ? 16 : 40);
  return [head, length - head];
};

/** A request in native memory, as a transport would hand it over. */
class LoopbackMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly #memory: NativeMemory;
  readonly #room: number;
  readonly #replyAt: number;
  #done: ((reply: Uint8Array | QueueFailed) => void) | undefined;

  constructor(input: Uint8Array, room: number, cut: Cut, done: (reply: Uint8Array | QueueFailed) => void) {
    this.#replyAt = (input.length + 7) & ~7;
    this.#memory = NativeMemory.allocate(Math.max(1, this.#replyAt + room));
    this.#room = room;
    this.#done = done;
    this.#memory.u8.set(input);
    const window = new NativeWindow(this.#memory);
    this.readable = new SegmentList(window, 1);
    this.writable = new SegmentList(window, 1);
    push(this.readable, this.#memory.address, cut(input.length, false));
    push(this.writable, this.#memory.address + this.#replyAt, cut(room, true));
  }

  complete(written: number): void {
    if (written > this.#room) throw new Error(`${written} bytes written into ${this.#room}`);
    this.#finish(this.#memory.u8.slice(this.#replyAt, this.#replyAt + written));
  }

  fail(): void {
    this.#finish(new QueueFailed());
  }

  #finish(reply: Uint8Array | QueueFailed): void {
    const done = this.#done;
    if (done === undefined) throw new Error('a message was answered twice');
    this.#done = undefined;
    this.readable.close();
    this.writable.close();
    this.#memory.free();
    done(reply);
  }
}

function push(list: SegmentList, address: number, lengths: readonly number[]): void {
  let at = address;
  for (const length of lengths) {
    list.push(at, length);
    at += length;
  }
}

/** Carries requests to a session in the same process, each in memory of its own. */
export class Loopback implements FuseTransport {
  readonly #target: { dispatch(message: Message): void };
  /** Taken for each request; tests may change it. */
  cut: Cut = linuxCut;
  /** Requests sent and not yet answered. */
  pending = 0;

  constructor(target: { dispatch(message: Message): void }) {
    this.#target = target;
  }

  request(_queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.pending += 1;
      const message = new LoopbackMessage(input, outSize, this.cut, (reply) => {
        this.pending -= 1;
        if (reply instanceof QueueFailed) reject(reply);
        else resolve(reply);
      });
      this.#target.dispatch(message);
    });
  }
}
