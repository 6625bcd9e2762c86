import { type BackendHost, decodeName, type Logger } from '../../core/backend/index.js';
import { Inotify, type InotifyKind, SystemError } from '../../core/system/index.js';
import { close } from '../../core/system/calls/files.js';
import type { Node } from './nodes/nodes.js';
import { openDirectory } from './operations/directory.js';
import type { Share } from './share.js';

/**
 * Tells what others change in directories that guests know, by inotify(7). The kernel bounds how
 * many directories a user watches (fs.inotify.max_user_watches).
 */
export class Watches {
  readonly #share: Share;
  readonly #log: Logger;
  #inotify: Inotify | undefined;
  #host: BackendHost | undefined;
  readonly #directories = new Map<number, Node>();
  #isFull = false;

  constructor(share: Share, log: Logger) {
    this.#share = share;
    this.#log = log;
  }

  mounted(host: BackendHost): void {
    this.#host = host;
  }

  close(): void {
    this.#inotify?.close();
    this.#inotify = undefined;
    this.#directories.clear();
  }

  watch(directory: Node): (() => void) | undefined {
    const inotify = this.#opened();
    if (inotify === undefined) return undefined;
    let fd;
    try {
      fd = openDirectory(this.#share, directory);
    } catch {
      return undefined;
    }
    const watch = inotify.add(fd);
    close(fd);
    if (watch < 0) {
      this.#warn(-watch, 'no more directories can be watched (fs.inotify.max_user_watches)');
      return undefined;
    }
    this.#directories.set(watch, directory);
    return () => {
      if (this.#directories.get(watch) !== directory) return;
      this.#directories.delete(watch);
      inotify.remove(watch);
    };
  }

  /** Tried anew for each directory: others may have given back what there was too little of. */
  #opened(): Inotify | undefined {
    try {
      this.#inotify ??= new Inotify((watch, kind, name) => this.#changed(watch, kind, name));
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#warn(error.errno, 'no directory can be watched (fs.inotify.max_user_instances, open files)');
    }
    return this.#inotify;
  }

  #warn(errno: number, message: string): void {
    if (!this.#isFull) this.#log.warn({ errno }, message);
    this.#isFull = true;
  }

  #changed(watch: number, kind: InotifyKind, name: Uint8Array): void {
    const directory = this.#directories.get(watch);
    if (directory === undefined) return;
    this.#host?.changed?.(directory, name.length === 0 ? { kind } : { kind, name: decodeName(name) });
  }
}
