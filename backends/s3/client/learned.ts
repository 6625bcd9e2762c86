import { readFile, rename, writeFile } from 'node:fs/promises';
import * as z from 'zod';
import type { S3Options } from '../options.js';
import type { Learned } from './bucket.js';

/*
 * What was found out of a server, kept on disk for a process that follows one that was killed: its
 * guests need not wait until it is found out once more. An ordinary start does not read it.
 */

const schema = z.strictObject({
  server: z.string(),
  capabilities: z.strictObject({
    create: z.boolean(),
    replace: z.boolean(),
    unquoted: z.boolean(),
    complete: z.boolean(),
    copySource: z.boolean(),
    digests: z.boolean(),
  }),
  beside: z.strictObject({ grants: z.boolean(), tags: z.boolean(), self: z.string().optional() }),
});

/** @returns nothing where nothing that can be read was kept of this server. */
export async function readLearned(path: string, options: S3Options): Promise<Learned | undefined> {
  try {
    const { server, capabilities, beside } = schema.parse(JSON.parse(await readFile(path, 'utf8')));
    return server === serverOf(options)
      ? { capabilities, beside: { ...beside, self: beside.self } }
      : undefined;
  } catch {
    return undefined;
  }
}

export async function writeLearned(path: string, options: S3Options, learned: Learned): Promise<void> {
  const partial = `${path}.new`;
  await writeFile(partial, JSON.stringify({ server: serverOf(options), ...learned }), { mode: 0o600 });
  await rename(partial, path);
}

/** What another answer may come from. */
function serverOf({ endpoint, bucket, preserve, profile }: S3Options): string {
  return JSON.stringify([endpoint ?? null, bucket, preserve, profile ?? null]);
}
