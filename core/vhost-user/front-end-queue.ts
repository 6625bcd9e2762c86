import { eventfd, type OwnedFd } from '../system/index.js';
import { DriverQueue, type DriverQueueOptions } from '../virtqueue/index.js';
import { FrontEndError } from './front-end-channel.js';
import type { SharedMemory } from './front-end-memory.js';

/** One queue of a front-end: the ring and its eventfds. */
export class FrontEndQueue {
  readonly index: number;
  readonly driver: DriverQueue;
  readonly kick: OwnedFd = eventfd();
  readonly call: OwnedFd = eventfd();
  readonly err: OwnedFd = eventfd();

  /** The memory for the ring must be zeroed, as a new {@link SharedMemory} is. */
  constructor(index: number, memory: SharedMemory, options: DriverQueueOptions) {
    this.index = index;
    const offset = memory.allocate(DriverQueue.bytes(options));
    if (offset < 0) throw new FrontEndError('the shared memory is too small for the rings');
    this.driver = new DriverQueue(memory.mapping, memory.guestAddress(0), offset, options);
  }

  close(): void {
    this.kick.close();
    this.call.close();
    this.err.close();
  }
}
