import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { UsageError } from '../../backend/index.js';
import { FrameKind, frames, type Request, send } from './frames.js';
import { connectTo, sandboxNames, sandboxPlace } from './places.js';

/** What a request is told of the command that it has started. */
export interface Visit {
  /** Input of the command; undefined for requests that start none. */
  readonly stdin?: NodeJS.ReadStream | undefined;
  /** Called with the number of the command. */
  readonly onStarted?: (id: number) => void;
}

/**
 * Has the process of a sandbox carry a request out. Output goes to this process's own.
 * @returns the exit code.
 * @throws UsageError if there is no such sandbox, or the request is refused.
 */
export async function visit(name: string, request: Request, wishes: Visit = {}): Promise<number> {
  const socket = await connectTo(sandboxPlace(name));
  if (socket === undefined) {
    const names = (await sandboxNames()).join(', ');
    throw new UsageError(`${name}: no such sandbox; ${names === '' ? 'none runs' : `there are ${names}`}`);
  }
  const exitCode = await converse(socket, request, wishes);
  if (exitCode === undefined) throw new UsageError(ENDED);
  return exitCode;
}

const ENDED = 'the sandbox has ended';

/** The exit code where whoever read the output has closed it, as `head` does: that of SIGPIPE. */
const NOBODY_READS = 141;

/**
 * Sends a request, and passes on what comes back.
 * @returns the exit code; undefined if there is no answer at all.
 * @throws UsageError if the request is refused, or the answer breaks off.
 */
export async function converse(
  socket: Socket,
  request: object,
  { stdin, onStarted }: Visit = {},
): Promise<number | undefined> {
  let isAnswered = false;
  let isUnread = false;
  // Of this stream no flag tells it: standard output is never destroyed.
  const leave = (): void => {
    isUnread = true;
    socket.destroy();
  };
  process.stdout.once('error', leave);
  // What the other side has sent before it ended is read.
  socket.on('error', () => {});
  try {
    await send(socket, FrameKind.REQUEST, JSON.stringify(request));
    for await (const { kind, payload } of frames(socket)) {
      isAnswered = true;
      if (kind === FrameKind.STARTED) {
        onStarted?.(Number(payload));
        if (stdin !== undefined) void feed(stdin, socket);
      } else if (kind === FrameKind.STDOUT) await show(process.stdout, payload);
      else if (kind === FrameKind.STDERR) await show(process.stderr, payload);
      else if (kind === FrameKind.RESULT) return Number(payload);
      else if (kind === FrameKind.ERROR) throw new UsageError(payload.toString());
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    // The connection has broken.
  } finally {
    process.stdout.off('error', leave);
    socket.destroy();
  }
  if (isUnread) return NOBODY_READS;
  if (isAnswered) throw new UsageError(ENDED);
  return undefined;
}

async function feed(stdin: NodeJS.ReadStream, socket: Socket): Promise<void> {
  try {
    for await (const part of stdin as AsyncIterable<Buffer>) await send(socket, FrameKind.INPUT, part);
  } catch {
    // It is closed when the command has ended.
    return;
  }
  await send(socket, FrameKind.INPUT);
}

/** Writes to a stream at its speed; nothing where it is closed. */
export async function show(to: Writable, bytes: Uint8Array): Promise<void> {
  if (!to.writable || to.write(bytes)) return;
  await new Promise<void>((resolve) => {
    const go = (): void => {
      to.off('drain', go).off('close', go).off('error', go);
      resolve();
    };
    to.on('drain', go).on('close', go).on('error', go);
  });
}
