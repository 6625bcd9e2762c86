import { FsError, OpenFlags, type Awaitable } from '../../backend/index.js';
import type { Slot, UnfinishedTransfer } from '../../state/index.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import { checkCount, isGone, PARKED } from './operation.js';

/** The most bytes that a guest's request moves before it is looked whether another guest waits. */
const PIECE_BYTES = 64 * 1024;

/** What goes to the end of a file, or is on disk with each call, is one call. */
const WHOLE = OpenFlags.APPEND | OpenFlags.SYNC | OpenFlags.DSYNC;

/** A READ or WRITE that makes room for other guests. */
interface Transfer {
  readonly session: Session;
  readonly request: Request;
  readonly slot: Slot;
  readonly isWrite: boolean;
  /** Where it begins in the file. */
  readonly offset: number;
  readonly size: number;
  /** Has the backend move the bytes from `start` to `end` of the request's data. */
  move(start: number, end: number): Awaitable<number>;
}

/** Whether a transfer is to be carried out {@link inPieces}. @param flags of the open file. */
export function isInPieces({ message }: Request, size: number, flags: number): boolean {
  return size > PIECE_BYTES && message.isThreadShared === true && (flags & WHOLE) === 0;
}

/**
 * Carries out a transfer by several calls of the backend, as long as these are synchronous. If
 * another guest waits after one of them, the rest follows when that one had its turn; see
 * `UnfinishedTransfers` for what others see of it meanwhile.
 *
 * A read fails if any piece fails: a short one would be the end of the file to the guest. A write
 * whose later piece fails is short, as write(2).
 * @throws what the backend throws.
 */
export function inPieces(transfer: Transfer): Awaitable<number> | typeof PARKED {
  const pieces = new Pieces(transfer);
  const result = pieces.go(true);
  if (result !== undefined) return result;
  pieces.putOff();
  return PARKED;
}

class Pieces implements UnfinishedTransfer {
  readonly slot: Slot;
  readonly isWrite: boolean;
  readonly #transfer: Transfer;
  #done = 0;
  #isUnfinished = false;

  constructor(transfer: Transfer) {
    this.#transfer = transfer;
    this.slot = transfer.slot;
    this.isWrite = transfer.isWrite;
  }

  /** @returns the result; undefined if the rest is to follow later. @throws as {@link inPieces}. */
  go(mayPutOff: boolean): Awaitable<number> | undefined {
    const { request, size } = this.#transfer;
    for (;;) {
      const end = Math.min(this.#done + PIECE_BYTES, size);
      const moved = this.#move(end);
      if (moved instanceof Promise) return this.#track(this.#rest(moved, end));
      if (!this.#took(moved, end)) return this.#done;
      if (mayPutOff && request.message.isThreadWanted!()) return undefined;
    }
  }

  /** Keeps the request until the rest is done. */
  putOff(): void {
    const { session, request } = this.#transfer;
    session.suspend(request);
    session.export.unfinished.add(this);
    this.#isUnfinished = true;
    request.message.goOnLater!(this.#later);
  }

  finish(): void {
    this.#goOn(false);
  }

  readonly #later = (): void => this.#goOn(true);

  #goOn(mayPutOff: boolean): void {
    if (!this.#isUnfinished) return;
    const { session, request } = this.#transfer;
    let result: Awaitable<number> | undefined;
    try {
      result = this.go(mayPutOff);
    } catch (error) {
      result = Promise.reject(error as Error);
    }
    if (result === undefined) {
      request.message.goOnLater!(this.#later);
      return;
    }
    this.#isUnfinished = false;
    session.export.unfinished.delete(this);
    session.resume(request, result);
  }

  /** Moves what is left up to `end`. */
  #move(end: number): Awaitable<number> {
    try {
      return this.#transfer.move(this.#done, end);
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** What a piece that fails has moved. @throws the error, unless a part was written before. */
  #failed(error: unknown): number {
    if (this.isWrite && this.#done > 0) return 0;
    throw error;
  }

  /** Adds what a piece has moved. @returns whether more is to follow. */
  #took(moved: number, end: number): boolean {
    checkCount(moved, end - this.#done);
    this.#done += moved;
    return this.#done === end && end < this.#transfer.size;
  }

  /** A piece takes time: all that follows is one call. */
  async #rest(piece: Promise<number>, end: number): Promise<number> {
    const { session, request, size } = this.#transfer;
    const moved = await piece.catch((error: unknown) => this.#failed(error));
    if (!this.#took(moved, end)) return this.#done;
    if (isGone(session, request)) return 0;
    if (request.context.aborted) return this.isWrite ? this.#done : Promise.reject(FsError.of('EINTR'));
    const more = await Promise.resolve(this.#move(size)).catch((error: unknown) => this.#failed(error));
    this.#took(more, size);
    return this.#done;
  }

  /** What is read meanwhile waits for a write. */
  #track(result: Promise<number>): Promise<number> {
    const { session, offset, size } = this.#transfer;
    if (this.isWrite) session.writes.add(this.slot, offset, offset + size, result);
    return result;
  }
}
