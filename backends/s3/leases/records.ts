import { createHash } from 'node:crypto';
import * as z from 'zod';
import type { KeyMap } from '../objects/keys.js';

/*
 * What mounts of one prefix know of each other: JSON in objects below `.virtiofs-kit/leases/`. Each
 * is changed only on the condition that it is as it was read.
 */

/** Most bytes of a record that is read. */
export const RECORD_MAX_BYTES = 2 ** 20;

const mountId = z.uuid();

/** Who has written a record, and a mark of this very write: so no two of them have one ETag. */
const written = { version: z.literal(1), writer: z.uuid(), write: z.uuid() };

/** Whether a mount lives, and what it may be about to write. */
export const mountRecord = z.strictObject({
  ...written,
  /** `lost`: others have waited for a term in vain, or the mount has ended. It is that for ever. */
  state: z.enum(['active', 'lost']),
  /** Milliseconds after which a record that has not changed may be declared lost. */
  termMs: z.number().int().min(100).max(86_400_000),
  /** Uploads that may be completed at any moment. Of a lost mount they are to be aborted. */
  uploads: z.array(z.strictObject({ key: z.string().max(1024), id: z.string().max(2048) })).max(1024),
});

/** The mounts that hold a file, and those that wait for it, in order. */
export const fileRecord = z.strictObject({
  ...written,
  /** For people; the key is made of it. */
  path: z.string(),
  holders: z.array(z.strictObject({ mount: mountId, exclusive: z.boolean() })).max(4096),
  waiting: z.array(mountId).max(64),
});

export type MountRecord = z.output<typeof mountRecord>;
export type FileRecord = z.output<typeof fileRecord>;

/** Most mounts whose turn is remembered. */
export const WAITING_MAX = 64;

export function mountKey(keys: KeyMap, id: string): string {
  return keys.reserved(`leases/mounts/${id}`);
}

export function fileKey(keys: KeyMap, path: string): string {
  const name = createHash('sha256').update(keys.file(path)).digest('hex');
  return keys.reserved(`leases/files/${name}`);
}
