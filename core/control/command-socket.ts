import { once } from 'node:events';
import { lstatSync } from 'node:fs';
import { lstat, rm } from 'node:fs/promises';
import { connect, Socket } from 'node:net';
import { UsageError, type Logger } from '../backend/index.js';
import { type Fd, SystemError, UnixConnection, UnixListener, watch, type Watch } from '../system/index.js';
import {
  linesOf,
  parseLine,
  REQUEST_MAX_BYTES,
  type replySchema,
  requestSchema,
  type CommandRequest,
} from './messages.js';
import type * as z from 'zod';

/** How long no connections are accepted after accept(2) has failed. */
const ACCEPT_PAUSE_MS = 200;

/** Runs a command. Rejects with a UsageError for a mistake in the request. */
export type Reply = (request: CommandRequest) => Promise<readonly string[]>;

/**
 * A socket at which a process answers commands. Only the owner may open it (mode 0600). While the
 * process lives, no other can listen on the same path.
 */
export class CommandSocket {
  readonly #listener: UnixListener;
  readonly #watch: Watch;
  readonly #connections = new Set<Socket>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #reply: Reply;
  readonly #log: Logger;
  #pause: NodeJS.Timeout | undefined;

  private constructor(listener: UnixListener, reply: Reply, log: Logger) {
    this.#listener = listener;
    this.#reply = reply;
    this.#log = log;
    this.#watch = watch(listener.fd, () => this.#accept());
    this.#watch.unref();
  }

  /**
   * Listens, in place of a process that is gone. The socket does not keep its process alive.
   * @returns undefined if another process listens there.
   * @throws SystemError if the path cannot be a socket.
   */
  static listen(path: string, reply: Reply, log: Logger): CommandSocket | undefined {
    const umask = process.umask(0o177);
    try {
      return new CommandSocket(UnixListener.listen(path), reply, log);
    } catch (error) {
      const isTaken = error instanceof SystemError && error.code === 'EADDRINUSE';
      if (isTaken && lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) return undefined;
      throw error;
    } finally {
      process.umask(umask);
    }
  }

  /** Answers at a descriptor that listens already, which is the socket's from here on. */
  static adopt(fd: Fd, reply: Reply, log: Logger): CommandSocket {
    return new CommandSocket(UnixListener.adopt(fd), reply, log);
  }

  /** Waits for running commands, and closes the socket and every connection. */
  async close(): Promise<void> {
    clearTimeout(this.#pause);
    this.#watch.close();
    this.#listener.close();
    await Promise.all(this.#running);
    for (const socket of this.#connections) socket.destroy();
  }

  #accept(): void {
    const connection = this.#listener.accept();
    if (connection instanceof UnixConnection)
      return void this.#serve(new Socket({ fd: connection.take(), readable: true, writable: true }));
    // Mostly EMFILE. The socket stays readable, so that without a pause this would spin.
    this.#watch.pause();
    this.#pause = setTimeout(() => this.#watch.resume(), ACCEPT_PAUSE_MS).unref();
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
