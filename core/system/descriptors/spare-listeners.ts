import { chmodSync, linkSync, mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { check, SystemError } from '../calls/libc.js';
import { close, O, open } from '../calls/files.js';
import { EADDRINUSE, EEXIST, EPERM } from '../calls/negative-errno.js';
import type { Fd } from './fd.js';
import { OwnedFd } from './owned-fd.js';
import {
  accept,
  isStale,
  listenBy,
  MAX_PATH_BYTES,
  type ListenerSupply,
  UnixConnection,
  UnixListener,
} from './unix-socket.js';

/** Begins the name of a directory of spare sockets, which only its owner enters. */
const HIDDEN = '.virtiofs-kit-';

/** Most bytes of a slash and the number of a socket there. */
const MOST_NAME_BYTES = 8;

/** Somebody may be about to listen in a younger directory. */
const YOUNG_MS = 60_000;

interface Spare {
  readonly path: string;
  readonly fd: OwnedFd;
}

/**
 * Sockets that listen already, each below a hidden directory of a folder, for a process that is to
 * make and connect no unix sockets any more but to listen at further paths. One that is needed gets
 * a second name (link(2)), and loses that when it is not needed any more. What listens cannot
 * connect, and cannot be made to: a filter of system calls sees no addresses.
 */
export class SpareListeners implements ListenerSupply {
  readonly #spares = new Map<string, Spare[]>();
  readonly #taken = new Map<OwnedFd, { readonly spare: Spare; readonly folder: string }>();

  /**
   * Has {@link UnixListener.listen} take spare sockets, in every other folder none, from here on.
   * The hidden directories are removed when the process ends, and those that another one has left
   * now.
   * @param counts how many by folder.
   * @param failed is told of each folder that is full, read-only or the like: there are as many
   *   there as could be made.
   */
  static use(
    counts: ReadonlyMap<string, number>,
    failed: (folder: string, made: number, error: Error) => void,
  ): void {
    const supply = new SpareListeners();
    for (const [folder, count] of counts) {
      const spares: Spare[] = [];
      try {
        const real = realpathSync(folder);
        supply.#spares.set(real, spares);
        fill(real, spares, count);
      } catch (error) {
        failed(folder, spares.length, error as Error);
      }
    }
    listenBy(supply);
  }

  take(path: string): OwnedFd {
    const folder = realpathSync(dirname(path));
    const spares = this.#spares.get(folder);
    const spare = spares?.pop();
    if (spare === undefined) {
      const why = spares === undefined ? 'of its start' : 'and of so many of them';
      throw new SystemError(`listen ${path}: this process makes sockets only in folders ${why}`, -EPERM);
    }
    try {
      dropWaiting(spare.fd.value);
      // The rights that bind(2) would have given.
      const umask = process.umask(0o777);
      process.umask(umask);
      chmodSync(spare.path, 0o777 & ~umask);
      linkSync(spare.path, join(folder, basename(path)));
    } catch (error) {
      spares!.push(spare);
      if (!(error instanceof Error) || !('errno' in error)) throw error;
      const errno = error.errno === EEXIST ? EADDRINUSE : Number(error.errno);
      throw new SystemError(`listen ${path}`, -errno);
    }
    this.#taken.set(spare.fd, { spare, folder });
    return spare.fd;
  }

  giveBack(fd: OwnedFd): void {
    const taken = this.#taken.get(fd);
    if (taken === undefined) return fd.close();
    this.#taken.delete(fd);
    dropWaiting(fd.value);
    this.#spares.get(taken.folder)!.push(taken.spare);
  }
}

/** Makes sockets below a hidden directory. @throws SystemError or NodeJS.ErrnoException */
function fill(folder: string, spares: Spare[], count: number): void {
  for (const name of readdirSync(folder)) if (name.startsWith(HIDDEN)) removeLeft(join(folder, name));
  const hidden = mkdtempSync(join(folder, HIDDEN));
  process.once('exit', () => rmSync(hidden, { recursive: true, force: true }));
  within(hidden, (short) => {
    while (spares.length < count) {
      const name = `${spares.length}`;
      const fd = new OwnedFd(UnixListener.listen(join(short, name)).fd);
      spares.push({ path: join(hidden, name), fd });
    }
  });
}

/** Calls `use` with a path of a directory that leaves room for the names of sockets. */
function within<T>(directory: string, use: (path: string) => T): T {
  if (Buffer.byteLength(directory) <= MAX_PATH_BYTES - MOST_NAME_BYTES) return use(directory);
  const fd = check(open(directory, O.PATH | O.DIRECTORY), directory) as Fd;
  try {
    return use(`/proc/self/fd/${fd}`);
  } finally {
    close(fd);
  }
}

/** Ends connections that nobody has accepted. */
function dropWaiting(fd: Fd): void {
  for (let one; (one = accept(fd)) instanceof UnixConnection;) one.close();
}

/** Removes a directory of sockets on none of which anybody listens. */
function removeLeft(hidden: string): void {
  try {
    if (Date.now() - statSync(hidden).mtimeMs < YOUNG_MS) return;
    const isLeft = within(hidden, (short) => readdirSync(hidden).every((name) => isStale(join(short, name))));
    if (isLeft) rmSync(hidden, { recursive: true });
  } catch {
    // It is another's, or the folder is read-only: nothing here needs it gone.
  }
}
