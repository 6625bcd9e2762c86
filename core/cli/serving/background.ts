import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { UsageError } from '../../backend/index.js';

/** Tells the process that goes on in the background so, and by which descriptor it says that. */
const READY_FD = 'VIRTIOFS_KIT_READY';

/** Whether this process is the one that goes on in the background. */
export function isInBackground(): boolean {
  return process.env[READY_FD] !== undefined;
}

/** What this program is started with, in the background. */
export interface BackgroundStart {
  /** Default: the words of this process. */
  readonly words?: readonly string[];
  /** Default: this process's directory. */
  readonly cwd?: string | undefined;
}

/**
 * Starts this program again, in the background, and returns when it has told that it is ready.
 * @param log descriptor of a file, opened for appending and reading, for what the process says
 * @throws UsageError with what it said, if it ends before.
 */
export async function goOnInBackground(
  log: number,
  { words = process.argv.slice(2), cwd }: BackgroundStart = {},
): Promise<void> {
  const before = fstatSync(log).size;
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...words], {
    stdio: ['ignore', log, log, 'pipe'],
    env: { ...process.env, [READY_FD]: '3' },
    detached: true,
    cwd,
  });
  const ready = child.stdio[3]!;
  const isReady = await Promise.race([
    once(ready, 'data').then(() => true),
    once(child, 'exit').then(() => false),
  ]);
  if (!isReady) {
    const said = saidSince(log, before).replaceAll(/^virtiofs-kit: /gm, '');
    throw new UsageError(said === '' ? 'it ended at once, without a word' : said);
  }
  ready.destroy();
  child.unref();
}

function saidSince(log: number, before: number): string {
  const said = Buffer.alloc(Math.min(64 * 1024, fstatSync(log).size - before));
  return said
    .subarray(0, readSync(log, said, 0, said.length, before))
    .toString()
    .trim();
}

/** Tells who started this process in the background that it is ready. Nothing where nobody did. */
export function tellReady(): void {
  if (!isInBackground()) return;
  const fd = Number(process.env[READY_FD]);
  writeSync(fd, 'ready');
  closeSync(fd);
}

/**
 * Opens the file to which what a process in the background says is added.
 * @param path undefined: one for the directory, in `/var/log/virtiofs-kit` for root, else in
 * `$XDG_STATE_HOME/virtiofs-kit`.
 * @throws UsageError if it can't be opened.
 */
export function openBackgroundLog(path: string | undefined, directory: string): number {
  const state = process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state');
  const folder = process.geteuid?.() === 0 ? '/var/log/virtiofs-kit' : join(state, 'virtiofs-kit');
  const name = directory.replace(/^\/+|\/+$/g, '').replaceAll('/', '-');
  const file = path ?? join(folder, `${name === '' ? 'root' : name}.log`);
  try {
    if (path === undefined) mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    return openSync(file, 'a+', 0o600);
  } catch (error) {
    throw new UsageError(`--log-file ${file}: ${(error as Error).message}`, { cause: error });
  }
}
