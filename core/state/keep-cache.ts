import type { Attributes } from '../backend/index.js';
import type { Slot } from './ids.js';

/**
 * For so long after a change, another change may have the same timestamp: S3 and some file systems
 * have timestamps of whole seconds.
 */
const SETTLING_SECONDS = 2;

/**
 * Decides whether a guest may keep the cached data of a file when it opens the file again. It may
 * if size, mtime and ctime are as they were at its last open, and if the last change was old enough
 * at that time for any later change to alter them (git's index has the same rule, "racy git"). What
 * counts are the attributes that the guest was given last: before an open it sends a LOOKUP or
 * GETATTR, unless it has attributes as recent as the cache policy asks for.
 */
export class KeepCache {
  /**
   * By slot: a hash of the attributes that the guest was given last (0 for unknown), and the time
   * of the last change that they show, in seconds.
   */
  #told = new Int32Array(0);
  #changed = new Int32Array(0);
  /** By slot: the hash at the last open, or 0 if that does not prove anything. */
  #opened = new Int32Array(0);

  /**
   * To be called when the guest is given attributes.
   * @param identity part of the node id, since slots are reused.
   */
  tell(slot: Slot, attributes: Attributes, identity: number): void {
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

  /** To be called when the guest was given other attributes, which are not known here. */
  lose(slot: Slot): void {
    if (slot < this.#told.length) this.#told[slot] = 0;
  }

  /**
   * To be called when the guest opens the file.
   * @param now seconds since 1970.
   * @returns whether the guest may keep the data that it has cached.
   */
  open(slot: Slot, now: number = Date.now() / 1000): boolean {
    const told = this.#told[slot] ?? 0;
    if (told === 0) return false;
    const same = this.#opened[slot] === told;
    this.#opened[slot] = now - this.#changed[slot]! > SETTLING_SECONDS ? told : 0;
    return same;
  }

  #grow(slot: Slot): void {
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
