import { promises as fs } from 'node:fs';
import { buffer as collect } from 'node:stream/consumers';
import { crc32 } from 'node:zlib';
import { definePlugin, FileType, FsError } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry } from 'virtiofs-kit';
import yauzl from 'yauzl';
import { z } from 'zod';

/*
 * A zip archive as a read-only tree. Its table of contents is read at the start; files that are not
 * compressed are read where they lie, others unpacked while they are open.
 *
 *     npm install yauzl
 *     virtiofs-kit guest --backend ./zip-archive.js --archive photos.zip -- ls -lR /mnt
 */

interface Node {
  readonly attributes: Attributes;
  readonly children: Map<string, Node>;
  readonly entry?: yauzl.Entry;
  /** How to read it, while somebody has it open. */
  reading?: Promise<Reading> | undefined;
  opened: number;
  /** Bytes of it that are unpacked. */
  unpacked: number;
}

type Reading = (into: Buffer, position: number) => Awaitable<number>;
type Awaitable<T> = T | Promise<T>;

/** Compressed files are unpacked whole, in memory. */
const LARGEST = 2 ** 28;
/** Bytes of all of them together. */
const UNPACKED_MAX = 2 ** 30;
/** Linux takes no longer target of a link. */
const TARGET_MAX = 4095;
const STORED = 0;

export function zipBackend(archive: string): Backend<Node, Reading> {
  let file: fs.FileHandle;
  let zip: yauzl.ZipFile;
  let unpacked = 0;

  async function unpack({ entry }: Node): Promise<Buffer> {
    const content = await zip.openReadStreamPromise(entry!).then(collect);
    if (crc32(content) !== entry!.crc32) throw FsError.of('EIO');
    return content;
  }

  async function readingOf(node: Node): Promise<Reading> {
    const { entry, attributes } = node;
    if (entry!.compressionMethod === STORED && !entry!.isEncrypted()) {
      const { fileDataStart } = await zip.readLocalFileHeaderPromise(entry!, { minimal: true });
      return async (into, position) => {
        const length = Math.max(0, Math.min(into.length, attributes.size! - position));
        return (await file.read(into, 0, length, fileDataStart + position)).bytesRead;
      };
    }
    const size = attributes.size!;
    if (size > LARGEST) throw FsError.of('EFBIG');
    // Of too many open files at once, the last ones are refused.
    if (unpacked + size > UNPACKED_MAX) throw FsError.of('ENFILE');
    unpacked += node.unpacked = size;
    const content = await unpack(node);
    return (into, position) => content.copy(into, 0, Math.min(position, content.length));
  }

  return {
    cache: { entryTimeout: Infinity, attributeTimeout: Infinity, negativeTimeout: Infinity, data: 'always' },
    async mount() {
      file = await fs.open(archive);
      try {
        // Names are judged here, so that a bad one does not hide the others.
        zip = await yauzl.fromFdPromise(file.fd, {
          lazyEntries: true,
          autoClose: false,
          decodeStrings: false,
        });
        return await index(zip);
      } catch (error) {
        await file.close();
        throw error;
      }
    },
    unmount: () => file.close(),
    lookup({ children }, name): Entry<Node> | undefined {
      const node = children.get(name);
      return node && { node, attributes: node.attributes };
    },
    getattr: ({ attributes }) => attributes,
    readdir: ({ children }): DirectoryEntry[] =>
      [...children].map(([name, { attributes }]) => ({ name, type: attributes.mode & FileType.MASK })),
    async readlink(node) {
      if (node.attributes.size! > TARGET_MAX) throw FsError.of('ENAMETOOLONG');
      return String(await unpack(node));
    },
    async open(node) {
      node.opened += 1;
      try {
        return { file: await (node.reading ??= readingOf(node)) };
      } catch (error) {
        close(node);
        throw error;
      }
    },
    async read(_node, reading, buffer, offset) {
      const bytes = Buffer.allocUnsafe(buffer.length);
      const count = await reading(bytes, offset);
      buffer.put(0, bytes, 0, count);
      return count;
    },
    release: close,
  };

  function close(node: Node): void {
    node.opened -= 1;
    if (node.opened > 0) return;
    node.reading = undefined;
    unpacked -= node.unpacked;
    node.unpacked = 0;
  }
}

async function index(zip: yauzl.ZipFile): Promise<Node> {
  const root = directory(0);
  for await (const entry of zip.eachEntry()) {
    const path = entry.fileNameRaw.toString();
    const names = path.replace(/\/$/, '').split('/');
    // What Linux does not take as a name leads nowhere, least of all out of the archive.
    if (names.some((name) => ['', '.', '..'].includes(name) || Buffer.byteLength(name) > 255)) continue;
    const name = names.pop()!;
    const mtime = entry.getLastModDate().getTime() / 1000;
    const parent = directoryAt(root, names);
    if (parent === undefined || parent.children.has(name)) continue;
    parent.children.set(name, path.endsWith('/') ? directory(mtime) : toFile(entry, mtime));
  }
  return root;
}

/** Nothing where one of the names is a file. */
function directoryAt(root: Node, names: readonly string[]): Node | undefined {
  let at = root;
  for (const name of names) {
    const next = at.children.get(name) ?? directory(0);
    if (next.entry !== undefined) return undefined;
    at.children.set(name, next);
    at = next;
  }
  return at;
}

function directory(mtime: number): Node {
  return {
    attributes: { mode: FileType.DIRECTORY | 0o555, mtime },
    children: new Map(),
    opened: 0,
    unpacked: 0,
  };
}

function toFile(entry: yauzl.Entry, mtime: number): Node {
  // Archives that are made on a Unix have the mode in the upper half.
  const bits = entry.externalFileAttributes >>> 16;
  const isLink = (bits & FileType.MASK) === FileType.SYMLINK;
  const mode = isLink ? FileType.SYMLINK | 0o777 : FileType.REGULAR | 0o444 | (bits & 0o111);
  return {
    attributes: { mode, size: entry.uncompressedSize, mtime },
    children: new Map(),
    entry,
    opened: 0,
    unpacked: 0,
  };
}

export default definePlugin({
  name: 'zip',
  description: 'a zip archive as a read-only tree',
  options: z.strictObject({ archive: z.string().describe('the archive').meta({ placeholder: 'FILE' }) }),
  create: ({ archive }) => zipBackend(archive),
  needs: ({ archive }) => ({ paths: [{ path: archive, write: false }] }),
});
