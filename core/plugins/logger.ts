import { isatty } from 'node:tty';
import { pino, type Logger as PinoLogger } from 'pino';
import type { Logger } from '../backend/index.js';
import { type Fd, Output } from '../system/index.js';
import type { LogConfig } from './options/config-schema.js';

const STDERR = 2;
/** Bytes of lines that wait for whoever reads them. */
const MOST_WAITING_BYTES = 2 ** 20;
const WARN = 40;

/** Standard error, once for all loggers of the process. */
let output: Output | undefined;
let latest: PinoLogger | undefined;

/**
 * A logger to standard error. It never waits: where nobody reads, or there is no room, lines are
 * lost, and how many is told as soon as that is possible.
 */
export function createLogger({ level, format }: LogConfig): Logger {
  const isText = format === 'text' || (format === 'auto' && isatty(STDERR));
  const toLine = isText ? toText : (line: string): string => line;
  output ??= new Output(STDERR as Fd, MOST_WAITING_BYTES, (count) => toLine(lostLine(count)));
  const target = output;
  const stream = { write: (line: string): void => target.write(toLine(line)) };
  const made = pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, stream);
  latest = made;
  return made;
}

/** Changes the least severity that the logger writes which was made last: a program's own. */
export function setLogLevel(level: LogConfig['level']): void {
  if (latest !== undefined) latest.level = level;
}

/** How many lines of this process's log nobody took, since its start. */
export function lostLogLines(): number {
  return output?.lost ?? 0;
}

function lostLine(count: number): string {
  const time = new Date().toISOString();
  return `${JSON.stringify({ level: WARN, time, count, msg: 'lines of the log were lost: nobody took them' })}\n`;
}

/** `18:02:11.123 warn   a front-end was turned away limit=16` */
function toText(line: string): string {
  const { level, time, msg, err, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const label = pino.levels.labels[Number(level)] ?? 'info';
  const rest = Object.entries(fields).map(([name, value]) => ` ${name}=${show(value)}`);
  const stack = (err as { stack?: string } | undefined)?.stack;
  return `${String(time).slice(11, 23)} ${label.padEnd(6)} ${String(msg)}${rest.join('')}${stack === undefined ? '' : `\n${stack}`}\n`;
}

function show(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return /[\s"]/.test(text) && typeof value === 'string' ? JSON.stringify(value) : text;
}
