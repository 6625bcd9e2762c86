import { closeSync, lstatSync, mkdirSync, openSync, readdirSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UsageError } from '../../backend/index.js';

const SUFFIX = '.sock';

/**
 * The folder in which each sandbox that runs on has its socket and its log: of this user alone.
 * @throws UsageError if it is somebody else's.
 */
function placesFolder(): string {
  const uid = process.getuid?.() ?? 0;
  const folder = join(process.env['XDG_RUNTIME_DIR'] ?? tmpdir(), `virtiofs-kit-sandboxes-${uid}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const stats = lstatSync(folder);
  if (!stats.isDirectory() || stats.uid !== uid || (stats.mode & 0o077) !== 0)
    throw new UsageError(`${folder}: must be a directory of yours that nobody else can enter`);
  return folder;
}

/** @throws UsageError for what cannot be a sandbox's name. */
export function checkName(name: string): string {
  if (/^[a-z0-9][a-z0-9_.-]{0,39}$/i.test(name)) return name;
  throw new UsageError(`${name}: no name of a sandbox: 40 letters, digits, . - _ at most`);
}

/** Where a sandbox listens. */
export function socketOf(name: string): string {
  return join(placesFolder(), checkName(name) + SUFFIX);
}

/** Opens the file into which the process of a sandbox writes what went wrong. */
export function openLog(name: string): { fd: number; close(): void } {
  const path = join(placesFolder(), `${checkName(name)}.log`);
  const fd = openSync(path, 'w+', 0o600);
  return { fd, close: () => closeSync(fd) };
}

/** Connects to a sandbox. @returns undefined if there is none of that name. */
export function connectTo(name: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(socketOf(name));
    socket.once('connect', () => resolve(socket)).once('error', () => resolve(undefined));
  });
}

/** The names of all sandboxes that run. What killed ones have left is removed. */
export async function sandboxNames(): Promise<string[]> {
  const names: string[] = [];
  for (const file of readdirSync(placesFolder())) {
    if (!file.endsWith(SUFFIX)) continue;
    const name = file.slice(0, -SUFFIX.length);
    const socket = await connectTo(name);
    socket?.destroy();
    if (socket === undefined) leave(name);
    else names.push(name);
  }
  return names.sort();
}

/** Removes what a sandbox has in the folder. */
export function leave(name: string): void {
  rmSync(socketOf(name), { force: true });
  rmSync(join(placesFolder(), `${name}.log`), { force: true });
}
