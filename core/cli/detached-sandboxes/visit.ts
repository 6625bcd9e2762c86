import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { UsageError } from '../../backend/index.js';
import { FrameKind, frames, type Request, send } from './frames.js';
import { connectTo, sandboxNames } from './places.js';

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
export async function visit(
  name: string,
  request: Request,
  { stdin, onStarted }: Visit = {},
): Promise<number> {
  const socket = await connectTo(name);
  if (socket === undefined) {
    const names = (await sandboxNames()).join(', ');
    throw new UsageError(`${name}: no such sandbox; ${names === '' ? 'none runs' : `there are ${names}`}`);
  }
  try {
    await send(socket, FrameKind.REQUEST, JSON.stringify(request));
    for await (const { kind, payload } of frames(socket)) {
      if (kind === FrameKind.STARTED) {
        onStarted?.(Number(payload));
        if (stdin !== undefined) void feed(stdin, socket);
      } else if (kind === FrameKind.STDOUT) await show(process.stdout, payload);
      else if (kind === FrameKind.STDERR) await show(process.stderr, payload);
      else if (kind === FrameKind.RESULT) return Number(payload);
      else if (kind === FrameKind.ERROR) throw new UsageError(payload.toString());
    }
    throw new UsageError(`${name}: the sandbox has ended`);
  } finally {
    socket.destroy();
  }
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
  await new Promise((go) => {
    to.once('drain', go).once('close', go);
  });
}
