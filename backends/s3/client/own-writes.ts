import { WRITE_MARK } from '../objects/attributes.js';
import type { Content } from './bucket-types.js';
import type { CarriedHeaders } from './carried.js';

/** Most objects that are remembered: at 2 KiB of tags or grants each, 8 MiB. */
const OBJECTS = 4096;

interface OwnWrite {
  readonly etag: string;
  readonly headers: CarriedHeaders;
  /** Of the process's clock, in milliseconds. */
  readonly at: number;
}

/**
 * What this mount has given to the objects that it wrote last, so that it need not ask for it
 * before it writes them again. Grants and tags change without the ETag: what was written is
 * believed for as long as names and attributes are.
 */
export class OwnWrites {
  readonly #byKey = new Map<string, OwnWrite>();
  readonly #validMs: number;

  /** @param valid seconds for which it is believed, 0 for never. */
  constructor(valid: number) {
    this.#validMs = valid * 1000;
  }

  /** @param headers what the object got beside its bytes and metadata. */
  note(key: string, etag: string, headers: CarriedHeaders): void {
    if (this.#validMs === 0) return;
    // The first key of a map is the oldest.
    this.#byKey.delete(key);
    this.#byKey.set(key, { etag, headers, at: performance.now() });
    if (this.#byKey.size > OBJECTS) this.#byKey.delete(this.#byKey.keys().next().value!);
  }

  /**
   * @param etag of the object that is meant; undefined for whichever there is
   * @returns undefined if it has to be asked for.
   */
  of(key: string, etag: string | undefined): CarriedHeaders | undefined {
    const own = this.#byKey.get(key);
    if (own === undefined) return undefined;
    const isMeant = etag === undefined || etag === own.etag;
    if (isMeant && performance.now() - own.at < this.#validMs) return own.headers;
    this.#byKey.delete(key);
    return undefined;
  }
}

/** Most writes that are remembered: 1 MiB at most. */
const WRITES = 4096;

/**
 * Marks of writes that ended without an answer: by their time limit, or since the guest gave them
 * up. The server may carry them out later, and then they are no other writer's.
 */
export class GivenUpWrites {
  readonly #marks = new Set<string>();

  note({ metadata }: Content): void {
    const mark = metadata[WRITE_MARK];
    if (mark === undefined) return;
    this.#marks.add(mark);
    // The first one of a set is the oldest.
    if (this.#marks.size > WRITES) this.#marks.delete(this.#marks.values().next().value!);
  }

  has(mark: string | undefined): boolean {
    return mark !== undefined && this.#marks.has(mark);
  }
}
