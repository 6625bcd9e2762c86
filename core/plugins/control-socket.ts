import { UsageError, type BackendCommand, type DaemonCommand, type Logger } from '../backend/index.js';
import * as z from 'zod';
import { askSocket, CommandSocket, type CommandRequest } from '../control/index.js';
import type { OwnedFd } from '../system/index.js';
import { Feeds } from '../trace/feeds.js';
import { configOf } from './options/config-schema.js';
import type { DaemonFigures, DaemonStatus } from '../monitoring/index.js';
import { figuresJson } from '../monitoring/figures-json.js';
import type { Tracing } from '../trace/tracing.js';
import type { Daemon } from './daemon.js';
import { setLogLevel } from './logger.js';
import type { Reloading } from './reload.js';
import { suggestion } from './options/suggestion.js';
import type { BackendRegistry } from './registry.js';
import { check, toFlag } from './options/option-descriptions.js';

/** What is commanded: a daemon, or a host mount, which has no sockets to serve on. */
export interface Commanded extends Partial<Pick<Daemon, 'add' | 'remove'>> {
  figures(): Promise<DaemonFigures>;
  readonly tracing: Tracing;
  status(): Promise<DaemonStatus>;
}

/** A daemon's control socket: it runs commands of backends in the daemon, one at a time. */
export class ControlSocket {
  readonly #daemon: Commanded;
  readonly #registry: BackendRegistry;
  readonly #log: Logger;
  readonly #feeds: Feeds;
  readonly #reloading: Reloading | undefined;
  #socket: CommandSocket | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(
    daemon: Commanded,
    registry: BackendRegistry,
    log: Logger,
    reloading: Reloading | undefined,
  ) {
    this.#daemon = daemon;
    this.#registry = registry;
    this.#log = log;
    this.#feeds = new Feeds(daemon.tracing);
    this.#reloading = reloading;
  }

  /**
   * @param path also a descriptor that listens, which is the socket's from here on.
   * @param reloading changes a daemon that was started with a configuration file.
   * @throws UsageError if the path cannot be a socket, or another daemon listens there.
   */
  static listen(
    path: string | OwnedFd,
    daemon: Commanded,
    registry: BackendRegistry,
    log: Logger,
    reloading?: Reloading,
  ): ControlSocket {
    const control = new ControlSocket(daemon, registry, log, reloading);
    const answer = (request: CommandRequest): Promise<readonly string[]> => control.#queue(request);
    if (typeof path !== 'string') {
      control.#socket = CommandSocket.adopt(path.take(), answer, log);
      return control;
    }
    control.#socket = listenForCommands(path, answer, log);
    return control;
  }

  /** Waits for running commands, and closes the socket and every connection. */
  async close(): Promise<void> {
    this.#feeds.close();
    await this.#socket?.close();
  }

  /** What is asked of the daemon itself does not wait for commands of backends. */
  #queue(request: CommandRequest): Promise<readonly string[]> {
    if (request.backend === DAEMON_ITSELF) return this.#runOwn(request);
    const reply = this.#turn.then(() => this.#run(request));
    this.#turn = reply.catch(() => undefined);
    return reply;
  }

  async #run({ backend, command, options }: CommandRequest): Promise<readonly string[]> {
    const { run, options: schema } = await findDaemonCommand(this.#registry, backend, command);
    return run(check(schema, options, '', flagOf), {
      log: this.#log,
      serve: async (tag, socket, served) => {
        if (this.#daemon.add === undefined) throw new UsageError(`${socket}: a host mount serves no sockets`);
        return this.#daemon.add(tag, socket, served);
      },
      stop: async (socket) => (await this.#daemon.remove?.(socket)) ?? false,
    });
  }

  async #reload({ file, text, logLevel }: z.output<typeof reloadSchema>): Promise<readonly string[]> {
    if (logLevel !== undefined) setLogLevel(logLevel);
    if (file === undefined || text === undefined) return [];
    if (this.#reloading === undefined)
      throw new UsageError('reload: the daemon was started without --config: restart it with one');
    return this.#reloading.take(configOf(text, file));
  }

  /** Runs a command of the daemon itself. */
  async #runOwn({ command, options }: CommandRequest): Promise<readonly string[]> {
    switch (command) {
      case 'status':
        return [JSON.stringify(await this.#daemon.status())];
      case 'figures':
        return [figuresJson(await this.#daemon.figures())];
      case 'trace': {
        const asked = check(traceSchema, options, 'trace ');
        if ('start' in asked) return [`${this.#feeds.start(asked.data)}`];
        if ('next' in asked) return this.#feeds.next(asked.next).map(toBase64);
        this.#feeds.stop(asked.stop);
        return [];
      }
      case 'reload':
        return this.#reload(check(reloadSchema, options, 'reload '));
      default:
        throw new UsageError(`${command}: no such command of a daemon`);
    }
  }
}

/** Asks for another configuration, or for more or less in the log. */
const reloadSchema = z.strictObject({
  file: z.string().optional(),
  text: z.string().optional(),
  logLevel: z.enum(['debug', 'info', 'warn', 'error', 'silent']).optional(),
});

/** Asks for a capture, its next pieces, or its end. */
const traceSchema = z.union([
  z.strictObject({ start: z.literal(true), data: z.boolean() }),
  z.strictObject({ next: z.number().int() }),
  z.strictObject({ stop: z.number().int() }),
]);

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');
}

/**
 * Listens for commands at the path of a control socket.
 * @throws UsageError if the path cannot be a socket, or another daemon listens there.
 */
export function listenForCommands(
  path: string,
  reply: (request: CommandRequest) => Promise<readonly string[]>,
  log: Logger,
): CommandSocket {
  let socket: CommandSocket | undefined;
  try {
    socket = CommandSocket.listen(path, reply, log);
  } catch (error) {
    throw new UsageError(`--control ${path}: ${(error as Error).message}`, { cause: error });
  }
  if (socket === undefined) throw new UsageError(`--control ${path}: another daemon listens there`);
  return socket;
}

/** Stands in a request in the place of a backend, for what is asked of the daemon itself. */
export const DAEMON_ITSELF = 'daemon';

/** A command that is asked for at a control socket. @throws UsageError if there is none. */
async function findDaemonCommand(
  registry: BackendRegistry,
  backend: string,
  name: string,
): Promise<DaemonCommand> {
  const commands = ((await registry.load(backend)).commands ?? []).filter(isDaemonCommand);
  const found = commands.find((command) => command.name === name);
  if (found !== undefined) return found;
  const known = commands.map((command) => command.name);
  throw new UsageError(`${backend} ${name}: no such command of a daemon${suggestion(name, known)}`);
}

function isDaemonCommand(command: BackendCommand): command is DaemonCommand {
  return command.kind === 'online' && 'run' in command;
}

/**
 * Sends a command to a daemon.
 * @param signal ends the waiting for its answer, with an Error.
 * @returns the lines of its reply.
 * @throws UsageError if no daemon listens, or if it finds a mistake in the request.
 */
export async function askDaemon(
  path: string,
  request: CommandRequest,
  signal?: AbortSignal,
): Promise<readonly string[]> {
  const lines = await askSocket(path, request, signal);
  if (lines !== undefined) return lines;
  throw new UsageError(`--control ${path}: no daemon listens there; start it with serve --control ${path}`);
}

function flagOf(path: readonly PropertyKey[]): string {
  return `--${path.map((part) => toFlag(String(part))).join('.')}`;
}
