import { definePlugin, FileType } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * Environment variables as files: each is read from the process when a guest opens it.
 *
 *     virtiofs-kit guest --backend ./environment.js --prefix NODE_ -- ls /mnt
 */

/** The root, or one variable. */
interface Node {
  readonly variable?: string;
}

export function environmentBackend(prefix: string): Backend<Node, Buffer> {
  const root: Node = {};
  const nodes = new Map<string, Node>();
  const isShown = (name: string): boolean => name.startsWith(prefix) && !name.includes('/');
  const attributes = ({ variable }: Node): Attributes =>
    variable === undefined ? { mode: FileType.DIRECTORY | 0o555 } : { mode: FileType.REGULAR | 0o444 };
  return {
    // Variables come and go without the guest's knowledge, so it asks again each second.
    cache: { entryTimeout: 1, attributeTimeout: 1 },
    mount: () => root,
    lookup(_parent, name): Entry<Node> | undefined {
      if (!isShown(name) || !Object.hasOwn(process.env, name)) return undefined;
      const node = nodes.get(name) ?? { variable: name };
      nodes.set(name, node);
      return { node, attributes: attributes(node) };
    },
    getattr: (node) => attributes(node),
    forget: ({ variable }) => void nodes.delete(variable ?? ''),
    readdir: (): DirectoryEntry[] =>
      Object.keys(process.env)
        .filter(isShown)
        .map((name) => ({ name, type: FileType.REGULAR })),
    // The size is not known before. With direct I/O the guest reads until there is no more.
    open: ({ variable = '' }) => ({ file: Buffer.from(`${process.env[variable] ?? ''}\n`), directIo: true }),
    read(_node, file, buffer, offset) {
      const part = file.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
  };
}

export default definePlugin({
  name: 'environment',
  description: 'environment variables of the daemon as files',
  options: z.strictObject({
    prefix: z.string().default('').describe('only variables that begin so').meta({ placeholder: 'TEXT' }),
  }),
  create: ({ prefix }) => environmentBackend(prefix),
});
