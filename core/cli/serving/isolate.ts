import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UsageError, type Logger } from '../../backend/index.js';
import type { ServedExport } from '../../plugins/index.js';
import { UnixListener } from '../../system/index.js';
import { SERVICE_MANAGER_VARIABLES, type ServiceManager } from '../../system/descriptors/sd-notify.js';
import { CONTROL_FD } from './control.js';
import { ISOLATED, isIsolated } from './isolated-exports.js';
import {
  ProcessesTogether,
  type SharedListeners,
  socketFolder,
  type SocketFolder,
} from './processes-together.js';
import { serving } from './systemd-notices.js';
import { aborted, stopSignal } from './signals.js';

/** Exit code of a mistake in the options, which the process has explained. */
const MISTAKE = 2;

/** The time between two starts of a process doubles, from the first to the second. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 30_000;

/** A process that lived so long did not fail at its start. */
const SERVED_MS = 10_000;

/** How often it is looked whether all sockets are there. */
const SOCKET_POLL_MS = 50;

/** How long a process may take to end after it was asked to. */
const END_TIMEOUT_MS = 30_000;

/** How long the end of a killed process is waited for: a file system that hangs may hold it. */
const KILLED_TIMEOUT_MS = 1000;

/**
 * The exports that one process each serves, and those that one serves together, by their numbers.
 * @throws UsageError for an isolated export whose backend another one shares.
 */
function processesOf(exports: readonly ServedExport[]): readonly (readonly number[])[] {
  const alone: number[][] = [];
  const together: number[] = [];
  for (const [index, one] of exports.entries()) {
    const { backend } = one;
    if (!isIsolated(one)) {
      together.push(index);
      continue;
    }
    if (typeof backend === 'string' && exports.some((other) => other !== one && other.backend === backend))
      throw new UsageError(`exports[${index}].isolate: another export shares the backend ${backend}`);
    alone.push([index]);
  }
  const named = exports.findIndex(({ fdName }) => fdName !== undefined);
  if (named >= 0)
    throw new UsageError(
      `exports[${named}].fdName: a socket unit is for one process, and isolate: process makes several; name a path as socket`,
    );
  return together.length === 0 ? alone : [together, ...alone];
}

/** A process that serves some of the exports, and the next one when it has ended. */
class IsolatedProcess {
  /** Resolves with its exit code when it has ended for good. */
  readonly ended: Promise<number>;
  readonly numbers: readonly number[];
  /** The path of the socket at which it is asked. */
  readonly control: string;
  /** Listens there for one after the other; a keeper listens itself. */
  readonly #listener: UnixListener | undefined;
  readonly #exports: readonly ServedExport[];
  readonly #log: Logger;
  readonly #closing = new AbortController();
  #child: ChildProcess | undefined;

  constructor(
    exports: readonly ServedExport[],
    numbers: readonly number[],
    { folder, isKept, log }: { readonly folder: string; readonly isKept: boolean; readonly log: Logger },
  ) {
    this.#exports = numbers.map((number) => exports[number]!);
    this.numbers = numbers;
    this.#log = log;
    this.control = join(folder, `${numbers[0]}`);
    this.#listener = isKept ? undefined : UnixListener.listen(this.control);
    // Nobody answers any more then.
    this.ended = this.#run().finally(() => this.#listener?.close());
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Ends it in order, or by force if that takes too long. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.signal('SIGTERM');
    if (await this.#endsWithin(END_TIMEOUT_MS)) return;
    this.signal('SIGKILL');
    if (await this.#endsWithin(KILLED_TIMEOUT_MS)) return;
    this.#log.error({ pid: this.#child?.pid, tags: this.#tags }, 'a process cannot be ended: it is left');
    this.#child?.unref();
  }

  get #tags(): readonly string[] {
    return this.#exports.map(({ tag }) => tag ?? '');
  }

  async #endsWithin(timeoutMs: number): Promise<boolean> {
    const timeout = new AbortController();
    const late = sleep(timeoutMs, false, { signal: timeout.signal }).catch(() => false);
    const isEnded = await Promise.race([this.ended.then(() => true), late]);
    timeout.abort();
    return isEnded;
  }

  async #run(): Promise<number> {
    for (let pauseMs = FIRST_PAUSE_MS, starts = 1; ; starts++) {
      const began = performance.now();
      const end = await this.#start();
      if (end === 0 || (end === MISTAKE && starts === 1)) return end;
      if (this.#closing.signal.aborted) return typeof end === 'number' ? end : 1;
      if (performance.now() - began > SERVED_MS) pauseMs = FIRST_PAUSE_MS;
      this.#log.error(
        { tags: this.#tags, end, pauseMs },
        'the process that serves an export has ended: another one is started',
      );
      await sleep(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => undefined);
      if (this.#closing.signal.aborted) return 1;
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }

  /** Starts a process. @returns its exit code, or what has ended it, when it has ended. */
  #start(): Promise<number | string> {
    const [, script, ...words] = process.argv;
    const own = ['--control', this.control, `--${ISOLATED}`, this.numbers.join(',')];
    const args = [...process.execArgv, script!, ...words, ...own];
    const stdio: StdioOptions = ['pipe', 'inherit', 'inherit'];
    for (const { fd } of this.#exports) {
      if (fd === undefined) continue;
      while (stdio.length < fd) stdio.push('ignore');
      stdio[fd] = fd;
    }
    // Only the first process is the service manager's.
    const env: NodeJS.ProcessEnv = { ...process.env };
    for (const name of SERVICE_MANAGER_VARIABLES) delete env[name];
    if (this.#listener !== undefined) env[CONTROL_FD] = `${stdio.push(this.#listener.fd) - 1}`;
    const child = spawn(process.execPath, args, { stdio, env });
    this.#child = child;
    const { pid } = child;
    this.#log.info({ pid, tags: this.#tags }, 'a process of its own');
    return new Promise((resolve) => {
      child.once('exit', (code, signal) => resolve(signal ?? code!));
      child.once('error', (error) => resolve(error.message));
    });
  }
}

interface IsolateOptions {
  /** Whether a SIGHUP has each process replace its engine. */
  readonly isKept: boolean;
  readonly manager: ServiceManager | undefined;
  /** Where all processes are shown together. */
  readonly listeners: SharedListeners;
  readonly log: Logger;
}

/**
 * Serves exports by several processes until a signal, and starts those anew that end. This process
 * opens no file system of theirs, so that none can hold it. Each is this program with the same
 * words.
 * @throws UsageError as {@link processesOf} does.
 */
export async function isolate(
  exports: readonly ServedExport[],
  { isKept, manager, listeners, log }: IsolateOptions,
): Promise<void> {
  const processes = processesOf(exports);
  const began = Date.now();
  const together = new ProcessesTogether(exports);
  // The folder beside a control socket is that of whoever listens there.
  await together.listen(listeners, log);
  const all: IsolatedProcess[] = [];
  let folder: SocketFolder | undefined;
  const close = async (): Promise<void> => {
    await together.close();
    await Promise.all(all.map((one) => one.close()));
    folder?.remove();
  };
  try {
    folder = socketFolder(listeners.control);
    for (const numbers of processes)
      all.push(new IsolatedProcess(exports, numbers, { folder: folder.path, isKept, log }));
  } catch (error) {
    await close();
    throw (error as Error).name === 'ListenError'
      ? new UsageError((error as Error).message, { cause: error })
      : error;
  }
  together.show(all);
  const hangUp = (): void => all.forEach((one) => one.signal('SIGHUP'));
  const tell = (): void =>
    log.warn({}, 'nothing is reloaded: exports in processes of their own need a restart');
  const stop = isKept ? stopSignal(hangUp) : stopSignal(tell, true);
  const isMistaken = new Promise<true>((resolve) => {
    for (const { ended } of all) void ended.then((code) => code === MISTAKE && resolve(true));
  });
  const allEnded = Promise.all(all.map(({ ended }) => ended)).then(() => false);
  const over = Promise.race([aborted(stop), allEnded, isMistaken]);
  const waiting = new AbortController();
  void over.then(() => waiting.abort());
  while (
    !waiting.signal.aborted &&
    !exports.every(({ socket }) => socket === undefined || isNew(socket, began))
  )
    await sleep(SOCKET_POLL_MS);
  if (!waiting.signal.aborted) manager?.ready(serving(exports.length));
  if ((await over) === true) process.exitCode = MISTAKE;
  manager?.stopping();
  if (stop.aborted) log.info({}, 'stopping');
  await close();
  manager?.close();
}

/** Whether a socket was made since. */
function isNew(socket: string, sinceMs: number): boolean {
  // The clock of file systems is a few milliseconds behind.
  return (statSync(socket, { throwIfNoEntry: false })?.ctimeMs ?? 0) > sinceMs - 20;
}
