/** Inode numbers below this are shifted by a device's offset; others are hashed. */
const SHIFTED = 2 ** 40;
/** Devices that have an offset of their own: multiples of {@link SHIFTED} below 2^52. */
const MAX_DEVICES = 4095;
/** Hashed numbers lie from here to 2^53, above all shifted ones. */
const HASHED = 2 ** 52;

/**
 * Inode numbers as guests see them. A guest sees all of a share under one `st_dev` (but for mounts
 * that are announced to it), and programs such as tar and cp take two files of one device and
 * number for one. So numbers of devices other than the share's own are moved to ranges of their
 * own. What tells file systems apart durably decides which range, so that numbers outlast a
 * restart.
 *
 * A device is a 32-bit number as stat(2) gives it.
 */
export class InodeNumbers {
  readonly #own: number;
  readonly #offsets = new Map<number, number>();
  readonly #taken = new Set<number>();

  /** @param own the device of the shared directory, whose numbers stay as they are. */
  constructor(own: number) {
    this.#own = own;
  }

  /**
   * Enters a device that is reached.
   * @param identity what tells its file system from others, and is the same after a restart.
   */
  enter(device: number, identity: readonly number[]): void {
    if (device === this.#own) return;
    const former = this.#offsets.get(device);
    if (former !== undefined) this.#taken.delete(former);
    let place = 1 + (identity.reduce(mix, 0) % MAX_DEVICES);
    for (let tries = 0; this.#taken.has(place * SHIFTED) && tries < MAX_DEVICES; tries++) {
      place = 1 + (place % MAX_DEVICES);
    }
    this.#taken.add(place * SHIFTED);
    this.#offsets.set(device, place * SHIFTED);
  }

  /**
   * The number that guests see.
   * @param ino as the host shows it.
   */
  shown(device: number, ino: number | bigint): number | bigint {
    if (device === this.#own) return ino;
    // A device inside a mount, as a subvolume of btrfs is, was not announced by its mount.
    if (!this.#offsets.has(device)) this.enter(device, [device]);
    const offset = this.#offsets.get(device)!;
    if (ino < SHIFTED) return Number(ino) + offset;
    const wide = BigInt(ino);
    const low = mix(mix(0, offset / SHIFTED), Number(wide & 0xffff_ffffn));
    const high = mix(low, Number(wide >> 32n));
    return HASHED + (high & 0xf_ffff) * 2 ** 32 + mix(high, low);
  }

  /** Whether numbers of this device are shown as they are. */
  isOwn(device: number): boolean {
    return device === this.#own;
  }
}

/** One step of a hash of 32 bits (the finalizer of MurmurHash3). */
function mix(hash: number, value: number): number {
  let h = Math.imul(hash ^ value, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
