/** Guests of engines whose saved form, or journal, was stored: see `stored-states.ts`. */
import assert from 'node:assert/strict';
import { gunzipSync } from 'node:zlib';
import type { Session } from '../../core/fuse/index.js';
import { FuseClient, rejectsWith } from './fuse-client.js';
import { Loopback } from './loopback.js';

/** What one of the two guests had on memfs. N is its number, 0 or 1. */
export interface StoredGuest {
  /** The node of `fileN`; its content is `dataN`, its attribute `user.of` N. */
  readonly file: bigint;
  /** It was open, with a lock of owner 7 on its first ten bytes. */
  readonly fh: bigint;
  /** A file that was removed and is open; its content is `still`. */
  readonly removed: bigint;
  readonly removedFh: bigint;
  /** A directory with others in it, `a` to `d`, that is listed. */
  readonly directory: bigint;
  readonly listing: bigint;
  /** The names that were read of it, and where it is read on. */
  readonly read: readonly string[];
  readonly cookie: bigint;
}

/** A saved form. */
export interface StoredState {
  readonly version: number;
  readonly bytes: string;
  readonly guests: readonly StoredGuest[];
}

/**
 * What an engine has left that was killed: the first guest's UNLINK of `file0` was carried out and
 * not answered, the second's RENAME of `file1` to `moved` was about to be.
 */
export interface StoredJournal {
  readonly version: number;
  /** The words of its journal that were used. */
  readonly journal: string;
  /** What was in memfs's memory: where, and bytes. */
  readonly contents: readonly (readonly [at: number, bytes: string])[];
  /** The ids of these two requests. */
  readonly removal: bigint;
  readonly renaming: bigint;
  readonly guests: readonly StoredGuest[];
}

export function unpack(packed: string): Buffer {
  return gunzipSync(Buffer.from(packed, 'base64'));
}

/** Has a guest go on with everything that it had. @param lookups of its `fileN`. */
export async function goesOn(
  session: Session,
  had: StoredGuest,
  number: number,
  lookups: number,
): Promise<void> {
  const client = new FuseClient(new Loopback(session));
  const { file, fh, removed, removedFh, directory, listing, read, cookie } = had;
  const text = async (...[node, handle]: readonly [bigint, bigint]): Promise<string> =>
    Buffer.from(await client.read(node, handle, 0, 100)).toString();
  assert.equal(await text(file, fh), `data${number}`);
  assert.equal(Buffer.from(await client.getxattr(file, 'user.of')).toString(), `${number}`);
  assert.equal(await text(removed, removedFh), 'still');
  assert.equal((await client.getattr(removed)).nlink, 0);
  const rest = await client.readdir(directory, listing, cookie);
  assert.deepEqual([...read, ...rest.map(({ name }) => name)].sort(), ['.', '..', 'a', 'b', 'c', 'd']);
  const lock = { start: 0n, end: 9n, type: 1, pid: 2 };
  const other = await client.open(file, 2);
  await rejectsWith(client.setlk(file, other.fh, 8n, lock), 11);
  await client.flush(file, fh, 7n);
  await client.setlk(file, other.fh, 8n, lock);
  for (const each of [fh, other.fh]) await client.release(file, each);
  await client.forget(file, BigInt(lookups - 1));
  await client.getattr(file);
  await client.forget(file, 1n);
  await rejectsWith(client.getattr(file), 116);
}
