import { createHash, randomUUID } from 'node:crypto';
import type { Logger } from '../../../core/backend/index.js';
import type { RemoteObject } from '../objects/attributes.js';
import { WRITE_MARK } from '../objects/attributes.js';
import type { Bucket } from './bucket.js';
import type { CarriedHeaders } from './carried.js';
import type { Capabilities, Condition, Content } from './bucket-types.js';
import { Deadline } from './deadline.js';
import { S3Failure } from './failure.js';
import type { Metrics } from './metrics.js';

/**
 * The mark tells a probe's own object from that of the probe before, where an answer was lost or
 * the server does not report what an upload made.
 */
const marked = (): Content => ({ metadata: { [WRITE_MARK]: `probe-${randomUUID()}` }, headers: {} });

const REFUSED =
  'these credentials may not read grants or tags of objects: what is rewritten or moved loses them';

/** Milliseconds after which a probe's object counts as left behind by a dead process. */
const STALE_MS = 600_000;

/** Removes those objects of earlier probes whose process is dead. */
export async function sweep(
  bucket: Bucket,
  left: readonly RemoteObject[],
  deadline: Deadline,
): Promise<void> {
  const stale = left.filter(({ modified }) => modified * 1000 < Date.now() - STALE_MS);
  if (stale.length === 0) return;
  const keys = stale.map((object) => object.key);
  for (const failure of (await bucket.removeEach(keys, deadline)).values()) throw failure;
}

/** Of the capabilities, those that are no conditions. */
const FORMS = new Set(['unquoted', 'digests']);

/** Assumed during the probe, so that every condition is sent. */
const assumed: Capabilities = {
  create: true,
  replace: true,
  unquoted: false,
  complete: true,
  copySource: true,
  digests: true,
};

/** Most rounds of probes. One in which no request failed counts. */
const ROUNDS_MAX = 5;
/** Seconds for finding out what a server keeps. Whoever needs to know it then tries again. */
const LEARNING_SECONDS = 60;
/** Milliseconds for which what was found out again is not asked for once more. */
const LEARNING_PAUSE_MS = 10_000;

/**
 * Has a bucket find out which conditions the provider keeps: before the first write, unless a mount
 * before has found them out, and again when the server contradicts what is known. It takes a few
 * requests on a key of our own that is removed afterwards.
 * @param learned is called whenever they were found out.
 */
export function learnWhenNeeded(
  bucket: Bucket,
  key: string,
  log: Logger,
  metrics: Metrics,
  learned: () => Promise<void>,
): void {
  let learning: Promise<void> | undefined;
  const learn = async (): Promise<void> => {
    const deadline = Deadline.after(LEARNING_SECONDS);
    bucket.capabilities = await agreed(bucket, key, log, metrics, deadline);
    complain(bucket.capabilities, log);
    await learned();
  };
  let learnedAgain = Number.NEGATIVE_INFINITY;
  bucket.learn = async (until) => {
    const isFirst = bucket.capabilities === undefined;
    if (!isFirst && performance.now() - learnedAgain < LEARNING_PAUSE_MS) return;
    // Others may wait for it too, longer than the one that asks first.
    learning ??= learn().finally(() => (learning = undefined));
    await until.wait(learning);
    if (isFirst) return;
    learnedAgain = performance.now();
    log.warn(
      { capabilities: bucket.capabilities },
      'the S3 server refused a condition that held: what it keeps was found out again',
    );
  };
}

/**
 * Writes a key of our own.
 * @param headers of the object
 * @returns what removes it.
 * @throws S3Failure if the bucket cannot be written so.
 */
export async function tryWriting(
  bucket: Bucket,
  key: string,
  deadline: Deadline,
  headers: CarriedHeaders,
): Promise<() => Promise<void>> {
  const scratch = `${key}-${randomUUID()}`;
  const ours = bucket.assuming(assumed);
  await ours.put(scratch, Buffer.from('probe'), { ...marked(), headers }, undefined, deadline);
  return () => ours.remove(scratch, deadline);
}

/**
 * A fact that was found out while requests failed may be none: rounds are repeated until one has
 * met no failure, or two say the same.
 */
async function agreed(
  bucket: Bucket,
  key: string,
  log: Logger,
  metrics: Metrics,
  deadline: Deadline,
): Promise<Capabilities> {
  const seen = new Set<string>();
  for (let round = 1; ; round++) {
    const before = metrics.passingFailures;
    const found = await roundOfProbes(bucket, `${key}-${randomUUID()}`, log, deadline);
    const text = JSON.stringify(found);
    if (metrics.passingFailures === before || seen.has(text) || round === ROUNDS_MAX) return found;
    seen.add(text);
  }
}

function complain(capabilities: Capabilities, log: Logger): void {
  const ignored = Object.entries(capabilities).filter(([name, has]) => !FORMS.has(name) && has === false);
  if (ignored.length === 0) return;
  log.warn(
    { ignored: ignored.map(([name]) => name) },
    'this S3 server ignores some conditions: between a look and a write another writer may come unnoticed',
  );
}

async function roundOfProbes(
  bucket: Bucket,
  scratch: string,
  log: Logger,
  deadline: Deadline,
): Promise<Capabilities> {
  const body = Buffer.from('probe');
  const put = (to: Bucket, condition: Condition): Promise<boolean> =>
    holds(() => to.put(scratch, body, marked(), condition, deadline));
  const probing = bucket.assuming(assumed);
  const refusing = bucket.assuming(assumed, 'believed');
  try {
    const { etag } = await probing.put(scratch, body, marked(), undefined, deadline);
    const digests = etag === createHash('md5').update(body).digest('hex');
    const create = !(await put(refusing, 'absent'));
    const wrong = { etag: '0'.repeat(32) };
    let replace = !(await put(refusing, wrong));
    let unquoted = false;
    if (replace && !(await put(probing, { etag }))) {
      unquoted = await put(bucket.assuming({ ...assumed, unquoted: true }), { etag });
      replace = unquoted;
    }
    const inForm = bucket.assuming({ ...assumed, create, replace, unquoted }, 'believed');
    const source = { key: scratch, etag: wrong.etag, size: 5, modified: 0, storageClass: undefined };
    const [copied, completed, refused] = await Promise.all([
      holds(() => inForm.copy(source, scratch, marked(), deadline)),
      create && completes(inForm, scratch, deadline),
      bucket.learnBeside(scratch, deadline),
    ]);
    if (refused.length > 0) log.warn({ refused }, REFUSED);
    return { create, replace, unquoted, complete: create && !completed, copySource: !copied, digests };
  } finally {
    await bucket.remove(scratch, deadline).catch(() => undefined);
  }
}

async function completes(bucket: Bucket, key: string, deadline: Deadline): Promise<boolean> {
  const content = marked();
  const upload = await bucket.createUpload(key, content, deadline);
  try {
    const part = await bucket.uploadPart(key, upload, 1, Buffer.from('probe'), deadline);
    return await holds(() => bucket.completeUpload(key, upload, [part], 5, content, 'absent', deadline));
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
