import type { Attributes } from '../backend/index.js';

/**
 * Seconds after a change in which another one may bear the same time: S3 and some file systems
 * count whole ones.
 */
const SETTLING = 2;

/**
 * Whether the data of a file that a guest has cached is still good when it opens the file again:
 * where size, mtime and ctime are as they were when it opened it last, and the last change lay far
 * enough back then for any later change to show in them (the rule of git's index, "racy git").
 * Known from the attributes that the guest was told: an open follows a LOOKUP or GETATTR as recent
 * as the cache policy's times ask for.
 */
export class Freshness {
  /**
   * By slot: a hash of the attributes told last, never 0; the second of the change that they show.
   */
  #told = new Int32Array(0);
  #changed = new Int32Array(0);
  /** The hash at the last open, or 0 where it can't be relied on. */
  #opened = new Int32Array(0);

  /** The guest is told attributes. @param identity of the node, since slots are reused. */
  tell(slot: number, attributes: Attributes, identity: number): void {
    if (slot >= this.#told.length) this.#grow(slot);
    const { size = 0, mtime = 0, mtimeNsec = fraction(mtime) } = attributes;
    const { ctime = mtime, ctimeNsec = ctime === mtime ? mtimeNsec : fraction(ctime) } = attributes;
    let hash = identity;
    hash = Math.imul(hash ^ size, 0x9e3779b1);
    hash = Math.imul((hash ^ (hash >>> 15)) + size / 0x100000000, 0x85ebca6b);
    hash = Math.imul((hash ^ (hash >>> 13)) + mtime, 0xc2b2ae35);
    hash = Math.imul((hash ^ (hash >>> 16)) + mtimeNsec, 0x9e3779b1);
    hash = Math.imul((hash ^ (hash >>> 15)) + ctime, 0x85ebca6b);
    hash = Math.imul((hash ^ (hash >>> 13)) + ctimeNsec, 0xc2b2ae35);
    this.#told[slot] = hash === 0 ? 1 : hash;
    this.#changed[slot] = Math.max(mtime, ctime);
  }

  /** The guest was told something else, which is not known here. */
  lose(slot: number): void {
    if (slot < this.#told.length) this.#told[slot] = 0;
  }

  /** The guest opens the file. @returns whether it may keep the data that it has cached. */
  open(slot: number, now: number = Date.now() / 1000): boolean {
    const told = this.#told[slot] ?? 0;
    if (told === 0) return false;
    const same = this.#opened[slot] === told;
    this.#opened[slot] = now - this.#changed[slot]! > SETTLING ? told : 0;
    return same;
  }

  #grow(slot: number): void {
    const length = Math.max(1024, this.#told.length * 2, slot + 1);
    this.#told = widen(this.#told, length);
    this.#changed = widen(this.#changed, length);
    this.#opened = widen(this.#opened, length);
  }
}

function fraction(time: number): number {
  return (time - Math.floor(time)) * 1e9;
}

function widen(column: Int32Array<ArrayBuffer>, length: number): Int32Array<ArrayBuffer> {
  const wider = new Int32Array(length);
  wider.set(column);
  return wider;
}
