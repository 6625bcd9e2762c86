import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../../backend/index.js';

/**
 * Signals whose default action ends a process, signal(7), except those that Node or V8 use
 * (SIGUSR1, SIGPROF), that tell of a fault of the process itself, or that Node ignores (SIGPIPE,
 * SIGXFSZ).
 */
const ENDING = [
  'SIGINT',
  'SIGTERM',
  'SIGHUP',
  'SIGQUIT',
  'SIGALRM',
  'SIGVTALRM',
  'SIGUSR2',
  'SIGXCPU',
  'SIGPWR',
  'SIGIO',
] as const;

/** Milliseconds in which a start may still come to its end when the process is to end. */
const START_GRACE_MS = 1_000;

/** Milliseconds that an orderly end may take after an exception that nobody caught. */
const FAULT_TIMEOUT_MS = 30_000;

/**
 * Aborted by the first signal that would end the process, or by an exception that nobody caught:
 * whoever serves then unmounts, makes data durable and removes its sockets. A second one ends the
 * process at once. SIGHUP is left alone under nohup.
 * @param onHangup what SIGHUP does instead.
 * @param endsWithTerminal whether SIGHUP does that only where it does not tell that the terminal is
 * gone from which the program was started.
 */
export function stopSignal(onHangup?: () => void, endsWithTerminal = false): AbortSignal {
  const hadTerminal = endsWithTerminal && !ignoresHangup() && hasTerminal();
  const controller = new AbortController();
  const stop = (exitCode: number): void => {
    if (controller.signal.aborted) process.exit(exitCode);
    controller.abort(new Stopped(exitCode));
  };
  for (const signal of ENDING) {
    if (signal === 'SIGHUP' && onHangup !== undefined)
      process.on(signal, () => {
        if (hadTerminal && !hasTerminal()) stop(128 + constants.signals[signal]);
        else onHangup();
      });
    else if (signal === 'SIGHUP' && ignoresHangup()) process.on(signal, () => undefined);
    else process.on(signal, () => stop(128 + constants.signals[signal]));
  }
  process.on('uncaughtException', (error) => {
    process.stderr.write(`virtiofs-kit: this is a bug: ${error.stack ?? String(error)}\n`);
    setTimeout(() => process.exit(1), FAULT_TIMEOUT_MS).unref();
    stop(1);
    process.exitCode = 1;
  });
  return controller.signal;
}

/**
 * Has a rejection that nobody waits for logged, in the place of Node's default: that it ends the
 * process, and with it all guests. What it is about has failed by itself, and holds nothing up.
 */
export function surviveRejections(log: Logger): void {
  process.on('unhandledRejection', (err) =>
    log.error({ err }, 'a promise was rejected, and nobody waited for it: this is a bug'),
  );
}

/**
 * Whether the program was started to outlive its terminal. Node gives every signal its default
 * action when it starts, so that what nohup(1) set is lost: the shell's `_` tells of nohup, and the
 * parent's own mask of `trap '' HUP`.
 */
function ignoresHangup(): boolean {
  if (basename(process.env['_'] ?? '') === 'nohup') return true;
  try {
    const status = readFileSync(`/proc/${process.ppid}/status`, 'utf8');
    const ignored = BigInt(`0x${/^SigIgn:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
    return ((ignored >> BigInt(constants.signals.SIGHUP - 1)) & 1n) === 1n;
  } catch {
    return false;
  }
}

/** Whether the process has a controlling terminal: `tty_nr` of proc_pid_stat(5). */
function hasTerminal(): boolean {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[4] !== '0';
}

/** A request that may come before somebody is there who answers it. */
export class EarlyRequest {
  #isAsked = false;
  #act: (() => void) | undefined;

  readonly ask = (): void => {
    if (this.#act === undefined) this.#isAsked = true;
    else this.#act();
  };

  /** From now on `act` is called for each. */
  answer(act: () => void): void {
    this.#act = act;
    if (this.#isAsked) act();
  }
}

/** Thrown when a signal has asked the program to end. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
  /** The exit code that the program should end with. */
  readonly exitCode: number;

  constructor(exitCode: number) {
    super('stopped by a signal');
    this.exitCode = exitCode;
  }

  /** The signal; undefined if it was none. */
  get signal(): NodeJS.Signals | undefined {
    const found = Object.entries(constants.signals).find(([, number]) => 128 + number === this.exitCode);
    return found?.[0] as NodeJS.Signals | undefined;
  }
}

/**
 * For a command that shows something until it is ended: as {@link stopSignal}, and aborted too when
 * nobody reads standard output any more.
 */
export function shownUntil(): AbortSignal {
  const unread = new AbortController();
  process.stdout.once('error', () => unread.abort());
  return AbortSignal.any([stopSignal(), unread.signal]);
}

/** Resolves after so many milliseconds, or when the signal is aborted. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => undefined);
}

/** Resolves when a signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/**
 * Waits for a start. If the process is to end before, and the start does not come to its end in a
 * moment, the process ends as by a kill: a backend may wait a minute for a server that is silent.
 * @param over resolves when the process is to end.
 */
export async function startedBefore<T>(
  starting: Promise<T>,
  stop: AbortSignal,
  over: Promise<void> = aborted(stop),
): Promise<T> {
  let isOver = false;
  const end = async (): Promise<void> => {
    await sleep(START_GRACE_MS, undefined, { ref: false });
    if (!isOver) process.exit(stop.reason instanceof Stopped ? stop.reason.exitCode : 0);
  };
  void over.then(() => (isOver ? undefined : end()));
  try {
    return await starting;
  } finally {
    isOver = true;
  }
}
