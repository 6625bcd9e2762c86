import { existsSync, lstatSync, mkdirSync, realpathSync, statSync, writeFileSync } from 'node:fs';
import * as nodeModule from 'node:module';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';

/** What Node has of it from 22.10 on. */
interface CompileCache {
  enableCompileCache?(directory: string): unknown;
  flushCompileCache?(): void;
  getCompileCacheDir?(): string | undefined;
}

const { enableCompileCache, flushCompileCache, getCompileCacheDir } = nodeModule as CompileCache;

/** Who may write there. Bits of a mode. */
const OTHERS_WRITE = 0o022;
const STICKY = 0o1000;

/**
 * Has Node keep the compiled form of modules, where it can and there is a safe place for it:
 * whoever can write there decides what the program does. To be called before other modules are
 * loaded, and when flags of V8 are set that will not change.
 */
export function useCodeCache(): void {
  if (enableCompileCache === undefined || flushCompileCache === undefined) return;
  const directory = cacheDirectory();
  if (directory !== undefined) enableCompileCache(directory);
}

/** The directory that the cache is read from, if there is one. */
export function codeCacheDirectory(): string | undefined {
  return getCompileCacheDir?.();
}

/**
 * Has what was compiled kept, and the modules of the program that serves too, if they are not yet:
 * a confined program cannot write into the cache. All their functions are compiled then, those that
 * serve requests among them.
 * @param load imports these modules.
 */
export async function fillCodeCache(load: () => Promise<unknown>): Promise<void> {
  const directory = codeCacheDirectory();
  if (directory === undefined || flushCompileCache === undefined) return;
  const { size, mtimeMs, ino } = statSync(fileURLToPath(import.meta.url));
  const filled = join(directory, `filled-${size}-${mtimeMs}-${ino}`);
  const isFilled = existsSync(filled);
  if (!isFilled) await compiled(load);
  flushCompileCache();
  if (isFilled) return;
  try {
    writeFileSync(filled, '');
  } catch {
    // A cache that cannot be written, as on a full disk, is none.
  }
}

/** Imports modules, with every function of theirs compiled at once. */
async function compiled(load: () => Promise<unknown>): Promise<void> {
  setFlagsFromString('--no-lazy');
  try {
    await load();
  } finally {
    // What is kept is good only for the same flags.
    setFlagsFromString('--lazy');
  }
}

function cacheDirectory(): string | undefined {
  if (process.geteuid?.() === 0) return safeDirectory('/var/cache/virtiofs-kit');
  const { XDG_CACHE_HOME: own } = process.env;
  const parent = own !== undefined && isAbsolute(own) ? own : join(homedir(), '.cache');
  return safeDirectory(join(parent, 'virtiofs-kit'));
}

/**
 * Makes a directory if it is not there, in one that is.
 * @returns its path, or undefined if it cannot be had, or others than this user and root can write
 * to it or replace it.
 */
export function safeDirectory(directory: string): string | undefined {
  try {
    if (!existsSync(directory)) mkdirSync(directory, { mode: 0o700 });
    const path = realpathSync(directory);
    return isSafe(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

function isSafe(directory: string): boolean {
  for (let path = directory; ; path = dirname(path)) {
    const { uid, mode } = lstatSync(path);
    const isOwn = uid === 0 || uid === process.geteuid?.();
    // In a sticky directory others cannot replace what is not theirs; but they can add to it.
    const isSticky = path !== directory && (mode & STICKY) !== 0;
    if (!isOwn || ((mode & OTHERS_WRITE) !== 0 && !isSticky)) return false;
    if (path === '/') return true;
  }
}
