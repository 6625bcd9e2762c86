import { AddressSpace, type Message } from '../../../core/memory/index.js';
import { eventfd, Mapping, memfd, type OwnedFd } from '../../../core/system/index.js';
import {
  DriverQueue,
  type DriverQueueOptions,
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
}

/** Both sides of one queue over one piece of shared memory, in one process. */
export class Rig {
  readonly space = new AddressSpace();
  readonly driverMemory: Mapping;
  readonly driver: DriverQueue;
  readonly queue: Virtqueue;
  /** The driver's ends of the eventfds; the queue has its own. */
  readonly kick: OwnedFd = eventfd();
  readonly call: OwnedFd = eventfd();
  readonly err: OwnedFd = eventfd();
  readonly warnings: string[] = [];
  readonly #deviceMemory: Mapping;

  constructor(options: RigOptions = {}) {
    const { size = 16, eventIdx = true, indirect = 0, memory = 4 * 2 ** 20 } = options;
    using fd = memfd('guest', memory);
    this.driverMemory = Mapping.map(fd.value, memory, 0);
    this.#deviceMemory = Mapping.map(fd.value, memory, 0);
    this.space.add(this.#deviceMemory, GUEST, USER);
    this.driver = new DriverQueue(this.driverMemory, GUEST, 0, { size, eventIdx, indirect });
    const log = { warn: (_fields: object, message: string) => this.warnings.push(message) };
    this.queue = new Virtqueue(this.space, size, log, options.poller);
    this.queue.features =
      RingFeature.VERSION_1 | RingFeature.INDIRECT_DESC | (eventIdx ? RingFeature.EVENT_IDX : 0n);
    this.setAddresses();
    this.queue.setKick(this.kick);
    this.queue.setCall(this.call);
    this.queue.setErr(this.err);
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

  close(): void {
    this.queue.close();
    for (const mapping of this.space.clear()) mapping.unmap();
    this.driverMemory.unmap();
  }
}

/** Lets the event loop turn until something holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** Answers a request with the bytes of its readable part, each one up by one. */
export function echo(message: Message): void {
  const bytes = new Uint8Array(Math.min(message.readable.length, message.writable.length));
  message.readable.get(0, bytes);
  message.writable.put(
    0,
    bytes.map((byte) => byte + 1),
  );
  message.complete(bytes.length);
}
