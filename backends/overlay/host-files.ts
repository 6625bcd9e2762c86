import {
  DAEMON,
  type Attributes,
  FileType,
  FsError,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../core/backend/index.js';
import type { OverlayBackend } from './backend.js';
import { create, rename, rmdir, unlink } from './changes/name-changes.js';
import { list } from './tree/listing.js';
import type { OverlayNode } from './tree/node.js';
import type { PinnedEntry, Union } from './tree/union.js';

/** As Linux (`path_resolution(7)`). */
const MAX_LINKS = 40;

/** Bytes that are read or written at once. */
const PIECE_BYTES = 1 << 20;

/** A name in a directory. */
export interface HostEntry {
  readonly name: string;
  /** Type bits as in `Attributes.mode`. */
  readonly type: number;
}

/** Owner and permissions of what is made. */
export interface NewFileOptions {
  /** Permission bits. Default: 0644 for files, 0755 for directories. */
  readonly mode?: number | undefined;
  /** Default 0. */
  readonly uid?: number | undefined;
  /** Default 0. */
  readonly gid?: number | undefined;
}

/**
 * The files of an overlay in service, for the program that serves it. Paths begin at the overlay's
 * root, and symbolic links never lead out of it. Errors have Linux's codes (`error.code`), and name
 * the path.
 */
export class HostFiles {
  readonly #overlay: OverlayBackend;
  readonly #changed: () => Promise<void>;

  /** @param changed called after each change. */
  constructor(overlay: OverlayBackend, changed: () => Promise<void> = () => Promise.resolve()) {
    this.#overlay = overlay;
    this.#changed = changed;
  }

  get #union(): Union {
    return this.#overlay.union;
  }

  /**
   * @param most bytes that it may have. Default: any number.
   * @throws ENOENT, EISDIR, ELOOP, EFBIG.
   */
  readFile(path: string, most = Infinity): Promise<Buffer> {
    return this.#at(path, true, async ({ node }) => {
      if (node.isDirectory) throw FsError.of('EISDIR');
      const { file } = await this.#overlay.open!(node, OpenFlags.READ_ONLY, DAEMON);
      const buffer = this.#union.host.createBuffer(PIECE_BYTES);
      const parts: Buffer[] = [];
      try {
        for (let at = 0; ;) {
          const count = await this.#overlay.read!(node, file, buffer, at, DAEMON);
          if (count === 0) return Buffer.concat(parts);
          parts.push(Buffer.from(buffer.bytes.subarray(0, count)));
          at += count;
          if (at > most) throw FsError.of('EFBIG');
        }
      } finally {
        buffer.close();
        await this.#overlay.release?.(node, file);
      }
    });
  }

  /** Makes a file, or replaces its content. @throws ENOENT for its directory, EISDIR, ENOSPC. */
  async writeFile(path: string, content: string | Uint8Array, options: NewFileOptions = {}): Promise<void> {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    await this.#in(path, async (parent, name) => {
      const there = await run(this.#union.find(parent, name));
      if (there?.node.type === FileType.SYMLINK) {
        this.#union.unpin(there.node);
        await this.#at(path, true, ({ node }) => this.#write(node, bytes));
        return;
      }
      const node = there?.node ?? (await this.#make(parent, name, FileType.REGULAR, options));
      try {
        if (node.isDirectory) throw FsError.of('EISDIR');
        await this.#write(node, bytes);
      } finally {
        this.#union.unpin(node);
      }
    });
    await this.#changed();
  }

  /** @returns names without `.` and `..`. @throws ENOENT, ENOTDIR. */
  readdir(path: string): Promise<HostEntry[]> {
    return this.#at(path, true, async ({ node }) => {
      if (!node.isDirectory) throw FsError.of('ENOTDIR');
      return Array.from(await run(list(this.#union, node)), ({ name, type }) => ({ name, type }));
    });
  }

  /** Attributes of what a path stands for, a symbolic link itself. @throws ENOENT. */
  stat(path: string): Promise<Attributes> {
    return this.#at(path, false, async ({ node }) => ({
      ...(await this.#overlay.getattr(node, undefined, DAEMON)),
    }));
  }

  /** Where a path leads, without symbolic links. @throws ENOENT, ELOOP. */
  realpath(path: string): Promise<string> {
    return this.#at(path, true, ({ node }) => {
      const names: string[] = [];
      for (let at = node; at.parent !== undefined; at = at.parent) names.unshift(at.name);
      return Promise.resolve(`/${names.join('/')}`);
    });
  }

  /** @returns whether there is something at a path. A link counts, wherever it leads. */
  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
      throw error;
    }
  }

  /** Makes a directory, with those above it that are missing. @throws ENOTDIR, ENOSPC. */
  async mkdir(path: string, options: NewFileOptions = {}): Promise<void> {
    const names = path.split('/').filter((name) => name !== '' && name !== '.');
    for (let count = 1; count <= names.length; count++) {
      const part = `/${names.slice(0, count).join('/')}`;
      if (await this.exists(part)) continue;
      await this.#in(part, async (parent, name) => {
        this.#union.unpin(await this.#make(parent, name, FileType.DIRECTORY, options));
      });
    }
    await this.#changed();
  }

  /** Removes a file, or a directory with all that is in it. @throws ENOENT, EBUSY for the root. */
  async rm(path: string): Promise<void> {
    await this.#in(path, (parent, name) => this.#remove(parent, name));
    await this.#changed();
  }

  /** Renames as rename(2) does. @throws ENOENT, EXDEV, ENOTEMPTY and its like. */
  async rename(from: string, to: string): Promise<void> {
    await this.#in(from, (parent, name) =>
      this.#in(to, (newParent, newName) =>
        this.#change(() => rename(this.#union, parent, name, newParent, newName, 0)),
      ),
    );
    await this.#changed();
  }

  async #remove(parent: OverlayNode, name: string): Promise<void> {
    const seen = await run(this.#union.find(parent, name));
    if (seen === undefined) throw FsError.of('ENOENT');
    const { node } = seen;
    try {
      if (!node.isDirectory) return await this.#change(() => unlink(this.#union, parent, name));
      for (const entry of await run(list(this.#union, node))) await this.#remove(node, entry.name);
      await this.#change(() => rmdir(this.#union, parent, name));
    } finally {
      this.#union.unpin(node);
    }
  }

  #change<T>(steps: () => Steps<T>): Promise<T> {
    return Promise.resolve(this.#union.changeQueue.run(() => run(steps())));
  }

  /** @returns the new node, pinned. */
  async #make(
    parent: OverlayNode,
    name: string,
    type: number,
    { mode = type === FileType.DIRECTORY ? 0o755 : 0o644, uid = 0, gid = 0 }: NewFileOptions,
  ): Promise<OverlayNode> {
    const { backend } = this.#union.writable().layer;
    const context = { ...DAEMON, uid, gid };
    const { node } = await this.#change(() =>
      create(this.#union, parent, name, (directory, newName) =>
        type === FileType.DIRECTORY
          ? backend.mkdir!(directory, newName, mode, context)
          : backend.mknod!(directory, newName, type | mode, 0, context),
      ),
    );
    return node;
  }

  async #write(node: OverlayNode, bytes: Uint8Array): Promise<void> {
    const { open, write, release } = this.#overlay;
    const { file } = await open!(node, OpenFlags.WRITE_ONLY | OpenFlags.TRUNC, DAEMON);
    const buffer = this.#union.host.createBuffer(PIECE_BYTES);
    try {
      for (let at = 0; at < bytes.length;) {
        const count = Math.min(PIECE_BYTES, bytes.length - at);
        buffer.put(0, bytes, at, at + count);
        const written = await write!(node, file, buffer.slice(0, count), at, 0, DAEMON);
        if (written === 0) throw FsError.of('ENOSPC');
        at += written;
      }
    } finally {
      buffer.close();
      await release?.(node, file);
    }
  }

  /** Does something with what a path stands for. */
  async #at<T>(path: string, follows: boolean, use: (seen: PinnedEntry) => Promise<T>): Promise<T> {
    return this.#named(path, async () => {
      const seen = await run(this.#walk(path, follows));
      try {
        return await use(seen);
      } finally {
        this.#union.unpin(seen.node);
      }
    });
  }

  /** Does something with a name in its directory. */
  async #in<T>(path: string, use: (parent: OverlayNode, name: string) => Promise<T>): Promise<T> {
    const names = path.split('/').filter((name) => name !== '' && name !== '.');
    const name = names.pop();
    return this.#named(path, () => {
      if (name === undefined || name === '..') throw FsError.of('EBUSY');
      return this.#at(`/${names.join('/')}`, true, ({ node }) => {
        if (!node.isDirectory) throw FsError.of('ENOTDIR');
        return use(node, name);
      });
    });
  }

  /** Follows a path. @returns the entry, pinned. */
  *#walk(path: string, follows: boolean): Steps<PinnedEntry> {
    const union = this.#union;
    const waiting = path.split('/').toReversed();
    let links = 0;
    let at: PinnedEntry = { node: union.root, attributes: { mode: FileType.DIRECTORY } };
    union.pin(at.node);
    try {
      while (waiting.length > 0) {
        const name = waiting.pop()!;
        if (name === '' || name === '.') continue;
        if (!at.node.isDirectory) throw FsError.of('ENOTDIR');
        const next = name === '..' ? this.#above(at) : yield* union.find(at.node, name);
        if (next === undefined) throw FsError.of('ENOENT');
        const isLast = waiting.every((rest) => rest === '' || rest === '.');
        if (next.node.type !== FileType.SYMLINK || (isLast && !follows)) {
          union.unpin(at.node);
          at = next;
          continue;
        }
        let target: string;
        try {
          links += 1;
          if (links > MAX_LINKS) throw FsError.of('ELOOP');
          target = yield* wait(this.#overlay.readlink!(next.node, DAEMON));
        } finally {
          union.unpin(next.node);
        }
        waiting.push(...target.split('/').toReversed());
        if (!target.startsWith('/')) continue;
        union.unpin(at.node);
        at = { node: union.root, attributes: { mode: FileType.DIRECTORY } };
        union.pin(at.node);
      }
      return at;
    } catch (error) {
      union.unpin(at.node);
      throw error;
    }
  }

  #above({ node }: PinnedEntry): PinnedEntry {
    const parent = node.parent ?? this.#union.root;
    this.#union.pin(parent);
    return { node: parent, attributes: { mode: FileType.DIRECTORY } };
  }

  async #named<T>(path: string, use: () => Promise<T>): Promise<T> {
    try {
      return await use();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      throw Object.assign(new Error(`${error.code}: ${path}`, { cause: error }), {
        code: error.code,
        errno: error.errno,
        path,
      });
    }
  }
}
