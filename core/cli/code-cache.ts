import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import * as nodeModule from 'node:module';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { cachedDataVersionTag, setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';

/** What Node has for modules from 22.10 on. */
interface CompileCache {
  enableCompileCache?(directory: string): unknown;
  flushCompileCache?(): void;
}

const { enableCompileCache, flushCompileCache } = nodeModule as CompileCache;

/** Who may write there. Bits of a mode. */
const OTHERS_WRITE = 0o022;
const STICKY = 0o1000;

/** How the folders begin. Others of such a name are removed, but for as many, when one is made. */
const PREFIX = 'virtiofs-kit-';
const OTHERS_KEPT = 7;

/** The directory of compiled code, and in it the folder of this program, where there are some. */
let directory: string | undefined;
let folder: string | undefined;
let isWritten = false;

/**
 * Has the compiled form of the program's parts kept, where there is a safe place for it: whoever
 * can write there decides what the program does. To be called when flags of V8 are set that will
 * not change: compiled code holds only for the same ones.
 * @param file by which this build of the program is known.
 * @param writes whether this thread adds to what is kept. One of a confined process cannot.
 */
export function useCodeCache(file: string, writes: boolean): void {
  directory = cacheDirectory();
  if (directory === undefined) return;
  enableCompileCache?.(directory);
  const { size, mtimeMs, ino } = statSync(file);
  const tag = cachedDataVersionTag().toString(16);
  const own = join(directory, `${PREFIX}${process.version}-${process.arch}-${tag}-${size}-${mtimeMs}-${ino}`);
  isWritten = writes && makeFolder(directory, own);
  if (isWritten || !writes) folder = own;
}

/** The directory that compiled code is read from, if there is one. */
export function codeCacheDirectory(): string | undefined {
  return directory;
}

/**
 * Has all that the program which serves needs compiled and kept, if it is not yet: a confined
 * program cannot write it.
 * @param load imports it.
 */
export async function fillCodeCache(load: () => Promise<unknown>): Promise<void> {
  if (folder === undefined || !isWritten) return;
  const filled = join(folder, 'filled');
  if (existsSync(filled)) return;
  await load();
  flushCompileCache?.();
  write(filled, Buffer.alloc(0));
}

/**
 * Compiles a script, or takes what is kept of it. Where it is to be kept, all its functions are
 * compiled at once, those that serve requests among them.
 * @param path of its file, absolute: its last part is the name by which it is kept.
 */
export function compile(path: string, source: string): Script {
  const options = { filename: path };
  if (folder === undefined) return new Script(source, options);
  const kept = join(folder, path.slice(path.lastIndexOf('/') + 1));
  const cachedData = readIfThere(kept);
  if (cachedData !== undefined) {
    const script = new Script(source, { ...options, cachedData });
    // The next start keeps it anew: what V8 has compiled of this one it would only give again.
    if (script.cachedDataRejected === true && isWritten) rmSync(kept, { force: true });
    return script;
  }
  if (!isWritten) return new Script(source, options);
  setFlagsFromString('--no-lazy');
  let script: Script;
  try {
    script = new Script(source, options);
  } finally {
    setFlagsFromString('--lazy');
  }
  write(kept, script.createCachedData());
  return script;
}

function readIfThere(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined;
  }
}

/** Writes a file that is there as a whole or not at all, whatever becomes of the machine. */
function write(file: string, bytes: Uint8Array): void {
  const passing = `${file}.${process.pid}`;
  try {
    const fd = openSync(passing, 'wx', 0o600);
    try {
      writeFileSync(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(passing, file);
  } catch {
    // A cache that cannot be written, as on a full disk, is none.
    rmSync(passing, { force: true });
  }
}

/** Makes this program's folder, and removes those of all but a few others. */
function makeFolder(above: string, own: string): boolean {
  try {
    if (existsSync(own)) return true;
    mkdirSync(own, { mode: 0o700 });
    const others = readdirSync(above)
      .filter((name) => name.startsWith(PREFIX))
      .map((name) => join(above, name))
      .filter((path) => path !== own);
    const byAge = others
      .map((path) => ({ path, madeMs: lstatSync(path).mtimeMs }))
      .sort((a, b) => b.madeMs - a.madeMs);
    for (const { path } of byAge.slice(OTHERS_KEPT)) rmSync(path, { recursive: true, force: true });
    return true;
  } catch {
    return existsSync(own);
  }
}

function cacheDirectory(): string | undefined {
  const { XDG_CACHE_HOME: own, NODE_COMPILE_CACHE: named, NODE_DISABLE_COMPILE_CACHE: off } = process.env;
  if (off === '1') return undefined;
  if (named !== undefined && isAbsolute(named)) return existsSync(named) ? named : undefined;
  if (process.geteuid?.() === 0) return safeDirectory('/var/cache/virtiofs-kit');
  const parent = own !== undefined && isAbsolute(own) ? own : join(homedir(), '.cache');
  return safeDirectory(join(parent, 'virtiofs-kit'));
}

/**
 * Makes a directory if it is not there, in one that is.
 * @returns its path, or undefined if it cannot be had, or others than this user and root can write
 * to it or replace it.
 */
export function safeDirectory(wanted: string): string | undefined {
  try {
    if (!existsSync(wanted)) mkdirSync(wanted, { mode: 0o700 });
    const path = realpathSync(wanted);
    return isSafe(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

function isSafe(whole: string): boolean {
  for (let path = whole; ; path = dirname(path)) {
    const { uid, mode } = lstatSync(path);
    const isOwn = uid === 0 || uid === process.geteuid?.();
    // In a sticky directory others cannot replace what is not theirs; but they can add to it.
    const isSticky = path !== whole && (mode & STICKY) !== 0;
    if (!isOwn || ((mode & OTHERS_WRITE) !== 0 && !isSticky)) return false;
    if (path === '/') return true;
  }
}
