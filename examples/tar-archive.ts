import { promises as fs } from 'node:fs';
import { decodeName, definePlugin, FileType, FsError, nameBytes } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * A tar archive that is not compressed, as a read-only tree. Its headers are read at the start, by
 * a jump over each file; files are read where they lie.
 *
 *     virtiofs-kit guest --backend ./tar-archive.js --archive backup.tar -- ls -lR /mnt
 */

interface Node {
  attributes: Attributes;
  readonly children: Map<string, Node>;
  /** Where its content begins in the archive. */
  readonly start: number;
  /** Target of a symbolic link. */
  readonly target: string;
}

/** What comes before a file: POSIX.1-2017, pax, "ustar Interchange Format". */
interface Header {
  readonly type: string;
  readonly path: string;
  readonly target: string;
  readonly attributes: Omit<Attributes, 'mode'> & { readonly mode: number };
}

const BLOCK = 512;
/** Bytes of a long name, or of the records of one file. */
const EXTENDED_MAX = 2 ** 20;
const TYPES: Readonly<Record<string, number>> = { 2: FileType.SYMLINK, 5: FileType.DIRECTORY };
/** Types that tell of the next file: records of pax, long names of GNU tar. */
const EXTENDED: Readonly<Record<string, string>> = { x: 'pax', L: 'path', K: 'linkpath' };

export function tarBackend(archive: string): Backend<Node> {
  let file: fs.FileHandle;
  return {
    cache: { entryTimeout: Infinity, attributeTimeout: Infinity, negativeTimeout: Infinity, data: 'always' },
    async mount() {
      file = await fs.open(archive);
      try {
        return await index(file);
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
    readlink: ({ target }) => target,
    async read({ start, attributes }, _file, buffer, offset) {
      const length = Math.max(0, Math.min(buffer.length, attributes.size! - offset));
      const bytes = Buffer.allocUnsafe(length);
      const { bytesRead } = await file.read(bytes, 0, length, start + offset);
      // The archive was cut since it was mounted.
      if (bytesRead < length) throw FsError.of('EIO');
      buffer.put(0, bytes);
      return length;
    },
  };
}

async function index(file: fs.FileHandle): Promise<Node> {
  const root = directory();
  let extended: Record<string, string> = {};
  for (let at = 0; ;) {
    const block = await readAt(file, at, BLOCK);
    // Two blocks of zeros are the end; many archives have but one, or none.
    if (block.length < BLOCK || block.every((byte) => byte === 0)) return root;
    const header = headerOf(block, extended);
    const { size = 0 } = header.attributes;
    if (!Number.isSafeInteger(size) || size < 0) throw archiveError('a size is damaged');
    const kind = EXTENDED[header.type];
    const start = at + BLOCK;
    at = start + Math.ceil(size / BLOCK) * BLOCK;
    if (kind !== undefined) {
      if (size > EXTENDED_MAX) throw archiveError('a name is too long');
      Object.assign(extended, extensions(kind, await readAt(file, start, size)));
      continue;
    }
    extended = {};
    // Records for all files say what is of no use here; devices and pipes cannot be read.
    if (['0', '\0', '7', '1', '2', '5'].includes(header.type)) add(root, header, start);
  }
}

async function readAt(file: fs.FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await file.read(bytes, 0, length, position);
  return bytes.subarray(0, bytesRead);
}

function headerOf(block: Buffer, extended: Readonly<Record<string, string>>): Header {
  const sum = block.reduce((all, byte, at) => all + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  if (number(block, 148, 8) !== sum) throw archiveError('a header is damaged');
  const type = block.toString('latin1', 156, 157);
  const prefix = block.toString('latin1', 257, 263) === 'ustar\0' ? text(block, 345, 155) : '';
  const mode = TYPES[type] ?? FileType.REGULAR;
  return {
    type,
    path: extended['path'] ?? (prefix === '' ? '' : `${prefix}/`) + text(block, 0, 100),
    target: extended['linkpath'] ?? text(block, 157, 100),
    attributes: {
      mode: mode | (number(block, 100, 8) & 0o7777),
      uid: Number(extended['uid'] ?? number(block, 108, 8)),
      gid: Number(extended['gid'] ?? number(block, 116, 8)),
      size: Number(extended['size'] ?? number(block, 124, 12)),
      mtime: Math.floor(Number(extended['mtime'] ?? number(block, 136, 12))),
    },
  };
}

/** What is said of the next file. Records of pax: `LENGTH KEY=VALUE\n`, the length in bytes. */
function extensions(kind: string, bytes: Buffer): Readonly<Record<string, string>> {
  if (kind !== 'pax') return { [kind]: text(bytes, 0, bytes.length) };
  const records: Record<string, string> = {};
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(' ', at);
    const length = Number(bytes.toString('latin1', at, space));
    if (!(length > space - at + 1)) break;
    const record = bytes.subarray(space + 1, at + length - 1);
    const equals = record.indexOf('=');
    records[record.toString('latin1', 0, equals)] = decodeName(record.subarray(equals + 1));
    at += length;
  }
  return records;
}

function text(block: Buffer, at: number, length: number): string {
  const bytes = block.subarray(at, at + length);
  const end = bytes.indexOf(0);
  return decodeName(end < 0 ? bytes : bytes.subarray(0, end));
}

/** In octal digits; what is larger is binary, with the first bit set (GNU tar). */
function number(block: Buffer, at: number, length: number): number {
  if (block[at]! < 0x80) return Number.parseInt(block.toString('latin1', at, at + length), 8) || 0;
  return Number(BigInt(`0x${block.toString('hex', at + 1, at + length)}`));
}

function add(root: Node, { type, path, target, attributes }: Header, start: number): void {
  const names = namesOf(path);
  const name = names.pop();
  // What Linux does not take as a name leads nowhere, least of all out of the archive.
  if (name === undefined || [...names, name].some((each) => each === '..' || nameBytes(each).length > 255))
    return;
  let parent = root;
  for (const step of names) {
    if (!parent.children.has(step)) parent.children.set(step, directory());
    parent = parent.children.get(step)!;
    if (!isDirectory(parent)) return;
  }
  const known = parent.children.get(name);
  if (type === '5' && known !== undefined && isDirectory(known)) known.attributes = attributes;
  else if (type === '1') {
    const other = namesOf(target).reduce<Node | undefined>((at, step) => at?.children.get(step), root);
    if (other === undefined || other === known || isDirectory(other)) return;
    other.attributes = { ...other.attributes, nlink: (other.attributes.nlink ?? 1) + 1 };
    parent.children.set(name, other);
  } else parent.children.set(name, { attributes, children: new Map(), start, target });
}

function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}

function isDirectory({ attributes }: Node): boolean {
  return (attributes.mode & FileType.MASK) === FileType.DIRECTORY;
}

function directory(): Node {
  return { attributes: { mode: FileType.DIRECTORY | 0o755 }, children: new Map(), start: 0, target: '' };
}

function archiveError(what: string): Error {
  return new Error(`this is no tar archive, or a damaged one: ${what}`);
}

export default definePlugin({
  name: 'tar',
  description: 'a tar archive as a read-only tree',
  options: z.strictObject({ archive: z.string().describe('the archive').meta({ placeholder: 'FILE' }) }),
  create: ({ archive }) => tarBackend(archive),
  needs: ({ archive }) => ({ paths: [{ path: archive, write: false }] }),
});
