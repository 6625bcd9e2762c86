import { once } from 'node:events';
import type { Socket } from 'node:net';
import * as z from 'zod';
import { startSchema } from './start-options.js';

/*
 * What goes between a command line and the process that holds sandboxes, over a Unix socket of that
 * process or of one sandbox: frames of a kind (one byte), a length (four bytes, the highest first)
 * and so many bytes. The command line sends a request; the other side answers by output, and at the
 * end by a result or an error.
 */

export const FrameKind = {
  /** A {@link Request}, as JSON. */
  REQUEST: 1,
  /** Input of a command; empty at its end. */
  INPUT: 2,
  STDOUT: 3,
  STDERR: 4,
  /** The number by which later requests name the command that was started. */
  STARTED: 5,
  /** The exit code; the last frame. */
  RESULT: 6,
  /** Why a request was not carried out; the last frame. */
  ERROR: 7,
} as const;

const HEADER_BYTES = 5;
const MAX_PAYLOAD_BYTES = 4 << 20;

const size = { columns: z.number().int().min(1), rows: z.number().int().min(1) };

export const requestSchema = z.discriminatedUnion('command', [
  z.strictObject({
    command: z.literal('exec'),
    words: z.array(z.string()),
    env: z.record(z.string(), z.string()),
    user: z.string().optional(),
    cwd: z.string().optional(),
    tty: z.strictObject(size).optional(),
  }),
  z.strictObject({ command: z.literal('kill'), id: z.number().int(), signal: z.string() }),
  z.strictObject({ command: z.literal('resize'), id: z.number().int(), ...size }),
  z.strictObject({ command: z.literal('fork'), names: z.array(z.string()).min(1) }),
  z.strictObject({ command: z.literal('publish'), port: z.number(), hostPort: z.number() }),
  z.strictObject({
    command: z.literal('diff'),
    path: z.string(),
    form: z.enum(['list', 'long', 'unified']),
  }),
  z.strictObject({ command: z.literal('merge'), fork: z.string() }),
  z.strictObject({ command: z.literal('watch'), path: z.string() }),
  z.strictObject({ command: z.literal('read'), path: z.string() }),
  z.strictObject({ command: z.literal('write'), path: z.string() }),
  z.strictObject({ command: z.literal('list'), path: z.string() }),
  z.strictObject({ command: z.literal('export'), file: z.string() }),
  z.strictObject({ command: z.literal('commit'), directory: z.string(), tag: z.string().optional() }),
  z.strictObject({ command: z.literal('rm') }),
]);

export type Request = z.output<typeof requestSchema>;

/** What the process itself is asked for. */
export const startRequestSchema = z.strictObject({ name: z.string(), options: startSchema });

/** Sends a frame. Waits while the other side has much to read already. */
export async function send(socket: Socket, kind: number, payload: string | Uint8Array = ''): Promise<void> {
  const bytes = Buffer.from(payload);
  const header = Buffer.alloc(HEADER_BYTES);
  header[0] = kind;
  header.writeUInt32BE(bytes.length, 1);
  if (!socket.writable) return;
  if (socket.write(Buffer.concat([header, bytes]))) return;
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  await once(socket, 'drain', { signal: gone.signal }).catch(() => {});
}

/** The frames that come, until the other side has ended. @throws RangeError for one too long. */
export async function* frames(socket: Socket): AsyncGenerator<{ kind: number; payload: Buffer }> {
  let pieces: Buffer[] = [];
  let available = 0;
  let wanted = HEADER_BYTES;
  for await (const piece of socket as AsyncIterable<Buffer>) {
    pieces.push(piece);
    available += piece.length;
    // A frame is put together once, and not with each of its pieces.
    if (available < wanted) continue;
    let held = Buffer.concat(pieces);
    for (wanted = HEADER_BYTES; held.length >= HEADER_BYTES;) {
      const length = held.readUInt32BE(1);
      if (length > MAX_PAYLOAD_BYTES) throw new RangeError(`a frame of ${length} bytes`);
      wanted = HEADER_BYTES + length;
      if (held.length < wanted) break;
      yield { kind: held[0]!, payload: Buffer.from(held.subarray(HEADER_BYTES, wanted)) };
      held = held.subarray(wanted);
      wanted = HEADER_BYTES;
    }
    pieces = [held];
    available = held.length;
  }
}
