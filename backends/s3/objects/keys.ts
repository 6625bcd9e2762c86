import { decodeName, nameBytes, nameLength, NAME_MAX } from '../../../core/backend/index.js';

/** Longest key in bytes (Amazon S3 User Guide, "Naming Amazon S3 objects"). */
export const KEY_MAX_BYTES = 1024;

/**
 * Marks an escaped byte in a key: U+201B, the sign that rclone uses too, followed by two upper-case
 * hex digits. Keys are UTF-8 and names are bytes; only bytes that are no UTF-8 need it.
 */
const MARK = '\u201b';

const escapable = new RegExp(`[\\udc80-\\udcff]|${MARK}+[89A-F][0-9A-F]`, 'u');
const escaped = new RegExp(`(${MARK}+)([89A-F][0-9A-F])`, 'gu');

/**
 * Encodes a name as a part of a key. Before two digits that would read as a byte, n marks of the
 * name's own become 2n; before an escaped byte n marks become 2n + 1. So every name has one key
 * part, and every key part made here stands for one name.
 */
export function encodePart(name: string): string {
  if (!escapable.test(name)) return name;
  let part = '';
  for (let i = 0; i < name.length;) {
    let marks = 0;
    while (name[i + marks] === MARK) marks += 1;
    const unit = name.charCodeAt(i + marks);
    if (unit >= 0xdc80 && unit <= 0xdcff && !followsHigh(name, i + marks)) {
      part += MARK.repeat(2 * marks + 1) + (unit - 0xdc00).toString(16).toUpperCase();
      i += marks + 1;
    } else if (marks > 0) {
      part += MARK.repeat(/^[89A-F][0-9A-F]/.test(name.slice(i + marks)) ? 2 * marks : marks);
      i += marks;
    } else {
      part += name[i];
      i += 1;
    }
  }
  return part;
}

function followsHigh(name: string, at: number): boolean {
  const before = name.charCodeAt(at - 1);
  return before >= 0xd800 && before <= 0xdbff;
}

/**
 * Decodes a part of a key to a name.
 * @returns undefined if it is no valid name: empty, `.` or `..`, over 255 bytes, with a NUL, or not
 * as {@link encodePart} writes it.
 */
export function decodePart(part: string): string | undefined {
  if (part === '' || part === '.' || part === '..' || part.includes('\0')) return undefined;
  let name = part;
  if (part.includes(MARK)) {
    name = part.replace(escaped, (_, marks: string, digits: string) => {
      const own = MARK.repeat(marks.length >> 1);
      return (
        own + (marks.length % 2 === 1 ? String.fromCharCode(0xdc00 + Number.parseInt(digits, 16)) : digits)
      );
    });
    name = decodeName(nameBytes(name));
    if (encodePart(name) !== part) return undefined;
  }
  return name.length * 3 > NAME_MAX && nameLength(name) > NAME_MAX ? undefined : name;
}

/**
 * The name of our own folder below the prefix, with probes and the content of open files that have
 * no name any more. Guests do not see it.
 */
export const RESERVED = '.virtiofs-kit';

/** Maps paths (names joined by slashes, '' is the root) to keys below a prefix, and back. */
export class KeyMap {
  /** '' or a string that ends in a slash. */
  readonly prefix: string;

  /** @param prefix as the operator gave it, with or without slashes at its ends. */
  constructor(prefix: string) {
    const inner = prefix.replace(/^\/+|\/+$/g, '');
    this.prefix = inner === '' ? '' : `${inner}/`;
  }

  /** Key of a file. */
  file(path: string): string {
    return this.prefix + path.split('/').map(encodePart).join('/');
  }

  /**
   * Key of a directory's marker, which is the prefix of all below it: '' for a root without prefix.
   */
  directory(path: string): string {
    return path === '' ? this.prefix : `${this.file(path)}/`;
  }

  /** A key of our own that no path has. */
  reserved(name: string): string {
    return `${this.prefix}${RESERVED}/${name}`;
  }
}

/** Whether the key of a file is short enough. One byte is left for the slash of a directory. */
export function keyFits(key: string): boolean {
  return key.length < KEY_MAX_BYTES / 3 || Buffer.byteLength(key) < KEY_MAX_BYTES;
}
