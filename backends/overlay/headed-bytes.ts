/*
 * Bytes with a header in JSON before them, as the states of an overlay are: the length of the
 * header as u32, little-endian, the header, and what it tells of.
 */

const LENGTH_BYTES = 4;

/** The header, with its length. */
export function headerBytes(header: object): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text]);
}

/**
 * Reads the header that begins at an offset.
 * @param most bytes of JSON that it may have.
 * @returns it, and the offset of what is behind it.
 * @throws RangeError if it is cut short, or has more; SyntaxError if it is no JSON.
 */
export function readHeader(
  bytes: Uint8Array,
  at: number,
  most: number,
): { readonly header: unknown; readonly end: number } {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const start = at + LENGTH_BYTES;
  const end = start > buffer.length ? Infinity : start + buffer.readUInt32LE(at);
  if (end > buffer.length) throw new RangeError('it is cut short');
  if (end - start > most) throw new RangeError(`${end - start} bytes of JSON are more than ${most}`);
  return { header: JSON.parse(buffer.toString('utf8', start, end)), end };
}
