import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { statusFromJson, statusText, topText, type DaemonStatus } from '../../monitoring/index.js';
import { askDaemon, DAEMON_ITSELF } from '../../plugins/index.js';
import { pause, shownUntil } from '../serving/signals.js';

/** Clears a terminal from its first line on: ECMA-48's CUP and ED. */
const CLEAR = '\x1b[H\x1b[2J';

/** `status` and `top`: what a daemon that serves is doing. */
export function addStatus(program: Command): void {
  program
    .command('status')
    .description('show what a daemon serves, to whom, and what went wrong since its start')
    .argument('<CONTROL>', 'its control socket: serve --control CONTROL')
    .option('--json', 'one line of JSON, for programs')
    .action(async (control: string, { json }: { readonly json?: boolean }) => {
      const status = await askStatus(control);
      write(json === true ? [JSON.stringify(status)] : statusText(status));
    });
}

/** `top`: as `status`, in numbers a second, again and again. */
export function addTop(program: Command): void {
  program
    .command('top')
    .description('show what guests ask of a daemon, in numbers a second, until Ctrl-C')
    .argument('<CONTROL>', 'its control socket: serve --control CONTROL')
    .option('--interval <SECONDS>', 'between two looks, 0.1 to 3600', '2')
    .option('--count <N>', 'end after so many looks')
    .action(top);
}

interface TopOptions {
  readonly interval: string;
  readonly count?: string;
}

async function top(control: string, options: TopOptions): Promise<void> {
  const interval = number('interval', options.interval, 0.1, 3600);
  const most = options.count === undefined ? Infinity : number('count', options.count, 1, 1e9);
  const isTerminal = process.stdout.isTTY;
  const stop = shownUntil();
  let before = await askStatus(control);
  for (let shown = 0; shown < most; shown++) {
    await pause(interval * 1000, stop);
    if (stop.aborted) return;
    const now = await askStatus(control);
    // Another daemon has taken the socket: its numbers begin anew.
    if (now.pid === before.pid && now.started === before.started) {
      if (isTerminal) process.stdout.write(CLEAR);
      else if (shown > 0) process.stdout.write('\n');
      const { rows = Infinity, columns } = isTerminal ? process.stdout : {};
      // A line is left for the cursor.
      write(topText(before, now, rows - 1), columns);
    }
    before = now;
  }
}

/** The status of a daemon. @throws UsageError if none answers. */
export async function askStatus(control: string, signal?: AbortSignal): Promise<DaemonStatus> {
  const request = { backend: DAEMON_ITSELF, command: 'status', options: {} };
  const [line = ''] = await askDaemon(control, request, signal);
  const status = statusFromJson(line);
  if (status === undefined)
    throw new UsageError(`${control}: what answers there is no daemon of this version`);
  return status;
}

function number(flag: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text.trim() !== '' && value >= least && value <= most) return value;
  throw new UsageError(`--${flag} ${text}: must be ${least} to ${most}`);
}

/** @param columns of a terminal in which lines must not be folded. */
function write(lines: readonly string[], columns?: number): void {
  process.stdout.write(lines.map((line) => `${printable(line).slice(0, columns)}\n`).join(''));
}

/** Tags and a backend's own words may hold what a terminal obeys. */
export function printable(line: string): string {
  // eslint-disable-next-line no-control-regex
  return line.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, '?');
}
