import { AddressSpace, type Message } from '../../../core/memory/index.js';
import { dup } from '../../../core/system/calls/files.js';
import { eventfd, Mapping, memfd, OwnedFd } from '../../../core/system/index.js';
import {
  DriverQueue,
  type DriverQueueOptions,
  inflightBytes,
  InflightQueue,
  type Poller,
  type QueueService,
  RingFeature,
  Virtqueue,
} from '../../../core/virtqueue/index.js';

/** Where the guest's memory begins, for the guest and for its front-end. */
export const GUEST = 0x1_0000_0000;
export const USER = 0x7f00_0000_0000;

/** Requests' data begins here in the rig's memory; the ring lies below. */
export const DATA = 0x10_0000;

export interface RigOptions extends Partial<DriverQueueOptions> {
  readonly memory?: number;
  readonly poller?: Poller;
  /** Default: true. */
  readonly hasReplies?: boolean;
  /** Tracks what is in flight, in a region for rings of this size. */
  readonly inflight?: number;
}

/** Both sides of one queue over one piece of shared memory, in one process. */
export class Rig {
  readonly space = new AddressSpace();
  readonly driverMemory: Mapping;
  readonly driver: DriverQueue;
  queue: Virtqueue;
  /** The in-flight region of one queue. */
  readonly region: Mapping | undefined;
  /** The driver's ends of the eventfds; the queue has its own. */
  readonly kick: OwnedFd = eventfd();
  readonly call: OwnedFd = eventfd();
  readonly err: OwnedFd = eventfd();
  readonly warnings: string[] = [];
  readonly #deviceMemory: Mapping;
  readonly #options: RigOptions;

  constructor(options: RigOptions = {}) {
    const { size = 16, eventIdx = true, indirect = 0, memory = 4 * 2 ** 20, inflight } = options;
    this.#options = options;
    using fd = memfd('guest', memory);
    this.driverMemory = Mapping.map(fd.value, memory, 0);
    this.#deviceMemory = Mapping.map(fd.value, memory, 0);
    this.space.add(this.#deviceMemory, GUEST, USER);
    this.driver = new DriverQueue(this.driverMemory, GUEST, 0, { size, eventIdx, indirect });
    if (inflight !== undefined) {
      const bytes = inflightBytes({ queues: 1, queueSize: inflight });
      using region = memfd('in-flight', bytes);
      this.region = Mapping.map(region.value, bytes, 0);
    }
    this.queue = this.#makeQueue();
  }

  /** Makes the device's side as in a new process, which knows only what is in memory. */
  #makeQueue(): Virtqueue {
    const { size = 16, eventIdx = true, poller, inflight, hasReplies } = this.#options;
    const log = { warn: (_fields: object, message: string) => this.warnings.push(message) };
    const queue = new Virtqueue(this.space, size, log, poller, undefined, hasReplies);
    queue.features =
      RingFeature.VERSION_1 | RingFeature.INDIRECT_DESC | (eventIdx ? RingFeature.EVENT_IDX : 0n);
    if (this.region !== undefined)
      queue.inflight = new InflightQueue(this.region, { queues: 1, queueSize: inflight! }, 0);
    this.queue = queue;
    this.setAddresses();
    const own = (fd: OwnedFd) => (this.region === undefined ? fd : new OwnedFd(dup(fd.value)));
    queue.setKick(own(this.kick));
    queue.setCall(own(this.call));
    queue.setErr(own(this.err));
    return queue;
  }

  /**
   * Replaces the device's side, as if its process was killed and another one took over. The new one
   * does not know the requests that the former one had taken.
   */
  replaceDevice(): void {
    this.queue.close();
    this.#makeQueue();
  }

  setAddresses(log?: number): void {
    const { descriptors, available, used } = this.driver;
    this.queue.setAddresses(descriptors - GUEST + USER, available - GUEST + USER, used - GUEST + USER, log);
  }

  /** Words, half words and bytes of the memory, as the guest sees them. */
  get words(): Uint32Array {
    return this.driverMemory.windowAt(this.driverMemory.address).u32;
  }

  get halves(): Uint16Array {
    return this.driverMemory.windowAt(this.driverMemory.address).u16;
  }

  get bytes(): Uint8Array {
    return this.driverMemory.windowAt(this.driverMemory.address).u8;
  }

  /** Writes a descriptor into the table. */
  descriptor(index: number, address: number, length: number, flags: number, next = 0): void {
    this.entry((this.driver.descriptors - GUEST) / 16 + index, address, length, flags, next);
  }

  /** Writes a descriptor at any multiple of 16 bytes in the memory. */
  entry(index: number, address: number, length: number, flags: number, next = 0): void {
    const words = this.words;
    words[index * 4] = address % 2 ** 32;
    words[index * 4 + 1] = Math.floor(address / 2 ** 32);
    words[index * 4 + 2] = length;
    words[index * 4 + 3] = flags | (next << 16);
  }

  /** Starts the queue with a function that takes the requests. */
  start(dispatch: QueueService['dispatch']): void {
    this.queue.start({ dispatch, submit: () => {} });
  }

  /** Makes heads available, behind the driver queue's back, and lets the device look. */
  offer(...heads: number[]): void {
    const at = (this.driver.available - GUEST) / 2;
    for (const head of heads) {
      const index = this.halves[at + 1]!;
      this.halves[at + 2 + (index & (this.driver.size - 1))] = head;
      this.halves[at + 1] = index + 1;
    }
    this.queue.kick();
  }

  /** The available index: how many chains were made available, modulo 2^16. */
  get offered(): number {
    return this.halves[(this.driver.available - GUEST) / 2 + 1]!;
  }

  close(): void {
    this.queue.close();
    for (const mapping of this.space.clear()) mapping.unmap();
    this.driverMemory.unmap();
    this.region?.unmap();
    for (const fd of [this.kick, this.call, this.err]) fd.close();
  }
}

/** Lets the event loop turn until something holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** Answers a request with the bytes of its readable part, each incremented by one. */
export function echo(message: Message): void {
  const bytes = new Uint8Array(Math.min(message.readable.length, message.writable.length));
  message.readable.get(0, bytes);
  message.writable.put(
    0,
    bytes.map((byte) => byte + 1),
  );
  message.complete(bytes.length);
}
