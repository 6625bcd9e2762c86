import type { Bucket } from '../client/bucket.js';
import { parallel } from '../client/concurrency.js';
import type { Deadline } from '../client/deadline.js';
import { classify } from '../client/failure.js';
import type { S3Failure } from '../client/failure.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';
import type { Removal } from '../journal/removal-log.js';
import type { RemoteObject } from '../objects/attributes.js';

/** Most keys that one request deletes, and that one page of a listing has. */
const KEYS_MAX = 1000;
/** Requests at once, where objects are looked at one by one. */
const LOOKS_AT_ONCE = 16;
/** A listing that shows fewer of them is no cheaper than a look at each of the next. */
const SHOWN_MIN = 16;

/** Before a removal is tried again. */
const PAUSES: RetryPauses = { firstMs: 100, maxMs: 5_000 };

/** What became of removals, by key. Those that it has nothing of are gone. */
export interface Removed {
  /** Still there, since the bucket did not remove them. */
  readonly failed: ReadonlyMap<string, S3Failure>;
  /** Another writer has made the object anew: it stays. */
  readonly replaced: ReadonlySet<string>;
}

/**
 * Removes objects that are still what is to be removed. What another writer puts there between the
 * look and the removal, milliseconds later, is not told from it. Failures that may pass are
 * repeated, each time after another look.
 * @param deadline of up to a thousand at a time.
 */
export async function removeUnchanged(
  bucket: Bucket,
  removals: readonly Removal[],
  deadline: () => Deadline,
): Promise<Removed> {
  const failed = new Map<string, S3Failure>();
  const replaced = new Set<string>();
  for (let at = 0; at < removals.length; at += KEYS_MAX) {
    const by = deadline();
    let left = removals.slice(at, at + KEYS_MAX);
    for (let attempt = 1; left.length > 0; attempt++) {
      const failures = await attemptAt(bucket, left, by, replaced);
      for (const [key, failure] of failures) failed.set(key, failure);
      for (const { key } of left) if (!failures.has(key)) failed.delete(key);
      left = left.filter(({ key }) => mayPass(failures.get(key)));
      const pauseMs = retryPauseMs(PAUSES, attempt);
      if (left.length === 0 || by.remaining <= pauseMs) break;
      await by.sleep(pauseMs);
    }
  }
  return { failed, replaced };
}

/** Not once the mount is at its end. */
function mayPass(failure: S3Failure | undefined): boolean {
  return failure?.transient === true && failure.code !== 'Closed';
}

/** @returns the failures, by key. */
async function attemptAt(
  bucket: Bucket,
  removals: readonly Removal[],
  deadline: Deadline,
  replaced: Set<string>,
): Promise<ReadonlyMap<string, S3Failure>> {
  const keys: string[] = [];
  try {
    for (const [removal, object] of await look(bucket, removals, deadline)) {
      if (isWhatGoes(removal, object)) keys.push(removal.key);
      else replaced.add(removal.key);
    }
    return keys.length === 0 ? new Map() : await bucket.removeEach(keys, deadline, false);
  } catch (error) {
    const failure = classify(error);
    return new Map((keys.length === 0 ? removals.map(({ key }) => key) : keys).map((key) => [key, failure]));
  }
}

/** Whether an object is the one that is to be removed. */
export function isWhatGoes({ etag }: Omit<Removal, 'key'>, object: RemoteObject): boolean {
  return etag === undefined ? object.size === 0 : object.etag === etag;
}

/**
 * The objects that are there of those to be removed: by listings that begin at the next of them,
 * and one by one where they lie far apart.
 */
async function look(
  bucket: Bucket,
  removals: readonly Removal[],
  deadline: Deadline,
): Promise<Map<Removal, RemoteObject>> {
  const found = new Map<Removal, RemoteObject>();
  const left = removals.toSorted((a, b) => compared(a.key, b.key));
  const prefix = commonPrefix(left[0]?.key ?? '', left.at(-1)?.key ?? '');
  while (left.length > 0) {
    let shown = 0;
    if (left.length >= SHOWN_MIN) {
      const after = before(left[0]!.key);
      const page = await bucket.list(prefix, '', undefined, KEYS_MAX, deadline, after);
      const objects = new Map(page.objects.map((object) => [object.key, object]));
      const last = page.objects.at(-1)?.key;
      const isBeyond = ({ key }: Removal): boolean => last === undefined || compared(key, last) > 0;
      const beyond = page.next === undefined ? -1 : left.findIndex(isBeyond);
      shown = beyond < 0 ? left.length : beyond;
      for (const removal of left.slice(0, shown)) {
        const object = objects.get(removal.key);
        if (object !== undefined) found.set(removal, object);
      }
      left.splice(0, shown);
    }
    if (shown >= SHOWN_MIN) continue;
    await parallel(left.splice(0, KEYS_MAX / SHOWN_MIN), LOOKS_AT_ONCE, async (removal) => {
      const object = await bucket.head(removal.key, deadline);
      if (object !== undefined) found.set(removal, object);
    });
  }
  return found;
}

/** As listings are sorted: by the bytes of UTF-8. */
function compared(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function commonPrefix(a: string, b: string): string {
  const one = [...a];
  const other = [...b];
  const end = one.findIndex((character, i) => character !== other[i]);
  return one.slice(0, end < 0 ? undefined : end).join('');
}

/** A key that a listing may begin after, to have this one. */
function before(key: string): string | undefined {
  const shorter = [...key].slice(0, -1).join('');
  return shorter === '' ? undefined : shorter;
}
