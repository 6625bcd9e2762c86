import type { RecordLog } from './log.js';

/**
 * Words of a string, which is written as its length above two bits for the writer, and its UTF-16
 * units, two in a word.
 */
export function textWords(text: string): number {
  return 1 + ((text.length + 1) >>> 1);
}

/** @param tag the two bits. */
export function putText(log: RecordLog, text: string, tag = 0): void {
  log.put(tag | (text.length << 2));
  for (let i = 0; i < text.length; i += 2)
    log.put(text.charCodeAt(i) | ((i + 1 < text.length ? text.charCodeAt(i + 1) : 0) << 16));
}

/** @throws RangeError if the text does not end before `end`. */
export function readText(
  words: Int32Array,
  at: number,
  end: number,
  log: string,
): { text: string; next: number } {
  const length = words[at]! >>> 2;
  const next = at + 1 + ((length + 1) >>> 1);
  if (at >= end || next > end) throw new RangeError(`${log}: a text is cut short`);
  // Whole units, as they are: lone surrogates stand for bytes that are no UTF-8.
  const text = Buffer.from(words.buffer, words.byteOffset + (at + 1) * 4, length * 2).toString('utf16le');
  return { text, next };
}

/** Writes an integer between -2^53 and 2^53, as two words. */
export function putWide(log: RecordLog, value: number): void {
  log.put(value);
  log.put(Math.floor(value / 2 ** 32));
}

export function readWide(words: Int32Array, at: number): number {
  return (words[at]! >>> 0) + words[at + 1]! * 2 ** 32;
}
