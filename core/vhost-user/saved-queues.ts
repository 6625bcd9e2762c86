import type { Backlog } from '../virtqueue/index.js';

/**
 * What goes to another host with a session's state: chains that stopped queues have taken, whose
 * requests wait for locks. Guest memory goes there too, so the heads are enough. The form is, with
 * little-endian numbers:
 *
 * | bytes | what |
 * | --- | --- |
 * | 8 | magic |
 * | 2 | how many queues follow |
 * | each | 16-bit index, base and number of heads, then the heads |
 * | rest | the session's state |
 *
 * Where no chain is left, the session's state is all there is.
 */
const MAGIC = Buffer.from('VFSKRING');

/** The chains of one queue. */
export interface SavedBacklog extends Backlog {
  readonly index: number;
}

/** @param backlogs of all queues, in order. */
export function encodeState(backlogs: readonly Backlog[], session: Uint8Array): Uint8Array {
  const words: number[] = [];
  let queues = 0;
  for (const [index, { base, heads }] of backlogs.entries()) {
    if (heads.length === 0) continue;
    queues += 1;
    words.push(index, base, heads.length, ...heads);
  }
  if (queues === 0) return session;
  return Buffer.concat([MAGIC, Buffer.from(Uint16Array.of(queues, ...words).buffer), session]);
}

/**
 * @param queues how many there are here.
 * @throws RangeError for what {@link encodeState} does not make, or of a device with more queues.
 */
export function decodeState(
  bytes: Uint8Array,
  queues: number,
): { readonly backlogs: readonly SavedBacklog[]; readonly rest: Uint8Array } {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!buffer.subarray(0, MAGIC.length).equals(MAGIC)) return { backlogs: [], rest: bytes };
  let at = MAGIC.length;
  const next = (): number => {
    if (at + 2 > buffer.length) throw new RangeError('the state of the queues is cut short');
    at += 2;
    return buffer.readUInt16LE(at - 2);
  };
  const backlogs: SavedBacklog[] = [];
  for (let left = next(); left > 0; left--) {
    const index = next();
    if (index >= queues)
      throw new RangeError(`requests of queue ${index} wait, and there are ${queues} here`);
    const base = next();
    const heads = Array.from({ length: next() }, next);
    if (new Set(heads).size !== heads.length || backlogs.some((one) => one.index === index))
      throw new RangeError(`the state of queue ${index} contradicts itself`);
    backlogs.push({ index, base, heads });
  }
  return { backlogs, rest: buffer.subarray(at) };
}
