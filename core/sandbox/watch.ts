import { andThen, type Awaitable, type Backend, OpenFlags, wrap } from '../backend/index.js';
import {
  type HostChange,
  type OverlayBackend,
  type OverlayFile,
  type OverlayNode,
  pathOf,
} from '../../backends/overlay/index.js';

/** A change of a sandbox's files. */
export interface FileEvent {
  /** `lost`: more has changed than the reader took, so that all at the path is to be looked at. */
  readonly kind: HostChange['kind'] | 'lost';
  /** Absolute path in the sandbox, without symbolic links. */
  readonly path: string;
}

/** Most events that wait for a reader, and most characters of their paths. */
const MOST_WAITING = 4096;
const MOST_CHARACTERS = 2 ** 20;

/** Those who read what changes in a sandbox, whoever changes it. */
export class FileWatches {
  readonly #readers = new Set<EventReader>();
  #ended = false;

  tell(events: readonly FileEvent[]): void {
    for (const reader of this.#readers) for (const event of events) reader.take(event);
  }

  /** Reads what changes at a path and below, from now on. */
  read(path: string, signal: AbortSignal | undefined): AsyncIterableIterator<FileEvent> {
    const stop = (): void => reader.end();
    const reader = new EventReader(path, () => {
      this.#readers.delete(reader);
      signal?.removeEventListener('abort', stop);
    });
    if (this.#ended || signal?.aborted === true) reader.end();
    else this.#readers.add(reader);
    signal?.addEventListener('abort', stop, { once: true });
    const iterator: AsyncIterableIterator<FileEvent> = {
      next: () => reader.next(),
      return: () => {
        reader.stop();
        return reader.next();
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  end(): void {
    this.#ended = true;
    for (const reader of this.#readers) reader.end();
  }

  /** The same overlay, which tells what guests change. */
  over(overlay: OverlayBackend): Backend<OverlayNode, OverlayFile> {
    const after = <T>(
      result: Awaitable<T>,
      kind: HostChange['kind'],
      node: OverlayNode,
      ...names: string[]
    ): Awaitable<T> =>
      this.#readers.size === 0
        ? result
        : andThen(result, (value) => {
            // A file without a name has no path.
            const isSeen = names.length > 0 || node.parent !== undefined || node === overlay.union.root;
            if (isSeen) this.tell([{ kind, path: pathOf(node, ...names) }]);
            return value;
          });
    return wrap<OverlayNode, OverlayFile>(overlay, {
      mknod: (next, parent, name, ...rest) => after(next(parent, name, ...rest), 'added', parent, name),
      mkdir: (next, parent, name, ...rest) => after(next(parent, name, ...rest), 'added', parent, name),
      symlink: (next, parent, name, ...rest) => after(next(parent, name, ...rest), 'added', parent, name),
      link: (next, node, parent, name, ...rest) =>
        after(next(node, parent, name, ...rest), 'added', parent, name),
      create: (next, parent, name, ...rest) => after(next(parent, name, ...rest), 'added', parent, name),
      unlink: (next, parent, name, context) => after(next(parent, name, context), 'removed', parent, name),
      rmdir: (next, parent, name, context) => after(next(parent, name, context), 'removed', parent, name),
      rename: (next, parent, name, newParent, newName, ...rest) => {
        const result = after(next(parent, name, newParent, newName, ...rest), 'removed', parent, name);
        return after(result, 'added', newParent, newName);
      },
      open: (next, node, flags, context) => {
        const result = next(node, flags, context);
        return (flags & OpenFlags.TRUNC) === 0 ? result : after(result, 'changed', node);
      },
      write: (next, node, ...rest) => after(next(node, ...rest), 'changed', node),
      setattr: (next, node, ...rest) => after(next(node, ...rest), 'changed', node),
      setxattr: (next, node, ...rest) => after(next(node, ...rest), 'changed', node),
      removexattr: (next, node, ...rest) => after(next(node, ...rest), 'changed', node),
      fallocate: (next, node, ...rest) => after(next(node, ...rest), 'changed', node),
      copyFileRange: (next, node, file, offset, toNode, ...rest) =>
        after(next(node, file, offset, toNode, ...rest), 'changed', toNode),
      ioctl: (next, ...all) => next(...all),
    });
  }
}

/** Events for one reader. */
class EventReader {
  readonly #path: string;
  readonly #prefix: string;
  readonly #onEnd: () => void;
  #waiting: FileEvent[] = [];
  /** Of the paths of what waits. */
  #characters = 0;
  #asked: ((result: IteratorResult<FileEvent, undefined>) => void)[] = [];
  #ended = false;

  constructor(path: string, onEnd: () => void) {
    this.#path = path;
    this.#prefix = path.endsWith('/') ? path : `${path}/`;
    this.#onEnd = onEnd;
  }

  take(event: FileEvent): void {
    if (event.path !== this.#path && !event.path.startsWith(this.#prefix)) return;
    const asked = this.#asked.shift();
    if (asked !== undefined) return asked({ value: event, done: false });
    const last = this.#waiting.at(-1);
    if (last?.kind === event.kind && last.path === event.path) return;
    const characters = this.#characters + event.path.length;
    const isLost = this.#waiting.length >= MOST_WAITING || characters > MOST_CHARACTERS;
    if (isLost) this.#waiting = [{ kind: 'lost', path: this.#path }];
    else this.#waiting.push(event);
    this.#characters = isLost ? this.#path.length : characters;
  }

  next(): Promise<IteratorResult<FileEvent, undefined>> {
    const value = this.#waiting.shift();
    if (value !== undefined) {
      this.#characters -= value.path.length;
      return Promise.resolve({ value, done: false });
    }
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => {
      this.#asked.push(resolve);
    });
  }

  /** Drops what waits, too. */
  stop(): void {
    this.#waiting = [];
    this.end();
  }

  end(): void {
    this.#ended = true;
    this.#onEnd();
    for (const asked of this.#asked.splice(0)) asked({ value: undefined, done: true });
  }
}
