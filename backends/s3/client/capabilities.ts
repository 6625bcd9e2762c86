import { randomUUID } from 'node:crypto';
import type { Logger } from '../../../core/backend/index.js';
import { WRITE_MARK } from '../objects/attributes.js';
import type { Bucket } from './bucket.js';
import type { Capabilities, Condition, Content } from './bucket-types.js';
import type { Deadline } from './deadline.js';
import { S3Failure } from './failure.js';

/** The mark identifies the object as ours where the server does not report what an upload made. */
const plain: Content = { metadata: { [WRITE_MARK]: 'probe' }, headers: {} };

const REFUSED =
  'these credentials may not read grants or tags of objects: what is rewritten or moved loses them';

/** Milliseconds after which a probe's object counts as left behind by a dead process. */
const STALE_MS = 600_000;

/** Removes objects that earlier probes left behind. */
export async function sweep(bucket: Bucket, key: string, deadline: Deadline): Promise<void> {
  const page = await bucket.list(`${key}-`, '', undefined, 1000, deadline);
  const stale = page.objects.filter(({ modified }) => modified * 1000 < Date.now() - STALE_MS);
  if (stale.length > 0)
    await bucket.removeMany(
      stale.map((object) => object.key),
      deadline,
    );
}

/** Assumed during the probe, so that every condition is sent. */
const assumed: Capabilities = {
  create: true,
  replace: true,
  unquoted: false,
  complete: true,
  copySource: true,
};

/**
 * Finds out which conditions the provider keeps, by a few requests on a key of our own that is
 * removed afterwards. Sets `bucket.capabilities`.
 * @throws S3Failure if the bucket cannot be written.
 */
export async function probe(bucket: Bucket, key: string, log: Logger, deadline: Deadline): Promise<void> {
  const scratch = `${key}-${randomUUID()}`;
  const put = (condition: Condition | undefined): Promise<boolean> =>
    holds(() => bucket.put(scratch, Buffer.from('probe'), plain, condition, deadline));

  bucket.capabilities = assumed;
  try {
    const { etag } = await bucket.put(scratch, Buffer.from('probe'), plain, undefined, deadline);
    const create = !(await put('absent'));
    const wrong = { etag: '0'.repeat(32) };
    let replace = !(await put(wrong));
    let unquoted = false;
    if (replace && !(await put({ etag }))) {
      bucket.capabilities = { ...assumed, unquoted: true };
      unquoted = await put({ etag });
      replace = unquoted;
    }
    bucket.capabilities = { ...assumed, create, replace, unquoted };
    const copySource = !(await holds(() =>
      bucket.copy(
        { key: scratch, etag: wrong.etag, size: 5, modified: 0, storageClass: undefined },
        scratch,
        plain,
        deadline,
      ),
    ));
    const complete = create && !(await completes(bucket, scratch, deadline));
    bucket.capabilities = { create, replace, unquoted, complete, copySource };
    const refused = await bucket.learnBeside(scratch, deadline);
    if (refused.length > 0) log.warn({ refused }, REFUSED);
    // The probe's copy was refused for its condition, which does not mean that the server cannot
    // copy.
    bucket.copies = true;
  } finally {
    await bucket.remove(scratch, deadline).catch(() => undefined);
  }
  const ignored = Object.entries(bucket.capabilities).filter(
    ([name, has]) => name !== 'unquoted' && has === false,
  );
  if (ignored.length > 0) {
    log.warn(
      { ignored: ignored.map(([name]) => name) },
      'this S3 server ignores some conditions: between a look and a write another writer may come unnoticed',
    );
  }
}

async function completes(bucket: Bucket, key: string, deadline: Deadline): Promise<boolean> {
  const upload = await bucket.createUpload(key, plain, deadline);
  try {
    const part = await bucket.uploadPart(key, upload, 1, Buffer.from('probe'), deadline);
    return await holds(() => bucket.completeUpload(key, upload, [part], 5, plain, 'absent', deadline));
  } finally {
    await bucket.abortUpload(key, upload, deadline).catch(() => undefined);
  }
}

/**
 * Whether a request was carried out although its condition does not hold. A request that is refused
 * as unknown counts as carried out: the condition is not usable.
 */
async function holds(request: () => Promise<unknown>): Promise<boolean> {
  try {
    await request();
    return true;
  } catch (error) {
    if (!(error instanceof S3Failure)) throw error;
    if (error.kind === 'precondition' || error.kind === 'no-upload') return false;
    if (error.kind === 'unsupported' || error.kind === 'refused') return true;
    throw error;
  }
}
