/** Smaller buffers are not pooled but left to the garbage collector. */
const POOLED_MIN_BYTES = 64 * 1024;
/** Most bytes in the pool. */
const POOL_MAX_BYTES = 48 * 2 ** 20;

const free = new Map<number, ArrayBufferLike[]>();
let kept = 0;

function capacityFor(length: number): number {
  return 2 ** Math.ceil(Math.log2(length));
}

/**
 * A buffer for data that is passed on soon; its content is arbitrary. Large buffers are pooled:
 * page faults and garbage collections of new ones cost a fifth of the time of writing a large file.
 */
export function takeBuffer(length: number): Buffer {
  if (length < POOLED_MIN_BYTES) return Buffer.allocUnsafeSlow(length);
  const capacity = capacityFor(length);
  const memory = free.get(capacity)?.pop();
  if (memory === undefined) return Buffer.allocUnsafeSlow(capacity).subarray(0, length);
  kept -= capacity;
  return Buffer.from(memory, 0, length);
}

/**
 * Returns a buffer of {@link takeBuffer} to the pool. Call it at most once, when nothing reads or
 * writes the buffer any more. A buffer that is not returned becomes garbage.
 */
export function returnBuffer({ buffer, length }: Buffer): void {
  const capacity = buffer.byteLength;
  if (length < POOLED_MIN_BYTES || kept + capacity > POOL_MAX_BYTES) return;
  const list = free.get(capacity);
  if (list === undefined) free.set(capacity, [buffer]);
  else list.push(buffer);
  kept += capacity;
}
