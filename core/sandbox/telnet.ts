/*
 * What busybox's telnetd speaks, which gives a command a pseudo-terminal: bytes as they are, with
 * commands of the Telnet protocol between them (RFC 854, and RFC 1073 for window sizes).
 */

const IAC = 255;
const SB = 250;
const SE = 240;
/** WILL, WONT, DO and DONT, each followed by an option. */
const FIRST_NEGOTIATION = 251;
const NAWS = 31;

/** The largest number that needs no escape in either byte. */
const MAX_SIZE = 254;

/** What a terminal's user types, for telnetd: it takes the byte after a carriage return away. */
export function encodeInput(bytes: Buffer): Buffer {
  const out: number[] = [];
  for (const byte of bytes) {
    out.push(byte);
    if (byte === IAC) out.push(IAC);
    if (byte === 0x0d) out.push(0);
  }
  return Buffer.from(out);
}

/** Tells telnetd the size of the terminal, which it gives to the guest's. */
export function encodeSize(columns: number, rows: number): Buffer {
  const [width, height] = [columns, rows].map((count) => Math.max(1, Math.min(MAX_SIZE, count)));
  return Buffer.from([IAC, SB, NAWS, 0, width!, 0, height!, IAC, SE]);
}

/** Takes telnetd's own words out of what a terminal shows. */
export class OutputDecoder {
  /** The beginning of a command whose rest has not come yet. */
  #held = Buffer.alloc(0);

  decode(piece: Buffer): Buffer {
    const bytes = Buffer.concat([this.#held, piece]);
    const out: Buffer[] = [];
    let at = 0;
    for (;;) {
      const found = bytes.indexOf(IAC, at);
      out.push(bytes.subarray(at, found < 0 ? bytes.length : found));
      if (found < 0) break;
      at = found;
      const command = bytes[found + 1];
      if (command === undefined || (command !== IAC && bytes.length < found + 3)) break;
      if (command === IAC) out.push(bytes.subarray(found, found + 1));
      at = found + (command >= FIRST_NEGOTIATION && command !== IAC ? 3 : 2);
    }
    const isCut = at < bytes.length && bytes[at] === IAC;
    this.#held = isCut ? Buffer.from(bytes.subarray(at)) : Buffer.alloc(0);
    return Buffer.concat(out);
  }
}
