import { readFileSync } from 'node:fs';
import { definePlugin, FileType } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry, GuestBuffer } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * A JSON document as a read-only tree: objects and arrays are directories, every other value is a
 * file.
 *
 *     virtiofs-kit guest --backend ./json-document.js --file package.json -- cat /mnt/scripts/test
 */

interface Node {
  readonly attributes: Attributes;
  readonly children: ReadonlyMap<string, Node>;
  readonly content: Uint8Array;
}

function toNode(value: unknown): Node {
  const isDirectory = typeof value === 'object' && value !== null;
  const children = Object.entries(isDirectory ? value : {}).map(
    ([key, child]) => [toName(key), toNode(child)] as const,
  );
  const content = Buffer.from(isDirectory ? '' : `${String(value)}\n`);
  const mode = isDirectory ? FileType.DIRECTORY | 0o555 : FileType.REGULAR | 0o444;
  return { attributes: { mode, size: content.length }, children: new Map(children), content };
}

/** Turns any key into a name that Linux allows. */
function toName(key: string): string {
  const name = key.replaceAll('/', '∕').replaceAll('\0', '␀').slice(0, 80);
  return ['', '.', '..'].includes(name) ? `_${name}` : name;
}

/** It has no method that changes anything, so guests see a read-only file system. */
export function jsonBackend(document: unknown): Backend<Node> {
  return {
    cache: { entryTimeout: Infinity, attributeTimeout: Infinity, negativeTimeout: Infinity, data: 'always' },
    mount: () => toNode(document),
    lookup: (parent: Node, name: string): Entry<Node> | undefined => {
      const node = parent.children.get(name);
      return node && { node, attributes: node.attributes };
    },
    getattr: (node: Node) => node.attributes,
    readdir: ({ children }: Node): DirectoryEntry[] =>
      [...children].map(([name, child]) => ({ name, type: child.attributes.mode & FileType.MASK })),
    read: ({ content }: Node, _file: unknown, buffer: GuestBuffer, offset: number): number => {
      const part = content.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
  };
}

export default definePlugin({
  name: 'json',
  description: 'a JSON document as a read-only tree of files',
  options: z.strictObject({ file: z.string().describe('the document').meta({ placeholder: 'FILE' }) }),
  create: ({ file }) => jsonBackend(JSON.parse(readFileSync(file, 'utf8'))),
});
