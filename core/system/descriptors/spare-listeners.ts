import { chmodSync, linkSync, mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { SystemError } from '../calls/libc.js';
import { EACCES, EADDRINUSE, EEXIST, EPERM } from '../calls/negative-errno.js';
import type { Fd } from './fd.js';
import { OwnedFd } from './owned-fd.js';
import {
  accept,
  isStale,
  listenBy,
  type ListenerSupply,
  UnixConnection,
  UnixListener,
} from './unix-socket.js';

/** Begins the name of a directory of spare sockets, which only its owner enters. */
const HIDDEN = '.virtiofs-kit-';

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
   * @throws SystemError or NodeJS.ErrnoException if they cannot be made.
   */
  static use(counts: ReadonlyMap<string, number>): void {
    const made = new SpareListeners();
    for (const [folder, count] of counts) made.#fill(realpathSync(folder), count);
    listenBy(made);
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

  #fill(folder: string, count: number): void {
    for (const name of readdirSync(folder)) if (name.startsWith(HIDDEN)) removeLeft(join(folder, name));
    const hidden = join(folder, `${HIDDEN}${process.pid}`);
    mkdirSync(hidden, { mode: 0o700 });
    process.once('exit', () => rmSync(hidden, { recursive: true, force: true }));
    const spares = Array.from({ length: count }, (_, i): Spare => {
      const path = join(hidden, `${i}`);
      return { path, fd: new OwnedFd(UnixListener.listen(path).fd) };
    });
    this.#spares.set(folder, spares);
  }
}

/** Ends connections that nobody has accepted. */
function dropWaiting(fd: Fd): void {
  for (let one; (one = accept(fd)) instanceof UnixConnection;) one.close();
}

/** Removes a directory of sockets on none of which anybody listens. */
function removeLeft(hidden: string): void {
  try {
    if (readdirSync(hidden).every((name) => isStale(join(hidden, name)))) rmSync(hidden, { recursive: true });
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno !== EACCES && errno !== EPERM) throw error;
  }
}
