import { createWriteStream } from 'node:fs';
import { PassThrough, type Writable } from 'node:stream';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { encodeEntry, END, padding, type TarEntry, TarType } from '../../../core/archive/tar.js';
import {
  DAEMON,
  type Attributes,
  type Backend,
  deviceMajor,
  deviceMinor,
  FileType,
  FsError,
  OpenFlags,
} from '../../../core/backend/index.js';
import type { OverlayFile, OverlayNode } from '../tree/node.js';
import type { Union } from '../tree/union.js';
import { type Difference, differences } from './diff.js';

/*
 * Exports the changes of an overlay as a layer of a container image. That is a tar archive in which
 * `.wh.NAME` removes NAME, and `.wh..wh..opq` in a directory removes all that lower layers have in
 * it (OCI image specification, "layer.md").
 */

const PIECE_BYTES = 1 << 20;

type Overlay = Backend<OverlayNode, OverlayFile>;

/**
 * Writes the changes of an overlay into a file, gzipped if its name ends in `gz`.
 * @throws what node:fs throws
 */
export async function saveLayer(overlay: Overlay, union: Union, file: string): Promise<void> {
  const archive = new PassThrough();
  const target = createWriteStream(file);
  await Promise.all([
    file.endsWith('gz') ? pipeline(archive, createGzip(), target) : pipeline(archive, target),
    writeLayer(overlay, union, archive).then(
      () => archive.end(),
      (error: Error) => void archive.destroy(error),
    ),
  ]);
}

/** Writes the changes of an overlay into a stream, which stays open. */
export async function writeLayer(overlay: Overlay, union: Union, sink: Writable): Promise<void> {
  const writer = new LayerWriter(overlay, union, sink);
  for await (const difference of differences(union)) await writer.add(difference);
  await writer.end();
}

class LayerWriter {
  readonly #overlay: Overlay;
  readonly #union: Union;
  readonly #sink: Writable;
  /** The first path of each file with several names, by the file's key. */
  readonly #links = new Map<string, string>();

  constructor(overlay: Overlay, union: Union, sink: Writable) {
    this.#overlay = overlay;
    this.#union = union;
    this.#sink = sink;
  }

  async add({ kind, path, seen, replaces }: Difference): Promise<void> {
    const at = path.lastIndexOf('/') + 1;
    if (kind === 'removed' || seen === undefined) {
      await this.#write(encodeEntry(marker(`${path.slice(0, at)}.wh.${path.slice(at)}`)));
      return;
    }
    const { node, attributes } = seen;
    const key = this.#overlay.key!(node) as string;
    const first = this.#links.get(key);
    if (!node.isDirectory && first !== undefined) {
      const link = { ...marker(path), type: TarType.LINK, linkPath: first };
      await this.#write(encodeEntry(link));
      return;
    }
    if (!node.isDirectory && (attributes.nlink ?? 1) > 1) this.#links.set(key, path);
    await this.#member(node, path, attributes);
    if (replaces) await this.#write(encodeEntry(marker(`${path}/.wh..wh..opq`)));
  }

  async end(): Promise<void> {
    await this.#write(END);
  }

  async #member(node: OverlayNode, path: string, attributes: Attributes): Promise<void> {
    const { mode, uid = 0, gid = 0, rdev = 0, size = 0 } = attributes;
    const type = mode & FileType.MASK;
    const flag = FLAGS.get(type);
    // Sockets are left out, as tar does.
    if (flag === undefined) return;
    const isSymlink = type === FileType.SYMLINK;
    const isFile = type === FileType.REGULAR;
    const entry: TarEntry = {
      ...marker(type === FileType.DIRECTORY ? `${path}/` : path),
      type: flag,
      linkPath: isSymlink ? await this.#overlay.readlink!(node, DAEMON) : '',
      mode: mode & 0o7777,
      uid,
      gid,
      size: isFile ? size : 0,
      mtime: { seconds: Math.floor(attributes.mtime ?? 0), nanoseconds: attributes.mtimeNsec ?? 0 },
      major: deviceMajor(rdev),
      minor: deviceMinor(rdev),
      xattrs: await this.#xattrs(node),
    };
    await this.#write(encodeEntry(entry));
    if (isFile) await this.#content(node, size);
  }

  async #xattrs(node: OverlayNode): Promise<Map<string, Uint8Array>> {
    const { listxattr, getxattr } = this.#overlay;
    const found = new Map<string, Uint8Array>();
    if (listxattr === undefined || getxattr === undefined) return found;
    try {
      for (const name of await listxattr(node, DAEMON)) {
        const value = await getxattr(node, name, DAEMON);
        if (value !== undefined) found.set(name, Uint8Array.from(value));
      }
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'EOPNOTSUPP') throw error;
    }
    return found;
  }

  /**
   * Writes exactly as many bytes as the header says. A file that shrinks meanwhile is filled up
   * with zeros.
   */
  async #content(node: OverlayNode, size: number): Promise<void> {
    if (size === 0) return;
    const { file } = await this.#overlay.open!(node, OpenFlags.READ_ONLY, DAEMON);
    const buffer = this.#union.host.createBuffer(Math.min(PIECE_BYTES, size));
    try {
      for (let at = 0; at < size;) {
        const length = Math.min(buffer.length, size - at);
        const count = await this.#overlay.read!(node, file, buffer.slice(0, length), at, DAEMON);
        if (count < length) buffer.zero(count, length - count);
        await this.#write(Uint8Array.from(buffer.bytes.subarray(0, length)));
        at += length;
      }
    } finally {
      buffer.close();
      await this.#overlay.release?.(node, file);
    }
    await this.#write(padding(size));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0 || this.#sink.write(bytes)) return;
    if (this.#sink.destroyed) throw this.#sink.errored ?? new Error('the archive is closed');
    await once(this.#sink, 'drain');
  }
}

const FLAGS = new Map<number, string>([
  [FileType.REGULAR, TarType.FILE],
  [FileType.DIRECTORY, TarType.DIRECTORY],
  [FileType.SYMLINK, TarType.SYMLINK],
  [FileType.CHARACTER, TarType.CHARACTER],
  [FileType.BLOCK, TarType.BLOCK],
  [FileType.FIFO, TarType.FIFO],
]);

/** The entry of an empty file. */
function marker(path: string): TarEntry {
  return {
    type: TarType.FILE,
    path,
    linkPath: '',
    mode: 0,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: { seconds: 0, nanoseconds: 0 },
    major: 0,
    minor: 0,
    xattrs: new Map(),
  };
}
