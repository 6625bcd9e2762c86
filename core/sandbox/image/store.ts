import { createReadStream, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join, posix } from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { TarError, TarReader, TarType } from '../../archive/tar.js';
import { UsageError } from '../../backend/index.js';
import type { Descriptor } from './documents.js';

/** Longer documents are none of an image. */
export const MAX_DOCUMENT_BYTES = 4 << 20;

/** Most members of an archive that are remembered. */
const MAX_MEMBERS = 10_000;

const MAX_LINKS = 8;

/** The files of an image, in a directory, in an archive, or in a registry. */
export interface Store {
  readonly path: string;
  /**
   * Reads a file.
   * @param descriptor what the image says of it, where it does.
   * @param signal ends the reading.
   * @throws UsageError if there is none.
   */
  stream(name: string, descriptor?: Descriptor, signal?: AbortSignal): Readable;
}

/** A store whose files have names. */
export interface NamedStore extends Store {
  has(name: string): boolean;
}

/** Reads a whole file. @throws UsageError if there is none, or it is too long. */
export async function readDocument(
  store: Store,
  name: string,
  descriptor?: Descriptor,
  signal?: AbortSignal,
): Promise<Buffer> {
  const stream = store.stream(name, descriptor, signal);
  let length = 0;
  stream.on('data', (part: Buffer) => {
    length += part.length;
    if (length > MAX_DOCUMENT_BYTES)
      stream.destroy(new UsageError(`${store.path}: ${name}: longer than 4 MiB`));
  });
  return buffer(stream);
}

/** @throws UsageError if there is nothing, or what is no archive. */
export async function openStore(path: string): Promise<NamedStore> {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) throw new UsageError(`image ${path}: no such file or directory`);
  return stats.isDirectory() ? new DirectoryStore(path) : ArchiveStore.open(path);
}

class DirectoryStore implements NamedStore {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  has(name: string): boolean {
    return statSync(this.#place(name), { throwIfNoEntry: false })?.isFile() === true;
  }

  stream(name: string): Readable {
    if (!this.has(name)) throw new UsageError(`image ${this.path}: it has no ${name}`);
    return createReadStream(this.#place(name), { highWaterMark: 1 << 20 });
  }

  /** A name from a document leads nowhere else. */
  #place(name: string): string {
    return join(this.path, posix.join('/', name));
  }
}

/** Where a member's bytes are in an archive, or what a link names. */
type Member = { readonly at: number; readonly size: number } | { readonly link: string };

class ArchiveStore implements NamedStore {
  readonly path: string;
  readonly #members: ReadonlyMap<string, Member>;

  private constructor(path: string, members: ReadonlyMap<string, Member>) {
    this.path = path;
    this.#members = members;
  }

  static async open(path: string): Promise<ArchiveStore> {
    const handle = await open(path);
    const start = Buffer.alloc(2);
    await handle.read(start, 0, 2, 0).finally(() => handle.close());
    if (start.equals(Buffer.from([0x1f, 0x8b])))
      throw new UsageError(`image ${path}: gzipped as a whole: gunzip it first`);
    const stream = createReadStream(path, { highWaterMark: 1 << 20 });
    const members = new Map<string, Member>();
    try {
      const reader = new TarReader(stream);
      for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
        const name = posix.join('/', entry.path);
        if (members.size >= MAX_MEMBERS) throw new UsageError(`image ${path}: more than 10,000 files`);
        if (entry.type === TarType.FILE) members.set(name, { at: reader.position, size: entry.size });
        else if (entry.type === TarType.LINK) members.set(name, { link: posix.join('/', entry.linkPath) });
        else if (entry.type === TarType.SYMLINK)
          members.set(name, { link: posix.resolve(posix.dirname(name), entry.linkPath) });
      }
    } catch (error) {
      if (error instanceof TarError)
        throw new UsageError(`image ${path}: ${error.message}`, { cause: error });
      throw error;
    } finally {
      stream.destroy();
    }
    return new ArchiveStore(path, members);
  }

  has(name: string): boolean {
    return this.#find(name) !== undefined;
  }

  stream(name: string): Readable {
    const found = this.#find(name);
    if (found === undefined) throw new UsageError(`image ${this.path}: it has no ${name}`);
    const { at, size } = found;
    // An empty range cannot be said.
    if (size === 0) return createReadStream('/dev/null');
    return createReadStream(this.path, { start: at, end: at + size - 1, highWaterMark: 1 << 20 });
  }

  #find(name: string): { readonly at: number; readonly size: number } | undefined {
    let member = this.#members.get(posix.join('/', name));
    for (let links = 0; links < MAX_LINKS && member !== undefined && 'link' in member; links++)
      member = this.#members.get(member.link);
    return member === undefined || 'link' in member ? undefined : member;
  }
}
