import type { OwnedFd } from '../system/index.js';
import {
  encodeVringState,
  Feature,
  hasReply,
  ProtocolFeature,
  Request,
  type Header,
} from '../vhost-user/messages.js';

/** A message as it was sent, with its descriptors. */
export interface Said {
  readonly request: number;
  readonly payload: Uint8Array;
  readonly fds: readonly OwnedFd[];
}

/** What was set of one queue. */
interface Ring {
  readonly said: Map<number, Said>;
}

/** Messages about one queue of which the last one counts, in the order of replay. */
const RING = [
  Request.SET_VRING_NUM,
  Request.SET_VRING_BASE,
  Request.SET_VRING_ADDR,
  Request.SET_VRING_ERR,
  Request.SET_VRING_CALL,
  Request.SET_VRING_KICK,
  Request.SET_VRING_ENABLE,
] as const;

/** Other messages of which the last one counts, in the order of replay around the memory. */
const BEFORE_MEMORY = [
  Request.SET_OWNER,
  Request.SET_PROTOCOL_FEATURES,
  Request.SET_FEATURES,
  Request.SET_BACKEND_REQ_FD,
] as const;
const AFTER_MEMORY = [Request.SET_LOG_BASE, Request.SET_LOG_FD, Request.SET_INFLIGHT_FD] as const;
const LAST = new Set<number>([...BEFORE_MEMORY, ...AFTER_MEMORY, Request.SET_STATUS]);

/** Messages that are said before the first of them is answered. */
const SAID_TOGETHER = 32;

/** Bytes of the shortest message about a queue. The engine refuses shorter ones. */
const RING_BYTES = 8;

/** Bytes of a region's description that tell whether two are the same: without the mmap offset. */
const REGION_START = 8;
const REGION_IDENTITY = 24;

/**
 * What a front-end has set, with the descriptors: what another engine needs to be told to be in the
 * place of the one before it.
 */
export class Setup {
  readonly #last = new Map<number, Said>();
  /** SET_MEM_TABLE and, after it, each ADD_MEM_REG that was not removed. */
  #memory: Said[] = [];
  readonly #rings = new Map<number, Ring>();
  #isClosed = false;

  get features(): bigint {
    return u64(this.#last.get(Request.SET_FEATURES)) & ~Feature.LOG_ALL;
  }

  get protocolFeatures(): bigint {
    return u64(this.#last.get(Request.SET_PROTOCOL_FEATURES));
  }

  has(feature: keyof typeof ProtocolFeature): boolean {
    return (this.protocolFeatures & ProtocolFeature[feature]) !== 0n;
  }

  /** Whether the in-flight region is known. */
  get hasInflight(): boolean {
    return this.#last.has(Request.SET_INFLIGHT_FD);
  }

  /** Whether nothing was set. */
  get isEmpty(): boolean {
    return this.#last.size === 0;
  }

  /** Whether a queue is started. */
  get hasKicks(): boolean {
    return [...this.#rings.values()].some(({ said }) => said.has(Request.SET_VRING_KICK));
  }

  /** Entries of the largest ring; 0 if none is known. */
  get largestRing(): number {
    const sizes = [...this.#rings.values()].map(({ said }) => said.get(Request.SET_VRING_NUM));
    return Math.max(0, ...sizes.map((one) => (one === undefined ? 0 : word(one.payload, 4))));
  }

  /** How many queues were told of: one more than the highest index. */
  get rings(): number {
    return Math.max(0, ...[...this.#rings.keys()].map((index) => index + 1));
  }

  /**
   * Notes a message that the engine has got. Takes its descriptors, and closes them where there is
   * nothing to note, or the front-end has gone.
   * @param given as it was sent to the engine.
   */
  note(given: Said): void {
    const { request, payload } = given;
    const isOfRing = (RING as readonly number[]).includes(request);
    if (this.#isClosed || (isOfRing && payload.length < RING_BYTES)) {
      closeAll(given);
      return;
    }
    if (LAST.has(request)) {
      replace(this.#last, request, given);
      if (request === Request.SET_STATUS && u64(given) === 0n) this.#reset();
      return;
    }
    if (isOfRing) {
      replace(this.#ring(payload).said, request, given);
      return;
    }
    switch (request) {
      case Request.SET_MEM_TABLE:
        for (const old of this.#memory) closeAll(old);
        this.#memory = [given];
        return;
      case Request.ADD_MEM_REG:
        this.#memory.push(given);
        return;
      case Request.REM_MEM_REG:
        this.#memory = this.#memory.filter((old) => {
          const isSame = old.request === Request.ADD_MEM_REG && isSameRegion(old, given);
          if (isSame) closeAll(old);
          return !isSame;
        });
        break;
      case Request.RESET_OWNER:
        for (const ring of this.#rings.values()) drop(ring.said, Request.SET_VRING_ENABLE);
        break;
      case Request.RESET_DEVICE:
        this.#reset();
        break;
    }
    closeAll(given);
  }

  /** Notes the answer of GET_VRING_BASE: the queue has stopped there. */
  stopped(index: number, base: number): void {
    drop(this.#ring(encodeVringState(index, base)).said, Request.SET_VRING_KICK);
    this.rebase(index, base);
  }

  /** Notes where a queue goes on. */
  rebase(index: number, base: number): void {
    const payload = encodeVringState(index, base);
    replace(this.#ring(payload).said, Request.SET_VRING_BASE, {
      request: Request.SET_VRING_BASE,
      payload,
      fds: [],
    });
  }

  /**
   * Everything, in an order in which an engine takes it. What is said together need not be answered
   * one by one; queues come after what they need.
   */
  *replay(): Generator<readonly Said[]> {
    yield* parts([...this.#each(BEFORE_MEMORY), ...this.#memory, ...this.#each(AFTER_MEMORY)]);
    const rings = [...this.#rings.values()].flatMap(({ said }) =>
      RING.flatMap((request) => said.get(request) ?? []),
    );
    yield* parts([...rings, ...this.#each([Request.SET_STATUS])]);
  }

  close(): void {
    this.#isClosed = true;
    for (const one of this.#last.values()) closeAll(one);
    for (const one of this.#memory) closeAll(one);
    for (const { said } of this.#rings.values()) for (const one of said.values()) closeAll(one);
  }

  #each(requests: readonly number[]): Said[] {
    return requests.flatMap((request) => this.#last.get(request) ?? []);
  }

  /** The queue that a message is about: the first 32 bits, of which descriptors' messages use 8. */
  #ring(payload: Uint8Array): Ring {
    const index = word(payload, 0) & 0xff;
    let ring = this.#rings.get(index);
    if (ring === undefined) {
      ring = { said: new Map() };
      this.#rings.set(index, ring);
    }
    return ring;
  }

  /** The device was reset. Queues keep only their call and error descriptors (`Vring.reset`). */
  #reset(): void {
    for (const { said } of this.#rings.values()) {
      for (const request of RING) {
        if (request !== Request.SET_VRING_CALL && request !== Request.SET_VRING_ERR) drop(said, request);
      }
    }
  }
}

/** Whether the engine answers a message. */
export function isAnswered({ request, needReply }: Header, payload: Uint8Array, setup: Setup): boolean {
  if (hasReply(request)) return true;
  // The engine has taken the features when it looks whether to answer.
  const features =
    request === Request.SET_PROTOCOL_FEATURES && payload.length === 8
      ? u64({ request, payload, fds: [] })
      : setup.protocolFeatures;
  return needReply && (features & ProtocolFeature.REPLY_ACK) !== 0n;
}

/** @throws RangeError for a payload that is too short. */
function word(payload: Uint8Array, at: number): number {
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(at, true);
}

function isSameRegion(a: Said, b: Said): boolean {
  const part = ({ payload }: Said) => payload.subarray(REGION_START, REGION_START + REGION_IDENTITY);
  return Buffer.compare(part(a), part(b)) === 0;
}

function u64(said: Said | undefined): bigint {
  if (said === undefined || said.payload.length < 8) return 0n;
  return new DataView(said.payload.buffer, said.payload.byteOffset).getBigUint64(0, true);
}

function replace(map: Map<number, Said>, request: number, said: Said): void {
  drop(map, request);
  map.set(request, said);
}

function drop(map: Map<number, Said>, request: number): void {
  const old = map.get(request);
  if (old !== undefined) closeAll(old);
  map.delete(request);
}

/** Few enough for the buffer of a socket. */
function* parts(all: readonly Said[]): Generator<readonly Said[]> {
  for (let at = 0; at < all.length; at += SAID_TOGETHER) yield all.slice(at, at + SAID_TOGETHER);
}

function closeAll({ fds }: Said): void {
  for (const fd of fds) fd.close();
}
