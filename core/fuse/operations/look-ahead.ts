import { decodeName, FsError, type Awaitable, type Entry, type Gathered } from '../../backend/index.js';
import type { DirectoryStream } from '../../state/index.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';

/** Most look-ups that a listing has made together, and how few are not worth it. */
const MOST_AHEAD = 32;
const FEW_AHEAD = 4;

interface Target {
  readonly session: Session;
  readonly request: Request;
  readonly stream: DirectoryStream;
  /** The directory. */
  readonly node: object;
}

/** Look-ups of the names of a listing: those that come next together, where the backend gathers. */
export class LookAhead {
  readonly #target: Target;
  readonly #sizeOf: (index: number) => number;
  readonly #results: Awaitable<Gathered<object>>[] = [];
  /**
   * The index of the first of the results, and of the one behind the last; the next to be taken.
   */
  #first = 0;
  #end = 0;
  #next = 0;

  /** @param sizeOf bytes that the entry at an index takes in the reply. */
  constructor(target: Target, sizeOf: (index: number) => number) {
    this.#target = target;
    this.#sizeOf = sizeOf;
  }

  /**
   * What the name at an index stands for.
   * @param room bytes that are left for entries from there on.
   * @throws what the backend throws.
   */
  take(index: number, room: number): Awaitable<Entry<object> | undefined> {
    const { session, request, node } = this.#target;
    if (this.#next === this.#end && !this.#gather(index, room)) {
      return session.backend.lookup(node, this.#name(index), request.context);
    }
    const result = this.#results[this.#next++ - this.#first];
    if (typeof result === 'number') throw FsError.of(-result);
    return result as Awaitable<Entry<object> | undefined>;
  }

  /** Lets go of what was found and will not be told. */
  discard(): void {
    const { nodes } = this.#target.session;
    const drop = (result: Gathered<object>): void => {
      if (isEntry(result)) nodes.discard(result.node);
    };
    while (this.#next < this.#end) {
      const result = this.#results[this.#next++ - this.#first];
      if (result instanceof Promise) result.then(drop, () => {});
      else drop(result);
    }
  }

  /**
   * Has the names from an index on looked up together, as many as are at hand and surely told.
   * @returns whether there are some.
   */
  #gather(index: number, room: number): boolean {
    const { session, request, node, stream } = this.#target;
    const { backend, gathering } = session;
    if (backend.gatherLookup === undefined || gathering.count > 0) return false;
    let end = index;
    for (let left = room; end < index + MOST_AHEAD && stream.has(end); end++) {
      left -= this.#sizeOf(end);
      if (left < 0) break;
    }
    if (end - index < FEW_AHEAD) return false;
    this.#results.length = 0;
    this.#first = index;
    this.#next = index;
    this.#end = index;
    try {
      while (this.#end < end && backend.gatherLookup(node, this.#name(this.#end), request.context)) {
        this.#end += 1;
      }
    } catch {
      // Its look-up by itself will tell; those before it are gathered and must be carried out.
    }
    if (this.#end === index) return false;
    session.submitFor(request, this.#results, this.#end - index);
    if (this.#results.some((result) => result instanceof Promise)) this.#keep();
    return true;
  }

  /**
   * Keeps results while one is waited for: by then the backend may have filled its objects anew,
   * and others may have failed.
   */
  #keep(): void {
    for (const [i, result] of this.#results.entries()) {
      if (result instanceof Promise) result.catch(() => {});
      else if (isEntry(result)) this.#results[i] = copyOf(result);
    }
  }

  #name(index: number): string {
    const { stream } = this.#target;
    return decodeName(stream.bytes, stream.nameStart(index), stream.nameEnd(index));
  }
}

function isEntry(result: Awaitable<Gathered<object>>): result is Entry<object> {
  return typeof result === 'object' && 'node' in result;
}

function copyOf({ node, attributes }: Entry<object>): Entry<object> {
  return { node, attributes: { ...attributes } };
}
