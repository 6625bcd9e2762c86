import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { UsageError, type Logger } from '../../backend/index.js';
import { askSocket, type CommandRequest } from '../../control/index.js';
import type { DaemonFigures, DaemonStatus } from '../../monitoring/index.js';
import { processFigures } from '../../monitoring/figures.js';
import { figuresFromJson } from '../../monitoring/figures-json.js';
import {
  figuresOfAll,
  type Part,
  type PlacedExport,
  statusOfAll,
} from '../../monitoring/several-processes.js';
import { statusOf } from '../../monitoring/status.js';
import { statusFromJson } from '../../monitoring/status-json.js';
import { DAEMON_ITSELF, listenForCommands } from '../../plugins/control-socket.js';
import { kindOf } from '../../plugins/backend-source.js';
import { placeOf } from '../../plugins/export-changes.js';
import { setLogLevel } from '../../plugins/logger.js';
import type { ServedExport } from '../../plugins/index.js';
import type { MetricsListener } from './metrics.js';

/** How long a process may take to answer: a file system that hangs may hold it. */
const ANSWER_MS = 4000;

/** A process that serves some of the exports, as it is asked. */
export interface AskedProcess {
  /** Numbers of its exports. */
  readonly numbers: readonly number[];
  /** Where it answers. */
  readonly control: string;
  readonly pid: number | undefined;
}

/** Where what is asked of all processes is answered. */
export interface SharedListeners {
  readonly metrics: MetricsListener | undefined;
  /** The path of the control socket. */
  readonly control: string | undefined;
}

/** A folder for sockets. */
export interface SocketFolder {
  readonly path: string;
  remove(): void;
}

/**
 * Makes a folder for the sockets at which processes are asked: beside the control socket, where
 * operators find them, or anywhere. Only the owner can look into it.
 */
export function socketFolder(control: string | undefined): SocketFolder {
  const path =
    control === undefined ? mkdtempSync(join(tmpdir(), 'virtiofs-kit-')) : `${resolve(control)}.processes`;
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    chmodSync(path, 0o700);
  } catch (error) {
    throw new UsageError(`--control ${control ?? path}: ${(error as Error).message}`, { cause: error });
  }
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** One view of the processes that serve a daemon's exports. */
export class ProcessesTogether {
  readonly #exports: readonly ServedExport[];
  #processes: readonly AskedProcess[] = [];
  readonly #started = Date.now() / 1000;
  readonly #closers: (() => Promise<void>)[] = [];

  constructor(exports: readonly ServedExport[]) {
    this.#exports = exports;
  }

  /** The processes to ask from now on. */
  show(processes: readonly AskedProcess[]): void {
    this.#processes = processes;
  }

  /** @throws UsageError for a control socket, or an address, that cannot be had. */
  async listen(listeners: SharedListeners, log: Logger): Promise<void> {
    try {
      await this.#listen(listeners, log);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async #listen({ metrics, control }: SharedListeners, log: Logger): Promise<void> {
    if (control !== undefined) {
      const reply = (request: CommandRequest): Promise<readonly string[]> => this.#reply(request);
      const socket = listenForCommands(control, reply, log);
      this.#closers.push(() => socket.close());
    }
    const server = await metrics?.serve(() => this.#figures(), log);
    if (server !== undefined) this.#closers.push(() => server.close());
  }

  async close(): Promise<void> {
    await Promise.all(this.#closers.splice(0).map((close) => close()));
  }

  async #figures(): Promise<DaemonFigures> {
    const parts = await this.#askAll('figures', figuresFromJson);
    return figuresOfAll({ started: this.#started, process: processFigures(), exports: [] }, parts);
  }

  async #status(): Promise<DaemonStatus> {
    const parts = await this.#askAll('status', statusFromJson);
    return statusOfAll(statusOf({ started: this.#started, lostLogLines: 0 }, []), parts);
  }

  async #reply({ backend, command, options }: CommandRequest): Promise<readonly string[]> {
    const isOwn = backend === DAEMON_ITSELF;
    if (isOwn && command === 'status') return [JSON.stringify(await this.#status())];
    const { logLevel, ...others } = options;
    if (isOwn && command === 'reload' && Object.keys(others).length === 0 && logLevel !== undefined) {
      await Promise.all(this.#processes.map(({ control }) => ask(control, command, options)));
      setLogLevel(logLevel as Parameters<typeof setLogLevel>[0]);
      return [];
    }
    if (isOwn && command === 'reload')
      throw new UsageError('reload: exports with isolate: process need a restart');
    const places = this.#processes.map(({ control, numbers }) => {
      return `${control} (${numbers.map((number) => this.#placed(number).tag).join(', ')})`;
    });
    throw new UsageError(
      `${isOwn ? command : `${backend} ${command}`}: exports have processes of their own: ask at ${places.join(' or ')}`,
    );
  }

  #askAll<T>(command: string, parse: (text: string) => T | undefined): Promise<Part<T>[]> {
    return Promise.all(
      this.#processes.map(async ({ numbers, control, pid }): Promise<Part<T>> => {
        const exports = numbers.map((number) => this.#placed(number));
        try {
          const [text = ''] = await ask(control, command, {});
          const told = parse(text);
          return { exports, told, detail: told === undefined ? `process ${pid} tells nonsense` : '' };
        } catch {
          return { exports, told: undefined, detail: `process ${pid ?? ''} does not answer` };
        }
      }),
    );
  }

  #placed(number: number): PlacedExport {
    const { tag = '', backend, ...place } = this.#exports[number]!;
    const isOnly = this.#exports.every((other, index) => index === number || other.tag !== tag);
    return {
      tag: isOnly ? tag : `${tag} ${placeOf(place)}`,
      backend: kindOf(backend),
    };
  }
}

async function ask(
  control: string,
  command: string,
  options: Record<string, unknown>,
): Promise<readonly string[]> {
  const request = { backend: DAEMON_ITSELF, command, options };
  const lines = await askSocket(control, request, AbortSignal.timeout(ANSWER_MS));
  if (lines === undefined) throw new Error(`${control}: nobody listens`);
  return lines;
}
