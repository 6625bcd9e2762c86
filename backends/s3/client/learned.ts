import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import * as z from 'zod';
import type { S3Options } from '../options.js';
import type { Learned } from './bucket.js';

/*
 * What was found out of a server, kept on disk for later mounts with the same cache folder, which
 * need not wait until it is found out once more. What of it turns out to be wrong is found out
 * again, and kept anew.
 */

/** A file may be as much younger than the clock says, in milliseconds. */
const CLOCK_STEP_MS = 1000;

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

/**
 * @param maxAgeMs milliseconds since it was found out, at most.
 * @returns nothing where nothing that can be read was kept of this server, or it is older.
 */
export async function readLearned(
  path: string,
  options: S3Options,
  maxAgeMs: number,
): Promise<Learned | undefined> {
  try {
    const age = Date.now() - (await stat(path)).mtimeMs;
    // A clock that was set back says nothing.
    if (age > maxAgeMs || age < -CLOCK_STEP_MS) return undefined;
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
