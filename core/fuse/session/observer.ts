import type { Message } from '../../memory/index.js';
import type { Arguments } from '../wire/arguments.js';
import type { Reply } from '../wire/reply.js';
import type { FileTable } from './file-table.js';

/** What an observer sees of a request, beside its arguments. */
export interface ObservedRequest {
  readonly message: Message;
  /** Bytes of data in the reply, behind its structure, as soon as that is there. */
  readonly data: number;
}

/** What an observer has kept of a request that is not answered yet. */
export interface Observation {
  /**
   * The request is about to be answered. Must not throw.
   * @param length as `Operation.finish` returns it.
   * @param output has the reply's structure, if `length` is above 0.
   */
  ended(request: ObservedRequest, length: number, output: Reply): void;
}

/** Is told of every request of some sessions, while somebody looks on. */
export interface RequestObserver {
  /**
   * A request begins. Must not throw.
   * @param guest the number of its session.
   * @param input header and arguments, valid until this returns.
   * @param flags what INIT negotiated, in its two words.
   */
  began(
    guest: number,
    request: ObservedRequest,
    input: Arguments,
    flags: number,
    flags2: number,
  ): Observation;
}

/** Who looks on what the sessions of one server do. They share this, so that it can change. */
export class Observed {
  readonly #tables = new Set<Pick<FileTable, 'passAll'>>();
  #observer: RequestObserver | undefined;

  get observer(): RequestObserver | undefined {
    return this.#observer;
  }

  set observer(observer: RequestObserver | undefined) {
    this.#observer = observer;
    for (const table of this.#tables) table.passAll(observer !== undefined);
  }

  /** A session begins whose requests queue threads serve, too: they pass all on while one looks. */
  begin(table: Pick<FileTable, 'passAll'>): void {
    this.#tables.add(table);
    table.passAll(this.#observer !== undefined);
  }

  /** The session has ended. */
  end(table: Pick<FileTable, 'passAll'>): void {
    this.#tables.delete(table);
  }
}
