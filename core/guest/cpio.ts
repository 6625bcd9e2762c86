/** One member of an archive. A directory has no `content`. */
export interface ArchiveEntry {
  /** Path without a leading slash. */
  readonly path: string;
  /** Type and permission bits. */
  readonly mode: number;
  /** Bytes of a file, or the target of a symbolic link. */
  readonly content?: Uint8Array;
}

const TRAILER = 'TRAILER!!!';
const HEADER = 110;

/**
 * Packs a cpio archive in the "newc" format, which Linux unpacks into its initial root file system
 * (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`). Parent directories must
 * come first.
 */
export function packCpio(entries: readonly ArchiveEntry[]): Buffer {
  const parts: Buffer[] = [];
  let ino = 1;
  for (const entry of entries) push(parts, entry.path, entry.mode, ino++, entry.content ?? new Uint8Array(0));
  push(parts, TRAILER, 0, 0, new Uint8Array(0));
  return Buffer.concat(parts);
}

function push(parts: Buffer[], path: string, mode: number, ino: number, content: Uint8Array): void {
  const name = Buffer.from(`${path}\0`);
  const fields = [ino, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
  parts.push(Buffer.from(`070701${fields.map(hex).join('')}`), name, padding(HEADER + name.length));
  parts.push(Buffer.from(content), padding(content.length));
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

/** The bytes that pad a name or content to a multiple of four. */
function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
