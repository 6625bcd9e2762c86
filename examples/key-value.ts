import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { definePlugin, FileType, FsError, OpenFlags } from 'virtiofs-kit';
import type { Attributes, Backend, Entry } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * A key-value store as a directory: each key is a file that can be read, written, renamed and
 * removed. The store is a JSON document, which is written when a file is closed or synced.
 *
 *     virtiofs-kit guest --backend ./key-value.js --store /tmp/store.json -- \
 *       sh -c 'echo 42 > /mnt/answer; ls -l /mnt'
 */

interface Value {
  bytes: Buffer;
  changed: number;
  links: number;
}

const SIZE_MAX = 2 ** 24;

export function keyValueBackend(store: Map<string, Buffer>, save: () => void): Backend<object> {
  const root = {};
  const values = new Map([...store].map(([key, bytes]) => [key, { bytes, changed: now(), links: 1 }]));
  let isChanged = false;

  const attributes = (node: object): Attributes => {
    if (node === root) return { mode: FileType.DIRECTORY | 0o755 };
    const { bytes, changed, links } = node as Value;
    return { mode: FileType.REGULAR | 0o644, size: bytes.length, mtime: changed, nlink: links };
  };
  const entry = (node: object): Entry<object> => ({ node, attributes: attributes(node) });
  const touch = (value: Value): void => {
    value.changed = now();
    isChanged = true;
  };
  const resize = (value: Value, size: number): void => {
    if (size > SIZE_MAX) throw FsError.of('EFBIG');
    const grown = Buffer.alloc(Math.max(0, size - value.bytes.length));
    value.bytes = Buffer.concat([value.bytes, grown]).subarray(0, size);
    touch(value);
  };
  const write = (): void => {
    if (!isChanged) return;
    store.clear();
    for (const [key, { bytes }] of values) store.set(key, bytes);
    save();
    isChanged = false;
  };

  return {
    mount: () => root,
    unmount: write,
    lookup: (_parent, name) => {
      const value = values.get(name);
      return value && entry(value);
    },
    getattr: attributes,
    setattr(node, { size }) {
      if (size !== undefined) resize(node as Value, size);
      return attributes(node);
    },
    readdir: () => [...values.keys()].map((name) => ({ name, type: FileType.REGULAR })),
    create(_parent, name, _mode, flags) {
      const known = values.get(name);
      if (known !== undefined && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
      const value = known ?? { bytes: Buffer.alloc(0), changed: now(), links: 1 };
      values.set(name, value);
      if ((flags & OpenFlags.TRUNC) !== 0) resize(value, 0);
      touch(value);
      return { ...entry(value), file: undefined };
    },
    open(node, flags) {
      if ((flags & OpenFlags.TRUNC) !== 0) resize(node as Value, 0);
      return { file: undefined };
    },
    read(node, _file, buffer, offset) {
      const part = (node as Value).bytes.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
    write(node, _file, buffer, offset) {
      const value = node as Value;
      if (offset + buffer.length > value.bytes.length) resize(value, offset + buffer.length);
      buffer.get(0, value.bytes, offset, offset + buffer.length);
      touch(value);
      return buffer.length;
    },
    unlink(_parent, name) {
      const value = values.get(name);
      if (value === undefined) throw FsError.of('ENOENT');
      values.delete(name);
      value.links = 0;
      isChanged = true;
    },
    rename(_parent, name, _newParent, newName, flags) {
      const value = values.get(name);
      if (flags !== 0) throw FsError.of('EINVAL');
      if (value === undefined) throw FsError.of('ENOENT');
      const replaced = values.get(newName);
      if (replaced === value) return;
      if (replaced !== undefined) replaced.links = 0;
      values.delete(name);
      values.set(newName, value);
      isChanged = true;
    },
    flush: write,
    fsync: write,
  };
}

function now(): number {
  return Date.now() / 1000;
}

function load(file: string): Map<string, Buffer> {
  try {
    const text = JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>;
    return new Map(Object.entries(text).map(([key, value]) => [key, Buffer.from(value, 'base64')]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
    throw error;
  }
}

export default definePlugin({
  name: 'key-value',
  description: 'a key-value store as a directory of files',
  options: z.strictObject({
    store: z.string().describe('JSON document that has the store').meta({ placeholder: 'FILE' }),
  }),
  create({ store: file }) {
    const store = load(file);
    return keyValueBackend(store, () => {
      const entries = [...store].map(([key, value]) => [key, value.toString('base64')]);
      writeFileSync(`${file}.new`, JSON.stringify(Object.fromEntries(entries)));
      renameSync(`${file}.new`, file);
    });
  },
});
