import { definePlugin, FileType, FsError } from 'virtiofs-kit';
import type { Attributes, Backend, Context, DirectoryEntry, Entry } from 'virtiofs-kit';
import { cached } from 'virtiofs-kit/wrappers';
import { z } from 'zod';

/*
 * A directory of a web server, such as nginx with autoindex or `python3 -m http.server`, as a
 * read-only tree. Files are read by ranges, in blocks that stay in memory.
 *
 *     virtiofs-kit guest --backend ./http-directory.js --url https://example.org/pub/ -- ls -l /mnt
 */

interface Node {
  readonly url: string;
  readonly attributes: Attributes;
}

const DIRECTORY: Attributes = { mode: FileType.DIRECTORY | 0o555 };

/** Largest file that is read whole, from a server that knows no ranges. */
const WHOLE_MAX = 2 ** 24;

export function httpBackend(base: string): Backend<Node> {
  const root: Node = { url: base.endsWith('/') ? base : `${base}/`, attributes: DIRECTORY };
  const nodes = new Map<string, Node>();

  return {
    cache: { entryTimeout: 10, attributeTimeout: 10 },
    mount: () => root,
    forget: ({ url }) => void nodes.delete(url),
    async lookup(parent, name, context): Promise<Entry<Node> | undefined> {
      const listed = await names(parent.url, context);
      const isDirectory = listed.has(`${name}/`);
      if (!isDirectory && !listed.has(name)) return undefined;
      const url = `${parent.url}${encodeURIComponent(name)}${isDirectory ? '/' : ''}`;
      const node = nodes.get(url) ?? {
        url,
        attributes: isDirectory ? DIRECTORY : toAttributes(await ask(url, 'HEAD', context)),
      };
      nodes.set(url, node);
      return { node, attributes: node.attributes };
    },
    getattr: ({ attributes }) => attributes,
    readdir: async ({ url }, context): Promise<DirectoryEntry[]> =>
      [...(await names(url, context))].map((name) => ({
        name: name.replace(/\/$/, ''),
        type: name.endsWith('/') ? FileType.DIRECTORY : FileType.REGULAR,
      })),
    async read({ url, attributes: { size = 0 } }, _file, buffer, offset, context) {
      const end = Math.min(offset + buffer.length, size);
      if (offset >= end) return 0;
      const response = await ask(url, 'GET', context, `bytes=${offset}-${end - 1}`);
      // A server that knows no ranges sends the whole file.
      const isWhole = response.status !== 206;
      if (isWhole && Number(response.headers.get('content-length') ?? Infinity) > WHOLE_MAX) {
        await response.body?.cancel();
        throw FsError.of('EFBIG');
      }
      const bytes = Buffer.from(await response.arrayBuffer());
      const part = isWhole ? bytes.subarray(offset, end) : bytes;
      if (part.length !== end - offset) throw FsError.of('EIO');
      buffer.put(0, part);
      return part.length;
    },
  };
}

/** The names that a directory's page links to; those of directories end in a slash. */
async function names(url: string, context: Context): Promise<Set<string>> {
  const page = await (await ask(url, 'GET', context)).text();
  const links = [...page.matchAll(/<a\s[^>]*href="([^"]+)"/gi)].map(([, link = '']) => {
    const target = new URL(link.replaceAll('&amp;', '&'), url);
    target.search = target.hash = '';
    return target.href.startsWith(url) ? target.href.slice(url.length) : '';
  });
  return new Set(links.filter((link) => /^[^/]+\/?$/.test(link)).map(decodeURIComponent));
}

async function ask(url: string, method: string, { signal }: Context, range?: string): Promise<Response> {
  const headers = range === undefined ? {} : { range, 'accept-encoding': 'identity' };
  const response = await fetch(url, { method, headers, signal }).catch(() => {
    throw FsError.of(signal.aborted ? 'EINTR' : 'EIO');
  });
  if (response.ok) return response;
  await response.body?.cancel();
  // 416: the file has become shorter.
  if (response.status === 404) throw FsError.of('ENOENT');
  throw FsError.of(response.status === 401 || response.status === 403 ? 'EACCES' : 'EIO');
}

function toAttributes({ headers }: Response): Attributes {
  const changed = Date.parse(headers.get('last-modified') ?? '') / 1000;
  return {
    mode: FileType.REGULAR | 0o444,
    size: Number(headers.get('content-length') ?? 0),
    mtime: Number.isNaN(changed) ? 0 : changed,
  };
}

export default definePlugin({
  name: 'http-directory',
  description: 'a directory of a web server as a read-only tree',
  options: z.strictObject({
    url: z.url().describe('address of the directory').meta({ placeholder: 'URL' }),
    seconds: z.number().min(0).default(60).describe('seconds for which what was read counts'),
  }),
  create: ({ url, seconds }) => cached(httpBackend(url), { names: seconds, attributes: seconds }),
  needs: () => ({ paths: [], network: true }),
});
