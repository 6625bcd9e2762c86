import type { Gathered } from '../../backend/accelerator.js';
import { decodeName, FsError, type Awaitable, type Entry } from '../../backend/index.js';
import type { DirectoryStream } from '../../state/index.js';
import { GATHERED_FEW, GATHERED_MOST } from '../session/gathering.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';

interface Target {
  readonly session: Session;
  readonly request: Request;
  readonly stream: DirectoryStream;
  /** The backend's node of the directory. */
  readonly node: object;
}

/**
 * Looks up the names of a READDIRPLUS. If the backend can gather look-ups, those of the next names
 * are made together.
 */
export class LookAhead {
  readonly #target: Target;
  readonly #sizeOf: (index: number) => number;
  readonly #results: Awaitable<Gathered<object>>[] = [];
  /** Names of the results. */
  readonly #names: string[] = [];
  /**
   * Indexes in the listing: of the first result, of the one after the last, and of the next to be
   * taken.
   */
  #first = 0;
  #end = 0;
  #next = 0;
  /** The name that was taken last. */
  name = '';

  /** @param sizeOf bytes that the entry at an index takes in the reply. */
  constructor(target: Target, sizeOf: (index: number) => number) {
    this.#target = target;
    this.#sizeOf = sizeOf;
  }

  /** Whether names were looked up that were not taken. */
  get hasMore(): boolean {
    return this.#next < this.#end;
  }

  /**
   * Looks up the name at an index; undefined if it is gone.
   * @param room bytes that the reply has left, this entry included.
   * @throws what the backend throws.
   */
  take(index: number, room: number): Awaitable<Entry<object> | undefined> {
    const { session, request, node } = this.#target;
    if (this.#next === this.#end && !this.#gather(index, room)) {
      this.name = this.#name(index);
      return session.backend.lookup(node, this.name, request.context);
    }
    const at = this.#next++ - this.#first;
    const result = this.#results[at];
    this.name = this.#names[at]!;
    if (typeof result === 'number') throw FsError.of(-result);
    return result as Awaitable<Entry<object> | undefined>;
  }

  /** Forgets nodes that were looked up and are not in the reply. */
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
   * Has the names from an index on looked up together: those that the listing has already and that
   * fit into the reply.
   * @returns whether there are some.
   */
  #gather(index: number, room: number): boolean {
    const { session, request, node, stream } = this.#target;
    const { accelerator, gathering } = session;
    if (accelerator.gatherLookup === undefined || gathering.count > 0) return false;
    let end = index;
    for (let left = room; end < index + GATHERED_MOST && stream.has(end); end++) {
      if (stream.isLater(end)) break;
      left -= this.#sizeOf(end);
      if (left < 0) break;
    }
    if (end - index < GATHERED_FEW) return false;
    this.#results.length = 0;
    this.#names.length = 0;
    this.#first = index;
    this.#next = index;
    this.#end = index;
    try {
      while (this.#end < end) {
        const name = this.#name(this.#end);
        if (!accelerator.gatherLookup(node, name, request.context)) break;
        this.#names.push(name);
        this.#end += 1;
      }
    } catch {
      // This name's own look-up will report the error. Those before it are gathered already and
      // must be carried out.
    }
    if (this.#end === index) return false;
    session.submitFor(request, this.#results, this.#end - index);
    if (this.#results.some((result) => result instanceof Promise)) this.#keep();
    return true;
  }

  /**
   * Makes results safe to keep while one of them is waited for. The backend may reuse its attribute
   * objects meanwhile, so they are copied. Promises that reject meanwhile get a handler.
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
