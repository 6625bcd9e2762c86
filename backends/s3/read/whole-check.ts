import { pause } from '../../../core/backend/pauses.js';
import type { Expectation } from '../client/checksums.js';

/** Blocks that are summed in one turn of the event loop. */
const SUMMED_AT_ONCE = 2;

/** A block of the version, as much as is used of it here. */
interface Piece {
  readonly index: number;
  readonly data: Uint8Array;
  hold(): unknown;
  letGo(): void;
}

/**
 * Sums the blocks of a version as they come, in their order. Those that come before their turn are
 * held, a few.
 */
export class WholeCheck {
  readonly #count: number;
  readonly #limit: number;
  readonly #ready: Promise<void>;
  #expected: Expectation | undefined;
  readonly #early = new Map<number, Piece>();
  #earlyBytes = 0;
  #next = 0;
  #isGivenUp = false;
  /** Until those that have come in their order are summed, where they are many. */
  #summing: Promise<void> | undefined;

  /**
   * @param count of the version's blocks
   * @param limit bytes that are held; a reader who goes elsewhere is not followed
   * @param expected what the bytes must give, if that can be known.
   */
  constructor(count: number, limit: number, expected: Promise<Expectation | undefined>) {
    this.#count = count;
    this.#limit = limit;
    this.#ready = this.#begin(expected);
  }

  async #begin(expected: Promise<Expectation | undefined>): Promise<void> {
    // Where it can't be known the reader is not kept waiting.
    this.#expected = await expected.catch(() => undefined);
    if (this.#expected === undefined) this.giveUp();
    else this.#advance();
  }

  /** Whether nothing is to be found out any more. */
  get isOver(): boolean {
    return this.#isGivenUp;
  }

  /**
   * Takes a block.
   * @returns for the one that makes the version whole, whether its bytes are right. The others are
   * so, once it is known what the bytes must give: until then they have not come.
   */
  take(piece: Piece): Promise<boolean> | undefined {
    if (this.#isGivenUp || piece.index < this.#next || this.#early.has(piece.index)) return undefined;
    piece.hold();
    this.#early.set(piece.index, piece);
    this.#earlyBytes += piece.data.length;
    if (this.#expected !== undefined) this.#advance();
    if (this.#next + this.#early.size === this.#count) return this.#ready.then(() => this.#result());
    if (this.#expected === undefined) return this.#ready.then(() => true);
    if (this.#earlyBytes > this.#limit && this.#summing === undefined) this.giveUp();
    return undefined;
  }

  #advance(): void {
    if (this.#summing !== undefined) return;
    for (let count = 0; count < SUMMED_AT_ONCE; count++) {
      const piece = this.#early.get(this.#next);
      if (piece === undefined) return;
      this.#expected!.summing.update(piece.data);
      this.#let(piece);
      this.#next += 1;
    }
    if (!this.#early.has(this.#next)) return;
    this.#summing = this.#advanceLater();
  }

  async #advanceLater(): Promise<void> {
    await pause();
    this.#summing = undefined;
    this.#advance();
  }

  #let(piece: Piece): void {
    this.#early.delete(piece.index);
    this.#earlyBytes -= piece.data.length;
    piece.letGo();
  }

  async #result(): Promise<boolean> {
    while (this.#summing !== undefined) await this.#summing;
    const expected = this.#expected;
    const isKnown = !this.#isGivenUp && expected !== undefined && this.#next === this.#count;
    this.#isGivenUp = true;
    return isKnown ? expected.isRight(await expected.summing.digest()) : true;
  }

  giveUp(): void {
    this.#isGivenUp = true;
    for (const piece of this.#early.values()) this.#let(piece);
  }
}
