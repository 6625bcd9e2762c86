/**
 * Linux names are bytes; a backend sees strings. The mapping is lossless: UTF-8 as usual, and each
 * byte that is not part of valid UTF-8 as one lone surrogate, U+DC80 for 0x80 to U+DCFF for 0xFF
 * (Python PEP 383, "surrogateescape").
 */

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Node's one-byte decoder, which works on any `Uint8Array`; it halves the cost of a short name
 * against joining characters and makes a flat string, which maps hash faster.
 */
const latin1Slice = (
  Buffer.prototype as unknown as { latin1Slice(this: Uint8Array, start: number, end: number): string }
).latin1Slice;

/** Longest name in bytes (Linux `NAME_MAX`). */
export const NAME_MAX = 255;

/** Longest symlink target in bytes, without the terminator (Linux `PATH_MAX` - 1). */
export const SYMLINK_MAX = 4095;

/** Decodes the bytes from `start` to `end` of a name. */
export function decodeName(bytes: Uint8Array, start = 0, end = bytes.length): string {
  for (let i = start; i < end; i++) {
    if (bytes[i]! >= 0x80) return decodeSlow(bytes.subarray(start, end));
  }
  return latin1Slice.call(bytes, start, end);
}

function decodeSlow(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    let text = '';
    for (let i = 0; i < bytes.length;) {
      const length = sequenceLength(bytes, i);
      if (length === 0) {
        text += String.fromCharCode(0xdc00 + bytes[i]!);
        i += 1;
      } else {
        text += strict.decode(bytes.subarray(i, i + length));
        i += length;
      }
    }
    return text;
  }
}

/** Length of the valid UTF-8 sequence at `at`, or 0. Rules: Unicode 15, table 3-7. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const a = bytes[at]!;
  if (a < 0x80) return 1;
  const b = bytes[at + 1] ?? 0;
  if (a >= 0xc2 && a <= 0xdf) return isContinuation(b) ? 2 : 0;
  const c = bytes[at + 2] ?? 0;
  if (a >= 0xe0 && a <= 0xef) {
    const low = a === 0xe0 ? 0xa0 : 0x80;
    const high = a === 0xed ? 0x9f : 0xbf;
    return b >= low && b <= high && isContinuation(c) ? 3 : 0;
  }
  if (a >= 0xf0 && a <= 0xf4) {
    const low = a === 0xf0 ? 0x90 : 0x80;
    const high = a === 0xf4 ? 0x8f : 0xbf;
    return b >= low && b <= high && isContinuation(c) && isContinuation(bytes[at + 3] ?? 0) ? 4 : 0;
  }
  return 0;
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}

/** Number of bytes that {@link encodeName} writes for a name. */
export function nameLength(name: string): number {
  let length = 0;
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i);
    if (unit < 0x80) length += 1;
    else if (unit < 0x800) length += 2;
    else if (isPair(name, i)) {
      length += 4;
      i += 1;
    } else length += unit >= 0xdc80 && unit <= 0xdcff ? 1 : 3;
  }
  return length;
}

/**
 * Writes a name's bytes into `target` from `at` on; no terminator.
 * A lone surrogate outside U+DC80 to U+DCFF, which no byte decodes to, is written as U+FFFD.
 * @returns the offset after the last byte written.
 * @throws RangeError if `target` is too short.
 */
export function encodeName(name: string, target: Uint8Array, at = 0): number {
  if (at + name.length > target.length) throw new RangeError('name does not fit');
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i);
    if (unit >= 0x80) return encodeSlow(name, i, target, at + i);
    target[at + i] = unit;
  }
  return at + name.length;
}

function encodeSlow(name: string, from: number, target: Uint8Array, at: number): number {
  if (at + nameLength(name.slice(from)) > target.length) throw new RangeError('name does not fit');
  for (let i = from; i < name.length; i++) {
    let point = name.charCodeAt(i);
    if (point >= 0xdc80 && point <= 0xdcff && !isPair(name, i)) {
      target[at++] = point - 0xdc00;
      continue;
    }
    if (isPair(name, i)) {
      point = name.codePointAt(i)!;
      i += 1;
    } else if (point >= 0xd800 && point <= 0xdfff) point = 0xfffd;
    if (point < 0x80) target[at++] = point;
    else if (point < 0x800) {
      target[at++] = 0xc0 | (point >> 6);
      target[at++] = 0x80 | (point & 0x3f);
    } else if (point < 0x10000) {
      target[at++] = 0xe0 | (point >> 12);
      target[at++] = 0x80 | ((point >> 6) & 0x3f);
      target[at++] = 0x80 | (point & 0x3f);
    } else {
      target[at++] = 0xf0 | (point >> 18);
      target[at++] = 0x80 | ((point >> 12) & 0x3f);
      target[at++] = 0x80 | ((point >> 6) & 0x3f);
      target[at++] = 0x80 | (point & 0x3f);
    }
  }
  return at;
}

function isPair(name: string, at: number): boolean {
  const high = name.charCodeAt(at);
  if (high < 0xd800 || high > 0xdbff) return false;
  const low = name.charCodeAt(at + 1);
  return low >= 0xdc00 && low <= 0xdfff;
}

/** The bytes of a name, newly allocated. */
export function nameBytes(name: string): Uint8Array {
  const bytes = new Uint8Array(nameLength(name));
  encodeName(name, bytes);
  return bytes;
}
