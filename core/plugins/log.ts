import { pino } from 'pino';
import type { Logger } from '../backend/index.js';
import type { LogConfig } from './config.js';

/**
 * Makes a logger to standard error. It writes lines at once, so that none is lost when the process
 * ends.
 */
export function createLogger({ level, format }: LogConfig): Logger {
  const target = pino.destination({ fd: 2, sync: true });
  const isText = format === 'text' || (format === 'auto' && process.stderr.isTTY);
  const stream = isText ? { write: (line: string) => target.write(toText(line)) } : target;
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, stream);
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
