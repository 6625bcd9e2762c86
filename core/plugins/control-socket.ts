import { connect, createServer, type Server, type Socket } from 'node:net';
import { lstat, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { UsageError, type BackendCommand, type Logger } from '../backend/index.js';
import type { Daemon } from './daemon.js';
import { suggestion } from './suggestion.js';
import type { BackendRegistry } from './registry.js';
import { check } from './schema.js';

/** The longest request or reply, in bytes. */
const MAX_LINE = 1 << 20;

/** A request: one line of JSON, answered by one line. */
const requestSchema = z.strictObject({
  backend: z.string(),
  command: z.string(),
  options: z.record(z.string(), z.unknown()),
});
export type ControlRequest = z.output<typeof requestSchema>;

const replySchema = z.union([
  z.strictObject({ lines: z.array(z.string()) }),
  z.strictObject({ error: z.string(), usage: z.boolean() }),
]);

/**
 * A daemon's control socket, by which commands of backends are run in the daemon, one at a time.
 * Only the owner may open the socket (mode 0600).
 */
export class ControlSocket {
  readonly #server: Server;
  readonly #connections = new Set<Socket>();
  readonly #daemon: Daemon;
  readonly #registry: BackendRegistry;
  readonly #log: Logger;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(daemon: Daemon, registry: BackendRegistry, log: Logger) {
    this.#daemon = daemon;
    this.#registry = registry;
    this.#log = log;
    this.#server = createServer((socket) => void this.#serve(socket));
  }

  /** @throws UsageError if the path cannot be a socket, or another daemon listens there. */
  static async listen(
    path: string,
    daemon: Daemon,
    registry: BackendRegistry,
    log: Logger,
  ): Promise<ControlSocket> {
    if (await isListening(path)) throw new UsageError(`--control ${path}: another daemon listens there`);
    const control = new ControlSocket(daemon, registry, log);
    const umask = process.umask(0o177);
    try {
      control.#server.listen(path);
    } finally {
      process.umask(umask);
    }
    try {
      await once(control.#server, 'listening');
    } catch (error) {
      throw new UsageError(`--control ${path}: ${(error as Error).message}`, { cause: error });
    }
    return control;
  }

  /** Waits for a running command, and closes the socket and every connection. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await this.#turn;
    for (const socket of this.#connections) socket.destroy();
    await closed;
  }

  async #serve(socket: Socket): Promise<void> {
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    try {
      for await (const line of linesOf(socket)) {
        const reply = this.#turn.then(() => this.#answer(line));
        this.#turn = reply;
        socket.write(`${JSON.stringify(await reply)}\n`);
      }
    } catch (error) {
      this.#log.warn({ error }, 'control connection failed');
      socket.destroy();
    }
  }

  /** Runs a command. Never rejects: an error becomes the reply. */
  async #answer(line: string): Promise<z.output<typeof replySchema>> {
    try {
      const { backend, command, options } = check(requestSchema, parse(line), 'request');
      const found = await findCommand(this.#registry, backend, command);
      const lines = await found.run(check(found.options, options, '', toFlags), {
        log: this.#log,
        serve: (tag, socket, served) => this.#daemon.add(tag, socket, served),
        stop: (socket) => this.#daemon.remove(socket),
      });
      return { lines: [...lines] };
    } catch (error) {
      const usage = error instanceof UsageError;
      if (!usage) this.#log.error({ error }, 'control command failed');
      return { error: (error as Error).message, usage };
    }
  }
}

/** A command of a kind of backend. @throws UsageError if there is none. */
export async function findCommand(
  registry: BackendRegistry,
  backend: string,
  name: string,
): Promise<BackendCommand> {
  const commands = (await registry.load(backend)).commands ?? [];
  const found = commands.find((command) => command.name === name);
  if (found !== undefined) return found;
  const known = commands.map((command) => command.name);
  throw new UsageError(`${backend} ${name}: no such command${suggestion(name, known)}`);
}

/**
 * Sends a command to a daemon.
 * @returns the lines of its reply.
 * @throws UsageError if no daemon listens, or if it finds a mistake in the request.
 */
export async function askDaemon(path: string, request: ControlRequest): Promise<readonly string[]> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    socket.write(`${JSON.stringify(request)}\n`);
    for await (const line of linesOf(socket)) {
      const reply = check(replySchema, parse(line), `--control ${path}: reply`);
      if ('lines' in reply) return reply.lines;
      throw reply.usage ? new UsageError(reply.error) : new Error(reply.error);
    }
    throw new Error(`--control ${path}: the daemon went away`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ECONNREFUSED' && code !== 'EACCES') throw error;
    throw new UsageError(`--control ${path}: no daemon listens there; start it with serve --control ${path}`);
  } finally {
    socket.destroy();
  }
}

async function* linesOf(socket: Socket): AsyncGenerator<string> {
  let length = 0;
  socket.on('data', (data: Buffer) => {
    length = data.includes(0x0a) ? 0 : length + data.length;
    if (length > MAX_LINE) socket.destroy(new Error('line too long'));
  });
  yield* createInterface({ input: socket, crlfDelay: Infinity });
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new UsageError('request: no JSON');
  }
}

function toFlags(path: readonly PropertyKey[]): string {
  return `--${path
    .map(String)
    .join('.')
    .replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** Whether somebody listens on a path; a socket that nobody listens on is removed. */
async function isListening(path: string): Promise<boolean> {
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
