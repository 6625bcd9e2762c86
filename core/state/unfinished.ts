import type { Slot } from './ids.js';

/** A transfer of which a part is done. The rest follows when other guests have had their turn. */
export interface UnfinishedTransfer {
  readonly slot: Slot;
  /** Whether it changes the file. */
  readonly isWrite: boolean;
  /** Does the rest at once, and answers. Never throws. */
  finish(): void;
}

/**
 * The transfers of an export that are unfinished. Whatever would see or change half of one is to
 * {@link finish} it before, so that each is one step to everybody.
 */
export class UnfinishedTransfers {
  readonly #transfers = new Set<UnfinishedTransfer>();

  get count(): number {
    return this.#transfers.size;
  }

  add(transfer: UnfinishedTransfer): void {
    this.#transfers.add(transfer);
  }

  delete(transfer: UnfinishedTransfer): void {
    this.#transfers.delete(transfer);
  }

  /**
   * Finishes those of a file; of all files without one.
   * @param changes whether what follows changes the file; if not, reads may go on beside it.
   */
  finish(slot: Slot | undefined, changes: boolean): void {
    for (const transfer of this.#transfers) {
      if (slot !== undefined && transfer.slot !== slot) continue;
      if (changes || transfer.isWrite) transfer.finish();
    }
  }
}
