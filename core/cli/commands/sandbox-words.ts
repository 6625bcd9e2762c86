import { resolve } from 'node:path';
import { UsageError } from '../../backend/index.js';
import { SCHEME } from '../../sandbox/image/registry/reference.js';
import type { TerminalSize } from '../../sandbox/index.js';
import type { Values } from '../flags.js';
import { aborted, Stopped } from '../serving/signals.js';

/** Whether a command is to have a terminal. @throws UsageError if here is none to show it. */
export function wantsTerminal(words: readonly string[], { tty }: Values): boolean {
  const isTerminal = process.stdin.isTTY && process.stdout.isTTY;
  if (tty === true && !isTerminal)
    throw new UsageError('--tty: standard input and output must be a terminal here, too');
  return tty === true || (words.length === 0 && isTerminal);
}

/** The size of this process's terminal. */
export function terminalSize(): TerminalSize {
  const { columns, rows } = process.stdout;
  // A terminal without a known size reports 0.
  return columns > 0 && rows > 0 ? { columns, rows } : { columns: 80, rows: 24 };
}

/** Reads the value of `--env`. */
export function variable(text: string): [string, string][] {
  const at = text.indexOf('=');
  if (at >= 0) return [[text.slice(0, at), text.slice(at + 1)]];
  const value = process.env[text];
  return value === undefined ? [] : [[text, value]];
}

/** Splits `DIR:TAG`, whose path becomes absolute; an image of a registry stays as it is. */
export function placeAndTag(text: string): [place: string, tag: string | undefined] {
  if (text.startsWith(SCHEME)) return [text, undefined];
  const [, place = text, tag] = /^(.+):([\w.-]+)$/.exec(text) ?? [];
  return [resolve(place), tag];
}

/** Reads `PORT` or `HOST_PORT:PORT`. */
export function portsOf(text: string): { port: number; hostPort: number } {
  const [hostPort = 0, port = hostPort] = text.split(':').map(Number);
  return { port, hostPort };
}

/** A command that this process stands for. */
export interface Attended {
  kill(signal: NodeJS.Signals): Promise<unknown>;
  resize(size: TerminalSize): void;
  /** Passes its output on. @returns its exit code. */
  run(): Promise<number>;
}

/** Runs a command, and passes signals and the terminal's size on. @returns its exit code. */
export async function attended(stop: AbortSignal, hasTerminal: boolean, command: Attended): Promise<number> {
  const { stdin, stdout } = process;
  // The first signal is for the command; the second one ends this process.
  void aborted(stop).then(() => {
    if (stop.reason instanceof Stopped) void command.kill(stop.reason.signal ?? 'SIGTERM');
  });
  const resize = (): void => command.resize(terminalSize());
  if (hasTerminal) {
    stdin.setRawMode(true);
    stdout.on('resize', resize);
  }
  try {
    return await command.run();
  } finally {
    if (hasTerminal) {
      stdin.setRawMode(false);
      stdout.off('resize', resize);
    }
  }
}
