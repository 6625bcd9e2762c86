import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { definePlugin, FileType, FsError } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * The commits of a git repository as read-only trees. The root lists branches and tags; every other
 * name of a commit can be looked up there, too.
 *
 *     virtiofs-kit guest --backend ./git-commits.js --repository . -- \
 *       sh -c 'ls /mnt/main; diff /mnt/main~1/README.md /mnt/main/README.md'
 */

interface Node {
  /** The object's name, of a commit, tree or blob. */
  readonly object: string;
  readonly attributes: Attributes;
  /** Where it is, from the root: the same commit's path has the same content for ever. */
  readonly path: string;
}

const LARGEST = 2 ** 28;
const DIRECTORY: Attributes = { mode: FileType.DIRECTORY | 0o555 };

export function gitBackend(repository: string): Backend<Node, Buffer> {
  const root: Node = { object: '', attributes: DIRECTORY, path: '' };
  const nodes = new Map<string, Node>();
  const run = promisify(execFile);
  const git = async (...args: string[]): Promise<Buffer> => {
    const options = { encoding: 'buffer', maxBuffer: LARGEST } as const;
    return (await run('git', ['-C', repository, ...args], options)).stdout;
  };
  /** One object for one file, as long as a guest knows it. */
  const nodeOf = (node: Node): Node => {
    const known = nodes.get(node.path) ?? node;
    nodes.set(node.path, known);
    return known;
  };

  async function commit(name: string): Promise<Node | undefined> {
    if (name.startsWith('-')) return undefined;
    const found = await git('rev-parse', '--verify', '--quiet', `${name}^{commit}`).catch(() => undefined);
    return found && { object: String(found).trim(), attributes: DIRECTORY, path: `${name}@${found}` };
  }

  /** `<mode> <type> <object> <size>\t<name>`, each ended by NUL. */
  async function children({ object, path }: Node): Promise<Map<string, Node>> {
    const lines = String(await git('ls-tree', '-lz', object)).split('\0');
    return new Map(
      lines.flatMap((line) => {
        const match = /^(\d+) (\w+) (\w+) +(\d+|-)\t([^]+)$/.exec(line);
        const [, mode = '', type, child = '', size, name = ''] = match ?? [];
        // A submodule is another repository's commit.
        if (match === null || type === 'commit') return [];
        const bits = parseInt(mode, 8);
        const attributes =
          type === 'tree'
            ? DIRECTORY
            : { mode: (bits & FileType.MASK) | 0o444 | (bits & 0o111), size: Number(size) };
        return [[name, { object: child, attributes, path: `${path}/${name}` }] as const];
      }),
    );
  }

  return {
    cache: { entryTimeout: 1, attributeTimeout: Infinity, data: 'always' },
    mount: () => root,
    forget: ({ path }) => void nodes.delete(path),
    async lookup(parent, name): Promise<Entry<Node> | undefined> {
      const found = parent === root ? await commit(name) : (await children(parent)).get(name);
      if (found === undefined) return undefined;
      const node = nodeOf(found);
      return { node, attributes: node.attributes };
    },
    getattr: ({ attributes }) => attributes,
    async readdir(node): Promise<DirectoryEntry[]> {
      if (node !== root)
        return [...(await children(node))].map(([name, { attributes }]) => ({
          name,
          type: attributes.mode & FileType.MASK,
        }));
      const names = String(await git('for-each-ref', '--format=%(refname:short)', 'refs/heads', 'refs/tags'));
      const shown = new Set(names.split('\n').filter((name) => name !== '' && !name.includes('/')));
      return [...shown].map((name) => ({ name, type: FileType.DIRECTORY }));
    },
    readlink: async ({ object }) => String(await git('cat-file', 'blob', object)),
    async open({ object, attributes }) {
      if ((attributes.size ?? 0) > LARGEST) throw FsError.of('EFBIG');
      return { file: await git('cat-file', 'blob', object) };
    },
    read(_node, file, buffer, offset) {
      const part = file.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
  };
}

export default definePlugin({
  name: 'git-commits',
  description: 'the commits of a git repository as read-only trees',
  options: z.strictObject({
    repository: z.string().default('.').describe('the repository').meta({ placeholder: 'DIR' }),
  }),
  create: ({ repository }) => gitBackend(repository),
  needs: ({ repository }) => ({ paths: [{ path: repository, write: false }], programs: true }),
});
