import type { Socket } from 'node:net';
import * as z from 'zod';

/** The longest request, in bytes. */
export const REQUEST_MAX_BYTES = 1 << 20;

/** The longest reply, in bytes. A list of what changed has a line for each file. */
export const REPLY_MAX_BYTES = 1 << 28;

/** A request: one line of JSON, answered by one line. */
export const requestSchema = z.strictObject({
  backend: z.string(),
  command: z.string(),
  options: z.record(z.string(), z.unknown()),
});

/** A command of a kind of backend, with its options as the command's schema takes them. */
export type CommandRequest = z.output<typeof requestSchema>;

export const replySchema = z.union([
  z.strictObject({ lines: z.array(z.string()) }),
  z.strictObject({ error: z.string(), usage: z.boolean() }),
]);

/**
 * Reads lines. They end with a line feed and nothing else: JSON may hold U+2028, which `readline`
 * takes for an end.
 * @throws Error if a line is longer than `most` bytes.
 */
export async function* linesOf(socket: Socket, most: number): AsyncGenerator<string> {
  let pieces: Buffer[] = [];
  let length = 0;
  for await (const data of socket as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = data.indexOf(0x0a); end >= 0; end = data.indexOf(0x0a, start)) {
      if (length + end - start > most) throw new Error('line too long');
      yield Buffer.concat([...pieces, data.subarray(start, end)]).toString();
      start = end + 1;
      pieces = [];
      length = 0;
    }
    length += data.length - start;
    if (length > most) throw new Error('line too long');
    pieces.push(data.subarray(start));
  }
}

/** The value of a line, or undefined if it is not JSON. */
export function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
