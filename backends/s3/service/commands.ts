import * as z from 'zod';
import { defineCommand, UsageError } from '../../../core/backend/index.js';
import { optionsSchema } from '../options.js';
import { exportAside, recover, status, sweepUploads } from './administration.js';
import { controlPath, defaultFolder } from './mounted-bucket.js';

/** The options that say which mount is meant: its cache folder, or what it serves. */
const placeSchema = optionsSchema
  .pick({ bucket: true, prefix: true, endpoint: true, cacheDir: true })
  .partial({ bucket: true });

function folderOf({ bucket, prefix, endpoint, cacheDir }: z.output<typeof placeSchema>): string {
  if (cacheDir !== undefined) return cacheDir;
  if (bucket === undefined) throw new UsageError('give --cache-dir, or --bucket as for the mount');
  return defaultFolder({ bucket, prefix, endpoint });
}

function toLines(report: object): string[] {
  return [JSON.stringify(report, undefined, 2)];
}

const shown = defineCommand({
  kind: 'offline',
  name: 'status',
  description: 'show what is not uploaded yet, lost races, and the counters of a running mount',
  options: placeSchema,
  run: async (place) => toLines(await status(folderOf(place))),
});

function runningMount(place: z.output<typeof placeSchema>): { path: string; absent: string } {
  const folder = folderOf(place);
  return {
    path: controlPath(folder),
    absent: `${folder}: not mounted; "virtiofs-kit s3 recover" uploads what a dead process left`,
  };
}

const flush = defineCommand({
  kind: 'online',
  name: 'flush',
  description: 'have the running mount upload everything, and wait',
  options: placeSchema,
  socket: runningMount,
});

const refresh = defineCommand({
  kind: 'online',
  name: 'refresh',
  description:
    'have the running mount believe nothing of names and attributes that it heard before; guests see changes when their own caches end',
  options: placeSchema,
  socket: runningMount,
});

const exported = defineCommand({
  kind: 'offline',
  name: 'export',
  description: 'write data that lost a race, or is damaged, as plain files',
  options: placeSchema.extend({
    directory: z
      .string()
      .min(1)
      .describe('where to write them')
      .meta({ placeholder: 'DIR', positional: true }),
    remove: z.boolean().default(false).describe('remove them from the cache folder afterwards'),
  }),
  run: async ({ directory, remove, ...place }) =>
    toLines(await exportAside(folderOf(place), directory, remove)),
});

const recovered = defineCommand({
  kind: 'offline',
  name: 'recover',
  description: 'upload what a dead process left; the same options as its mount',
  options: optionsSchema,
  logLevel: 'info',
  run: async (options, { log }) => toLines(await recover(options, log)),
});

const swept = defineCommand({
  kind: 'offline',
  name: 'sweep',
  description: 'abort multipart uploads that were left in the bucket, below the prefix',
  options: optionsSchema.extend({
    olderThan: z.coerce
      .number()
      .min(0)
      .default(24)
      .describe('hours since an upload began; a younger one may be under way, on any machine'),
    dryRun: z.boolean().default(false).describe('name them only'),
  }),
  logLevel: 'info',
  run: async ({ olderThan, dryRun, ...options }, { log }) =>
    toLines(await sweepUploads(options, olderThan, dryRun, log)),
});

/**
 * Commands on cache folders, of a process that runs or is dead, and on what is left in a bucket:
 * `virtiofs-kit s3 …`.
 */
export const commands = [shown, flush, refresh, exported, recovered, swept];
