import { Readable } from 'node:stream';
import {
  DAEMON,
  andThen,
  type Attributes,
  type Awaitable,
  FileType,
  FsError,
  type GuestBuffer,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../core/backend/index.js';
import type { OverlayBackend } from './backend.js';
import { create, rename, rmdir, unlink } from './changes/name-changes.js';
import { list } from './tree/listing.js';
import type { OverlayFile, OverlayNode } from './tree/node.js';
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

/** A change that the program itself has made. */
export interface HostChange {
  readonly kind: 'added' | 'changed' | 'removed';
  /** Without symbolic links. */
  readonly path: string;
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
  readonly #changed: (changes: readonly HostChange[]) => Promise<void>;
  readonly #uses = new Set<Promise<unknown>>();
  #isClosed = false;

  /** @param changed called after each change. */
  constructor(
    overlay: OverlayBackend,
    changed: (changes: readonly HostChange[]) => Promise<void> = () => Promise.resolve(),
  ) {
    this.#overlay = overlay;
    this.#changed = changed;
  }

  get #union(): Union {
    return this.#overlay.union;
  }

  /**
   * @param most bytes that it may have. Default: any number.
   * @throws ENOENT, EISDIR, EINVAL for what is no file, ELOOP, EFBIG.
   */
  async readFile(path: string, most = Infinity): Promise<Buffer> {
    const parts: Buffer[] = [];
    let length = 0;
    for await (const part of this.#pieces(path, true)) {
      length += part.length;
      if (length > most) throw named(path, FsError.of('EFBIG'));
      parts.push(part);
    }
    return Buffer.concat(parts);
  }

  /**
   * A file's content as a stream, a mebibyte at a time. It fails as {@link readFile} does.
   * @param options.followsLink whether a symbolic link at the path's end is followed. Default:
   * true.
   */
  readStream(path: string, { followsLink = true }: { readonly followsLink?: boolean } = {}): Readable {
    return Readable.from(this.#pieces(path, followsLink), { objectMode: false });
  }

  async *#pieces(path: string, follows: boolean): AsyncGenerator<Buffer> {
    const overlay = this.#overlay;
    const { node, file } = await this.#at(path, follows, async (seen) => {
      if (seen.node.isDirectory) throw FsError.of('EISDIR');
      // A device may have no end, and a FIFO no writer.
      if (seen.node.type !== FileType.REGULAR) throw FsError.of('EINVAL');
      const opened = await overlay.open!(seen.node, OpenFlags.READ_ONLY, DAEMON);
      this.#union.pin(seen.node);
      return { node: seen.node, file: opened.file };
    });
    const buffer = this.#union.host.createBuffer(PIECE_BYTES);
    try {
      for (let at = 0; ;) {
        const count = await this.#use(path, async () => overlay.read!(node, file, buffer, at, DAEMON));
        if (count === 0) return;
        yield Buffer.from(buffer.bytes.subarray(0, count));
        at += count;
      }
    } finally {
      buffer.close();
      // When they are closed, it is, too.
      if (!this.#isClosed) {
        await this.#use(path, async () => overlay.release?.(node, file));
        this.#union.unpin(node);
      }
    }
  }

  /** Makes a file, or replaces its content. @throws ENOENT for its directory, EISDIR, ENOSPC. */
  async writeFile(path: string, content: string | Uint8Array, options: NewFileOptions = {}): Promise<void> {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    const change = await this.#in(path, async (parent, name): Promise<HostChange> => {
      const there = await run(this.#union.find(parent, name));
      if (there?.node.type === FileType.SYMLINK) {
        this.#union.unpin(there.node);
        return this.#at(path, true, async ({ node }) => {
          await this.#write(node, bytes);
          return { kind: 'changed', path: pathOf(node) };
        });
      }
      const node = there?.node ?? (await this.#make(parent, name, FileType.REGULAR, options));
      try {
        if (node.isDirectory) throw FsError.of('EISDIR');
        await this.#write(node, bytes);
      } finally {
        this.#union.unpin(node);
      }
      return { kind: there === undefined ? 'added' : 'changed', path: pathOf(parent, name) };
    });
    await this.#changed([change]);
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
    return this.#at(path, false, async ({ node }) => attributesOf(this.#overlay, node));
  }

  /** Where a symbolic link leads. @throws ENOENT, EINVAL for what is none. */
  readlink(path: string): Promise<string> {
    return this.#at(path, false, async ({ node }) => {
      if (node.type !== FileType.SYMLINK) throw FsError.of('EINVAL');
      return this.#overlay.readlink!(node, DAEMON);
    });
  }

  /** Extended attributes of what a path stands for, a symbolic link itself, by name. */
  xattrs(path: string): Promise<Map<string, Uint8Array>> {
    return this.#at(path, false, async ({ node }) => {
      const found = new Map<string, Uint8Array>();
      for (const name of (await this.#overlay.listxattr?.(node, DAEMON)) ?? []) {
        const value = await this.#overlay.getxattr?.(node, name, DAEMON);
        if (value !== undefined) found.set(name, Uint8Array.from(value));
      }
      return found;
    });
  }

  /** Where a path leads, without symbolic links. @throws ENOENT, ELOOP. */
  realpath(path: string): Promise<string> {
    return this.#at(path, true, ({ node }) => Promise.resolve(pathOf(node)));
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
    const made: HostChange[] = [];
    for (let count = 1; count <= names.length; count++) {
      const part = `/${names.slice(0, count).join('/')}`;
      if (await this.exists(part)) continue;
      await this.#in(part, async (parent, name) => {
        this.#union.unpin(await this.#make(parent, name, FileType.DIRECTORY, options));
        made.push({ kind: 'added', path: pathOf(parent, name) });
      });
    }
    await this.#changed(made);
  }

  /** Removes a file, or a directory with all that is in it. @throws ENOENT, EBUSY for the root. */
  async rm(path: string): Promise<void> {
    const change = await this.#in(path, async (parent, name): Promise<HostChange> => {
      await this.#remove(parent, name);
      return { kind: 'removed', path: pathOf(parent, name) };
    });
    await this.#changed([change]);
  }

  /** Renames as rename(2) does. @throws ENOENT, EXDEV, ENOTEMPTY and its like. */
  async rename(from: string, to: string): Promise<void> {
    const changes = await this.#in(from, (parent, name) =>
      this.#in(to, async (newParent, newName): Promise<HostChange[]> => {
        await this.#change(() => rename(this.#union, parent, name, newParent, newName, 0));
        return [
          { kind: 'removed', path: pathOf(parent, name) },
          { kind: 'added', path: pathOf(newParent, newName) },
        ];
      }),
    );
    await this.#changed(changes);
  }

  /**
   * Copies what another overlay has at a path to the same path here: content, owner, permissions,
   * times and extended attributes. A symbolic link is copied itself, a directory without what is in
   * it. What is here is replaced, but for what a directory has.
   * @throws ENOENT for it or for the directory here.
   */
  async copyFrom(source: HostFiles, path: string): Promise<void> {
    const change = await source.#at(path, false, async ({ node: from }) => {
      const { rdev = 0, ...attributes } = await attributesOf(source.#overlay, from);
      const target =
        from.type === FileType.SYMLINK ? await source.#overlay.readlink!(from, DAEMON) : undefined;
      return this.#in(path, async (parent, name): Promise<HostChange> => {
        let there = (await run(this.#union.find(parent, name)))?.node;
        const isKept = there?.type === from.type && (from.isDirectory || from.type === FileType.REGULAR);
        if (there !== undefined && !isKept) {
          this.#union.unpin(there);
          await this.#remove(parent, name);
          there = undefined;
        }
        const node = there ?? (await this.#make(parent, name, from.type, { target, rdev }));
        try {
          if (from.type === FileType.REGULAR) await this.#copyContent(source, from, node);
          await this.#copyAttributes(source, from, node, attributes);
        } finally {
          this.#union.unpin(node);
        }
        return { kind: there === undefined ? 'added' : 'changed', path: pathOf(parent, name) };
      });
    });
    await this.#changed([change]);
  }

  async #copyContent(source: HostFiles, from: OverlayNode, to: OverlayNode): Promise<void> {
    const { open, read, release } = source.#overlay;
    const { file } = await open!(from, OpenFlags.READ_ONLY, DAEMON);
    const buffer = this.#union.host.createBuffer(PIECE_BYTES);
    try {
      const { file: target } = await this.#overlay.open!(to, OpenFlags.WRITE_ONLY | OpenFlags.TRUNC, DAEMON);
      try {
        for (let at = 0; ;) {
          const count = await read!(from, file, buffer, at, DAEMON);
          if (count === 0) return;
          await this.#writePiece(to, target, buffer.slice(0, count), at);
          at += count;
        }
      } finally {
        await this.#overlay.release?.(to, target);
      }
    } finally {
      buffer.close();
      await release?.(from, file);
    }
  }

  async #copyAttributes(
    source: HostFiles,
    from: OverlayNode,
    to: OverlayNode,
    { mode, uid = 0, gid = 0, atime = 0, atimeNsec = 0, mtime = 0, mtimeNsec = 0 }: Attributes,
  ): Promise<void> {
    for (const name of (await source.#overlay.listxattr?.(from, DAEMON)) ?? []) {
      const value = await source.#overlay.getxattr?.(from, name, DAEMON);
      if (value !== undefined) await this.#overlay.setxattr?.(to, name, value, 0, false, DAEMON);
    }
    const setattr = this.#overlay.setattr!;
    await setattr(to, { uid, gid }, undefined, DAEMON);
    if (from.type !== FileType.SYMLINK) await setattr(to, { mode: mode & 0o7777 }, undefined, DAEMON);
    const times = {
      atime: { seconds: atime, nanoseconds: atimeNsec },
      mtime: { seconds: mtime, nanoseconds: mtimeNsec },
    };
    await setattr(to, times, undefined, DAEMON);
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
    {
      mode = type === FileType.DIRECTORY ? 0o755 : 0o644,
      uid = 0,
      gid = 0,
      target = '',
      rdev = 0,
    }: NewFileOptions & { readonly target?: string | undefined; readonly rdev?: number },
  ): Promise<OverlayNode> {
    const { backend } = this.#union.writable().layer;
    const context = { ...DAEMON, uid, gid };
    const { node } = await this.#change(() =>
      create(this.#union, parent, name, (directory, newName) =>
        type === FileType.DIRECTORY
          ? backend.mkdir!(directory, newName, mode, context)
          : type === FileType.SYMLINK
            ? backend.symlink!(directory, newName, target, context)
            : backend.mknod!(directory, newName, type | mode, rdev, context),
      ),
    );
    return node;
  }

  async #write(node: OverlayNode, bytes: Uint8Array): Promise<void> {
    const { open, release } = this.#overlay;
    const { file } = await open!(node, OpenFlags.WRITE_ONLY | OpenFlags.TRUNC, DAEMON);
    const buffer = this.#union.host.createBuffer(PIECE_BYTES);
    try {
      for (let at = 0; at < bytes.length;) {
        const count = Math.min(PIECE_BYTES, bytes.length - at);
        buffer.put(0, bytes, at, at + count);
        await this.#writePiece(node, file, buffer.slice(0, count), at);
        at += count;
      }
    } finally {
      buffer.close();
      await release?.(node, file);
    }
  }

  async #writePiece(node: OverlayNode, file: OverlayFile, piece: GuestBuffer, offset: number): Promise<void> {
    for (let done = 0; done < piece.length;) {
      const rest = piece.slice(done, piece.length);
      const written = await this.#overlay.write!(node, file, rest, offset + done, 0, DAEMON);
      if (written === 0) throw FsError.of('ENOSPC');
      done += written;
    }
  }

  /** Waits for what is being done. All else is refused from now on, by ECANCELED. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#uses);
  }

  /** Does something that {@link close} waits for. */
  async #use<T>(path: string, task: () => Promise<T>): Promise<T> {
    let use: Promise<T> | undefined;
    try {
      if (this.#isClosed) throw FsError.of('ECANCELED');
      use = task();
      this.#uses.add(use);
      return await use;
    } catch (error) {
      throw named(path, error);
    } finally {
      if (use !== undefined) this.#uses.delete(use);
    }
  }

  /** Does something with what a path stands for. */
  #at<T>(path: string, follows: boolean, use: (seen: PinnedEntry) => Promise<T>): Promise<T> {
    return this.#use(path, async () => {
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
    return this.#use(path, async () => {
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
}

/** Attributes of a node, copied at once: a layer fills one object for each answer. */
function attributesOf(overlay: OverlayBackend, node: OverlayNode): Awaitable<Attributes> {
  return andThen(overlay.getattr(node, undefined, DAEMON), (attributes) => ({ ...attributes }));
}

/** An error that names the path, once. */
function named(path: string, error: unknown): unknown {
  if (!(error instanceof FsError)) return error;
  const { code, errno } = error;
  return Object.assign(new Error(`${code}: ${path}`, { cause: error }), { code, errno, path });
}

/**
 * The path of a node, or of a name in it. Not for nodes whose name was removed: it is that of the
 * root.
 */
export function pathOf(node: OverlayNode, ...names: string[]): string {
  for (let at = node; at.parent !== undefined; at = at.parent) names.unshift(at.name);
  return `/${names.join('/')}`;
}
