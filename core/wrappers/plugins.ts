import * as z from 'zod';
import {
  type Backend,
  type BackendNeeds,
  type BackendSpec,
  definePlugin,
  UsageError,
} from '../backend/index.js';
import { cached } from './cached/cached.js';
import { encrypted } from './encrypted/encrypted.js';
import { readEncryptionKey } from './encrypted/keys.js';
import { quota } from './quota/quota.js';
import { routed } from './routed/routed.js';
import { throttled } from './throttled.js';

/*
 * Wrappers as kinds of backend, for configuration files: `{ type: quota, bytes: 10g, of: { … } }`.
 */

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

const size = z.union([z.string(), z.number()]).transform((given, context) => {
  const match = /^(\d+)\s*([kmgt]?)(?:i?b)?$/i.exec(String(given).trim());
  const bytes = Number(match?.[1]) * UNITS[match?.[2]?.toLowerCase() ?? '']!;
  if (match !== null && Number.isSafeInteger(bytes)) return bytes;
  context.addIssue('not a size; write bytes or, say, 512m or 4g');
  return z.NEVER;
});

const spec = z.looseObject({ type: z.string().min(1).describe('kind of the backend') });
const inner = spec.describe('the backend below, with its options').meta({ placeholder: 'YAML' });
const seconds = z.number().min(0);

function needsOf({ of }: { readonly of: BackendSpec }): BackendNeeds {
  return { paths: [], backends: [of] };
}

const quotaKind = definePlugin({
  name: 'quota',
  description: 'another backend with a limit on bytes and inodes',
  options: z.strictObject({
    of: inner,
    bytes: size.optional().describe('sum of the sizes of all files').meta({ placeholder: 'SIZE' }),
    inodes: z.int().min(0).optional().describe('files, directories, links and the like'),
    xattrBytes: size
      .optional()
      .describe('extended attributes of one node, with their names; default 65,792')
      .meta({ placeholder: 'SIZE' }),
  }),
  create: async ({ of, ...limits }, { createBackend }) => quota(await createBackend(of), limits),
  needs: needsOf,
});

const cachedKind = definePlugin({
  name: 'cached',
  description: 'another backend with names, attributes and content kept in memory',
  options: z.strictObject({
    of: inner,
    bytes: size
      .optional()
      .describe('all that is kept; default 64m, or an eighth of the heap if less')
      .meta({ placeholder: 'SIZE' }),
    names: seconds.optional().describe('seconds for which names and listings count; default 10'),
    missing: seconds.optional().describe('seconds for which a missing name is missing; default 1'),
    attributes: seconds.optional().describe('seconds for which attributes and content count; default 10'),
    blockBytes: size
      .optional()
      .describe('bytes in which content is read and kept; default 128k')
      .meta({ placeholder: 'SIZE' }),
  }),
  create: async ({ of, ...settings }, { createBackend }) => cached(await createBackend(of), settings),
  needs: needsOf,
});

const throttledKind = definePlugin({
  name: 'throttled',
  description: 'another backend with a limit on bytes and requests a second',
  options: z.strictObject({
    of: inner,
    bytesPerSecond: size
      .optional()
      .describe('bytes that are read and written in a second')
      .meta({ placeholder: 'SIZE' }),
    operationsPerSecond: z.number().positive().optional().describe('requests in a second'),
    each: z.enum(['guest', 'all']).default('all').describe('whether each guest has the limits for itself'),
  }),
  create: async ({ of, ...limits }, { createBackend }) => throttled(await createBackend(of), limits),
  needs: needsOf,
});

const encryptedKind = definePlugin({
  name: 'encrypted',
  description: 'another backend that gets content and names encrypted only',
  options: z.strictObject({
    of: inner,
    keyFile: z
      .string()
      .describe('file with the key: 32 bytes or 64 hexadecimal digits')
      .meta({ placeholder: 'FILE' }),
  }),
  create: async ({ of, keyFile }, { createBackend }) => {
    const key = readEncryptionKey(keyFile);
    return encrypted(await createBackend(of), { key }) as Backend;
  },
  needs: ({ of, keyFile }) => ({ paths: [{ path: keyFile, write: false }], backends: [of] }),
});

function paths(what: string) {
  return z.array(z.string()).default([]).describe(what).meta({ placeholder: 'PATH' });
}

const routedKind = definePlugin({
  name: 'routed',
  description: 'a tree of several backends, by path',
  options: z.strictObject({
    mounts: z
      .record(z.string(), spec)
      .describe('backends by the path where their root is')
      .meta({ placeholder: 'YAML' }),
    hidden: paths('paths that are not there'),
    readOnly: paths('paths below which nothing can be changed'),
    denied: paths('paths that are listed, and are EACCES for all else'),
    redirected: z
      .record(z.string(), z.string())
      .default({})
      .describe('paths at which another path is seen')
      .meta({ placeholder: 'YAML' }),
  }),
  async create({ mounts, hidden, readOnly, denied, redirected }, { createBackend }) {
    if (Object.keys(mounts).length === 0) throw new UsageError('backend routed: mounts: give one or more');
    const backends: Record<string, Backend> = {};
    for (const [path, of] of Object.entries(mounts)) backends[path] = await createBackend(of);
    return routed({
      mounts: backends,
      rules: [
        ...hidden.map((path) => ({ path, access: 'hidden' as const })),
        ...readOnly.map((path) => ({ path, access: 'read-only' as const })),
        ...denied.map((path) => ({ path, access: 'denied' as const })),
        ...Object.entries(redirected).map(([path, to]) => ({ path, access: 'redirected' as const, to })),
      ],
    }) as Backend;
  },
  needs: ({ mounts }) => ({ paths: [], backends: Object.values(mounts) }),
});

/** The kinds by their names. */
export default {
  quota: quotaKind,
  cached: cachedKind,
  throttled: throttledKind,
  encrypted: encryptedKind,
  routed: routedKind,
} as const;
