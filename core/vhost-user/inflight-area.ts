import { type Fd, Mapping, memfd, type OwnedFd, Seal, SystemError } from '../system/index.js';
import { inflightBytes, InflightQueue } from '../virtqueue/index.js';
import { type Inflight, ProtocolError } from './messages.js';

/** Typed arrays over the region need whole words. */
const OFFSET_UNIT = 8;

/**
 * Makes the region that GET_INFLIGHT_FD asks for, zeroed: "the back-end … allocates shared buffer".
 * @param queues of the device, hiprio included.
 * @throws ProtocolError for a geometry that the device does not have.
 */
export function makeInflight(wanted: Inflight, queues: number): { fd: OwnedFd; inflight: Inflight } {
  const type = 'GET_INFLIGHT_FD';
  const size = bytesOf(type, wanted, queues);
  try {
    const fd = memfd('virtiofs-kit in-flight', size, Seal.SHRINK | Seal.GROW | Seal.SEAL);
    return { fd, inflight: { ...wanted, size, offset: 0 } };
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new ProtocolError(`${type}: ${error.message}`, { cause: error });
  }
}

/** The region that SET_INFLIGHT_FD gives: made by this process, or by one before it. */
export class InflightArea {
  readonly #given: Inflight;
  readonly #mapping: Mapping;

  /**
   * @param queues of the device, hiprio included.
   * @param onLost the region turned out to have nothing behind it.
   * @throws ProtocolError if the region is too small, or can't be mapped.
   */
  constructor(given: Inflight, fd: Fd, queues: number, onLost: () => void) {
    const type = 'SET_INFLIGHT_FD';
    const least = bytesOf(type, given, queues);
    if (given.size < least)
      throw new ProtocolError(`${type}: ${given.size} bytes are too few for the queues, ${least}`);
    if (given.offset % OFFSET_UNIT !== 0)
      throw new ProtocolError(`${type}: offset ${given.offset} is no multiple of ${OFFSET_UNIT}`);
    this.#given = given;
    try {
      this.#mapping = Mapping.map(fd, least, given.offset, onLost);
    } catch (error) {
      if (!(error instanceof RangeError || error instanceof SystemError)) throw error;
      throw new ProtocolError(`${type}: ${error.message}`, { cause: error });
    }
  }

  /** The part of a queue. @returns undefined for a queue that the front-end has left out. */
  queue(index: number): InflightQueue | undefined {
    return index < this.#given.queues ? new InflightQueue(this.#mapping, this.#given, index) : undefined;
  }

  close(): void {
    this.#mapping.unmap();
  }
}

function bytesOf(type: string, geometry: Inflight, queues: number): number {
  if (geometry.queues > queues)
    throw new ProtocolError(`${type}: ${geometry.queues} queues of ${queues} that there are`);
  try {
    return inflightBytes(geometry);
  } catch (error) {
    throw new ProtocolError(`${type}: ${(error as Error).message}`, { cause: error });
  }
}
