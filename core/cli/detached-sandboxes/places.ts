import { closeSync, fstatSync, lstatSync, mkdirSync, openSync, readdirSync, rmSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { UsageError } from '../../backend/index.js';
import type { Fd } from '../../system/index.js';
import { lockExclusively } from '../../system/calls/files.js';

const SOCKET = '.sock';
const LOCK = '.lock';
const LOG = '.log';

/**
 * The folder in which each sandbox that runs on has its socket, and each process that holds some:
 * of this user alone.
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

/** Where a sandbox has its files, less their suffix. */
export function sandboxPlace(name: string): string {
  return join(placesFolder(), checkName(name));
}

function processesFolder(): string {
  const folder = join(placesFolder(), 'processes');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}

/** Where a process that holds sandboxes has its files, less their suffix. */
export function holderPlace(key: string): string {
  return join(processesFolder(), key);
}

/** The log of the process that holds sandboxes. */
export function logOf(place: string): string {
  return place + LOG;
}

/**
 * A place that is taken, by a lock that the kernel releases with the process. What a killed one has
 * left there is whoever's that takes it next.
 */
export class TakenPlace {
  readonly socket: string;
  readonly #path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
    this.socket = path + SOCKET;
  }

  /** @returns undefined if another one has it, in this process or elsewhere. */
  static take(path: string): TakenPlace | undefined {
    for (;;) {
      const fd = openSync(path + LOCK, 'a', 0o600);
      if (lockExclusively(fd as Fd) !== 0) {
        closeSync(fd);
        return undefined;
      }
      // Who had it may have removed the file since it was opened.
      if (statSync(path + LOCK, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
        rmSync(path + SOCKET, { force: true });
        return new TakenPlace(path, fd);
      }
      closeSync(fd);
    }
  }

  /** Removes what is there, and lets others have it. */
  leave(): void {
    for (const suffix of [SOCKET, LOG, LOCK]) rmSync(this.#path + suffix, { force: true });
    closeSync(this.#fd);
  }
}

/** Connects to what listens at a place. @returns undefined if nothing does. */
export function connectTo(place: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(place + SOCKET);
    socket.once('connect', () => resolve(socket)).once('error', () => resolve(undefined));
  });
}

/** The names of all sandboxes that run. What killed processes have left is removed. */
export async function sandboxNames(): Promise<string[]> {
  for (const place of placesIn(processesFolder())) TakenPlace.take(place)?.leave();
  const names: string[] = [];
  for (const place of placesIn(placesFolder())) {
    const socket = await connectTo(place);
    socket?.destroy();
    if (socket !== undefined) names.push(basename(place));
    else TakenPlace.take(place)?.leave();
  }
  return names.sort();
}

function placesIn(folder: string): string[] {
  const locks = readdirSync(folder).filter((file) => file.endsWith(LOCK));
  return locks.map((file) => join(folder, file.slice(0, -LOCK.length)));
}
