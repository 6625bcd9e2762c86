import { once } from 'node:events';
import { connect } from 'node:net';
import { UsageError } from '../backend/index.js';
import { linesOf, parseLine, REPLY_MAX_BYTES, replySchema, type CommandRequest } from './messages.js';

/** Errors of `connect` that mean that nobody listens. */
const ABSENT = new Set(['ENOENT', 'ECONNREFUSED']);

/** Errors of a socket whose other end has gone, or that ends what it does not understand. */
const ENDED = new Set(['ECONNRESET', 'EPIPE']);

/** A command was not carried out, or is not known to have been. */
export class ControlError extends Error {
  override readonly name = 'ControlError';
}

/**
 * Sends a command to the process that listens on a control socket.
 * @param signal ends the waiting for an answer, with an Error.
 * @returns the lines of its reply; undefined if nobody listens.
 * @throws UsageError if the process finds a mistake in the request, or this one may not ask it;
 * ControlError if the command failed.
 */
export async function askSocket(
  path: string,
  request: CommandRequest,
  signal?: AbortSignal,
): Promise<readonly string[] | undefined> {
  const socket = connect(path);
  const abort = (): void => void socket.destroy(new Error(`${path}: it does not answer in time`));
  signal?.addEventListener('abort', abort);
  try {
    await once(socket, 'connect');
    socket.write(`${JSON.stringify(request)}\n`);
    for await (const line of linesOf(socket, REPLY_MAX_BYTES)) {
      const reply = replySchema.safeParse(parseLine(line));
      if (!reply.success) throw new UsageError(`${path}: what listens there is no control socket`);
      if ('lines' in reply.data) return reply.data.lines;
      throw reply.data.usage ? new UsageError(reply.data.error) : new ControlError(reply.data.error);
    }
    throw new ControlError(wentAway(path));
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (ABSENT.has(code)) return undefined;
    if (ENDED.has(code)) throw new ControlError(wentAway(path), { cause: error });
    if (code === 'EACCES') throw new UsageError(`${path}: only its owner may ask there`);
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
    socket.destroy();
  }
}

function wentAway(path: string): string {
  return `${path}: what listens there ended before it answered, or is no control socket of a daemon`;
}
