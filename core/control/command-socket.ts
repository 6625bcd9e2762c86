import { once } from 'node:events';
import { lstat, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { UsageError, type Logger } from '../backend/index.js';
import {
  linesOf,
  parseLine,
  REQUEST_MAX_BYTES,
  type replySchema,
  requestSchema,
  type CommandRequest,
} from './messages.js';
import type * as z from 'zod';

/** Runs a command. Rejects with a UsageError for a mistake in the request. */
export type Reply = (request: CommandRequest) => Promise<readonly string[]>;

/**
 * A socket at which a process answers commands. Only the owner may open it (mode 0600). While the
 * process lives, no other can listen on the same path.
 */
export class CommandSocket {
  readonly #server: Server;
  readonly #connections = new Set<Socket>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #reply: Reply;
  readonly #log: Logger;

  private constructor(reply: Reply, log: Logger) {
    this.#reply = reply;
    this.#log = log;
    this.#server = createServer((socket) => void this.#serve(socket));
  }

  /**
   * Listens, in place of a process that is gone. The socket does not keep its process alive.
   * @returns undefined if another process listens there.
   * @throws NodeJS.ErrnoException if the path cannot be a socket.
   */
  static async listen(path: string, reply: Reply, log: Logger): Promise<CommandSocket | undefined> {
    if (await isPathTaken(path)) return undefined;
    const made = new CommandSocket(reply, log);
    const umask = process.umask(0o177);
    try {
      made.#server.listen(path);
    } finally {
      process.umask(umask);
    }
    await once(made.#server, 'listening');
    made.#server.unref();
    return made;
  }

  /** Answers at a descriptor that listens already, which is the socket's from here on. */
  static async adopt(fd: number, reply: Reply, log: Logger): Promise<CommandSocket> {
    const made = new CommandSocket(reply, log);
    made.#server.listen({ fd });
    await once(made.#server, 'listening');
    made.#server.unref();
    return made;
  }

  /** Waits for running commands, and closes the socket and every connection. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await Promise.all(this.#running);
    for (const socket of this.#connections) socket.destroy();
    await closed;
  }

  async #serve(socket: Socket): Promise<void> {
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    try {
      for await (const line of linesOf(socket, REQUEST_MAX_BYTES)) {
        const answer = this.#answer(line);
        this.#running.add(answer);
        const isTaken = socket.write(`${JSON.stringify(await answer)}\n`);
        this.#running.delete(answer);
        // The next request of one who takes no answers waits.
        if (!isTaken) await drained(socket);
      }
    } catch (error) {
      this.#log.warn({ error }, 'control connection failed');
      socket.destroy();
    }
  }

  /** Never rejects: an error becomes the reply. */
  async #answer(line: string): Promise<z.output<typeof replySchema>> {
    const request = requestSchema.safeParse(parseLine(line));
    if (!request.success) return { error: 'request: must be a backend, a command and options', usage: true };
    try {
      return { lines: [...(await this.#reply(request.data))] };
    } catch (error) {
      const usage = error instanceof UsageError;
      if (!usage) this.#log.error({ error }, 'control command failed');
      return { error: error instanceof Error ? error.message : String(error), usage };
    }
  }
}

/** Resolves when what was written has been taken, or never will be. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      socket.off('drain', end).off('close', end);
      resolve();
    };
    socket.on('drain', end).on('close', end);
  });
}

/** Whether somebody listens on a path; a socket that nobody listens on is removed. */
export async function isPathTaken(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ECONNREFUSED' && (await lstat(path)).isSocket()) await rm(path);
    return false;
  } finally {
    socket.destroy();
  }
}
