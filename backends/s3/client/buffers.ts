/** Smaller ones are left to the garbage collector. */
const LEAST = 64 * 1024;
/** Bytes that are kept for later, at most. */
const KEPT_MOST = 48 * 2 ** 20;

const free = new Map<number, ArrayBufferLike[]>();
let kept = 0;

function capacityFor(length: number): number {
  return 2 ** Math.ceil(Math.log2(length));
}

/**
 * Memory for data that is passed on soon. Large pieces are used again: new ones cost their pages'
 * faults, and collections of garbage, which is a fifth of what writing a large file costs. What is
 * in it is arbitrary.
 */
export function borrow(length: number): Buffer {
  if (length < LEAST) return Buffer.allocUnsafeSlow(length);
  const capacity = capacityFor(length);
  const memory = free.get(capacity)?.pop();
  if (memory === undefined) return Buffer.allocUnsafeSlow(capacity).subarray(0, length);
  kept -= capacity;
  return Buffer.from(memory, 0, length);
}

/**
 * Gives back what {@link borrow} gave, once, when nobody reads or writes it any more. What is not
 * given back is garbage.
 */
export function giveBack({ buffer, length }: Buffer): void {
  const capacity = buffer.byteLength;
  if (length < LEAST || kept + capacity > KEPT_MOST) return;
  const list = free.get(capacity);
  if (list === undefined) free.set(capacity, [buffer]);
  else list.push(buffer);
  kept += capacity;
}
