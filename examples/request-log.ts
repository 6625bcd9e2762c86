import { definePlugin, FileType, FsError } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, GuestBuffer, Logger, Opened } from 'virtiofs-kit';
import { logged, routed } from 'virtiofs-kit/wrappers';
import { z } from 'zod';

/*
 * A directory, and beside it what is asked of it: `files` is the directory, `requests/all` and
 * `requests/failed` have a line for each request. They grow while they are read.
 *
 *     virtiofs-kit mount /mnt --backend ./request-log.js --directory /srv/data &
 *     tail -f /mnt/requests/all & ls /mnt/files
 */

/** The last bytes of a text that has no end. */
class Tail {
  readonly #bytes = Buffer.alloc(2 ** 20);
  #end = 0;

  /** Where the oldest byte that is kept is in the whole text. */
  get start(): number {
    return Math.max(0, this.#end - this.#bytes.length);
  }

  append(text: string): void {
    const line = Buffer.from(text);
    const at = this.#end % this.#bytes.length;
    const rest = line.copy(this.#bytes, at);
    line.copy(this.#bytes, 0, rest);
    this.#end += line.length;
  }

  /** @returns the bytes read: fewer than asked for where there is no more yet. */
  read(position: number, buffer: GuestBuffer): number {
    // Whoever reads more slowly than requests come has lost some.
    if (position < this.start) throw FsError.of('EIO');
    const count = Math.max(0, Math.min(buffer.length, this.#end - position));
    const at = position % this.#bytes.length;
    const first = Math.min(count, this.#bytes.length - at);
    buffer.put(0, this.#bytes, at, at + first);
    buffer.put(first, this.#bytes, 0, count - first);
    return count;
  }
}

interface Node extends Attributes {
  readonly tail?: Tail;
}

/** What a backend is asked, as files: `viewer` is a backend of its own, to be served anywhere. */
export function requestLog(inner: Backend): { readonly backend: Backend; readonly viewer: Backend } {
  const [all, failed] = [new Tail(), new Tail()];
  const root: Node = { mode: FileType.DIRECTORY | 0o555 };
  const files = new Map<string, Node>([
    ['all', { mode: FileType.REGULAR | 0o444, tail: all }],
    ['failed', { mode: FileType.REGULAR | 0o444, tail: failed }],
  ]);
  const viewer: Backend<Node, number> = {
    mount: () => root,
    lookup(_parent, name) {
      const node = files.get(name);
      return node && { node, attributes: node };
    },
    getattr: (node) => node,
    readdir: (): DirectoryEntry[] => [...files.keys()].map((name) => ({ name, type: FileType.REGULAR })),
    // With direct I/O the guest asks for more as often as its reader does.
    open: ({ tail }): Opened<number> => ({ file: tail!.start, directIo: true }),
    read: ({ tail }, start, buffer, offset) => tail!.read(start + offset, buffer),
  };

  const line = (fields: object, method: string): void => {
    const { milliseconds, names = [], err } = fields as Fields;
    const words = [new Date().toISOString(), method, ...names.map((name) => JSON.stringify(name))];
    const took = `${milliseconds.toFixed(3)} ms`;
    if (err === undefined) return all.append(`${[...words, took].join(' ')}\n`);
    const text = `${[...words, took, err instanceof FsError ? err.code : JSON.stringify(String(err))].join(' ')}\n`;
    all.append(text);
    failed.append(text);
  };
  const log: Logger = { debug: line, info: line, warn: line, error: line };
  return { backend: logged(inner, log), viewer: viewer as Backend };
}

/** What `logged` tells of a call. */
interface Fields {
  readonly milliseconds: number;
  readonly names?: readonly string[];
  readonly err?: unknown;
}

const below = (directory: string) => ({ type: 'passthrough', sharedDir: directory });

export default definePlugin({
  name: 'request-log',
  description: 'a directory, and the requests for it as files',
  options: z.strictObject({
    directory: z.string().describe('the directory').meta({ placeholder: 'DIR' }),
  }),
  async create({ directory }, { createBackend }) {
    const { backend, viewer } = requestLog(await createBackend(below(directory)));
    return routed({ mounts: { '/files': backend, '/requests': viewer } }) as Backend;
  },
  needs: ({ directory }) => ({ paths: [], backends: [below(directory)] }),
});
