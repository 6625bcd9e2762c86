import { SegmentList, type Message } from '../../core/memory/index.js';
import { NativeWindow } from '../../core/memory/index.js';
import { NO_PLACE } from '../../core/state/index.js';
import { NativeMemory } from '../../core/system/index.js';
import type { FuseTransport } from './fuse-client.js';

/** The session failed the queue, because it could not answer a request. */
export class QueueFailed extends Error {
  override readonly name = 'QueueFailed';
}

/** How a request's bytes are cut into segments: lengths, the last one repeated. */
export type Cut = (length: number, writable: boolean) => readonly number[];

/** Linux gives the header a segment of its own, and the rest another one. */
const linuxCut: Cut = (length, writable) => {
  const head = Math.min(length, writable ? 16 : 40);
  return [head, length - head];
};

/** Bytes between segments. Without a gap they would be merged into one. */
const GAP_BYTES = 8;

/** A request in native memory, as a transport would hand it over. */
class LoopbackMessage implements Message {
  readonly readable: SegmentList;
  readonly writable: SegmentList;
  readonly passedOn: boolean;
  readonly place: number;
  readonly #memory: NativeMemory;
  readonly #room: number;
  #done: ((reply: Uint8Array | QueueFailed) => void) | undefined;

  constructor(
    input: Uint8Array,
    room: number,
    cut: Cut,
    passedOn: boolean,
    place: number,
    done: (reply: Uint8Array | QueueFailed) => void,
  ) {
    this.passedOn = passedOn;
    this.place = place;
    const inCuts = cut(input.length, false);
    const outCuts = cut(room, true);
    const replyAt = (input.length + GAP_BYTES * inCuts.length + 7) & ~7;
    this.#memory = NativeMemory.allocate(replyAt + room + GAP_BYTES * outCuts.length + 1);
    this.#room = room;
    this.#done = done;
    const window = new NativeWindow(this.#memory);
    this.readable = new SegmentList(window, 1);
    this.writable = new SegmentList(window, 1);
    push(this.readable, this.#memory.address, inCuts);
    push(this.writable, this.#memory.address + replyAt, outCuts);
    this.readable.copyIn(0, input, 0, input.length);
  }

  complete(written: number): void {
    if (written > this.#room) throw new Error(`${written} bytes written into ${this.#room}`);
    const reply = new Uint8Array(written);
    this.writable.copyOut(0, reply, 0, written);
    this.#finish(reply);
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
    at += length + GAP_BYTES;
  }
}

/** Where the requests go: a session. */
export interface LoopbackTarget {
  dispatch(message: Message, following: number): void;
  submit(): void;
}

/** Carries requests to a session in the same process, each in memory of its own. */
export class Loopback implements FuseTransport {
  readonly #target: LoopbackTarget;
  #following = 0;
  /** How the next requests are cut. Tests may change it. */
  cut: Cut = linuxCut;
  /** Whether a queue thread has passed the requests on; tests may change it. */
  passedOn = false;
  /** The `place` of the next requests, if it has. */
  place = NO_PLACE;
  /** Requests sent and not yet answered. */
  pending = 0;

  constructor(target: LoopbackTarget) {
    this.#target = target;
  }

  request(_queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.pending += 1;
      const message = new LoopbackMessage(input, outSize, this.cut, this.passedOn, this.place, (reply) => {
        this.pending -= 1;
        if (reply instanceof QueueFailed) reject(reply);
        else resolve(reply);
      });
      if (this.#following > 0) this.#following -= 1;
      this.#target.dispatch(message, this.#following);
    });
  }

  /**
   * Announces that the next `count` requests lie in the ring together. The caller calls {@link
   * submit} after them.
   */
  announce(count: number): void {
    this.#following = count;
  }

  /** Tells the session that no more requests are there for now. */
  submit(): void {
    this.#following = 0;
    this.#target.submit();
  }

  /**
   * Sends requests that lie in the ring together. Each of the calls sends one before it returns.
   * @returns how each ended.
   */
  together<T>(calls: readonly (() => Promise<T>)[]): Promise<PromiseSettledResult<T>[]> {
    this.announce(calls.length);
    const sent = calls.map((call) => call());
    this.submit();
    return Promise.allSettled(sent);
  }
}
