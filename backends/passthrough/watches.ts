import { type BackendHost, decodeName, type Logger } from '../../core/backend/index.js';
import { Inotify, type InotifyKind } from '../../core/system/index.js';
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
    this.#inotify ??= new Inotify((watch, kind, name) => this.#changed(watch, kind, name));
    const inotify = this.#inotify;
    let fd;
    try {
      fd = openDirectory(this.#share, directory);
    } catch {
      return undefined;
    }
    const watch = inotify.add(fd);
    close(fd);
    if (watch < 0) {
      if (!this.#isFull)
        this.#log.warn({ errno: -watch }, 'no more directories can be watched (fs.inotify.max_user_watches)');
      this.#isFull = true;
      return undefined;
    }
    this.#directories.set(watch, directory);
    return () => {
      if (this.#directories.get(watch) !== directory) return;
      this.#directories.delete(watch);
      inotify.remove(watch);
    };
  }

  #changed(watch: number, kind: InotifyKind, name: Uint8Array): void {
    const directory = this.#directories.get(watch);
    if (directory === undefined) return;
    this.#host?.changed?.(directory, name.length === 0 ? { kind } : { kind, name: decodeName(name) });
  }
}
