import { readdir, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { WRITE_MARK } from '../objects/attributes.js';
import { parallel } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import type { Files } from '../write/files.js';
import { removeUnchanged } from '../write/removals.js';
import type { Intent, Intents } from './intents.js';
import { RemovalLog } from './removal-log.js';
import type { Removal } from './removal-log.js';
import type { Recovered } from './staged.js';
import type { Renames } from '../tree/rename.js';
import type { Services } from '../service/services.js';
import { REWRITTEN_SUFFIX, Staged } from './staged.js';
import { pathOf } from '../tree/nodes.js';
import type { Traces } from '../tree/last-seen.js';
import type { Tree } from '../tree/tree.js';

const DAMAGED = 'journal is damaged: kept aside; see "virtiofs-kit s3 status"';
const UNDER_LOST_LEASE =
  'journal of a process whose lease was lost: kept aside; see "virtiofs-kit s3 status"';

/** Milliseconds by which the clocks of server and client may differ. */
const CLOCK_SKEW_MS = 60_000;

/** Journals for which the bucket is asked at a time. */
const JOURNALS_AT_ONCE = 16;

/** How names of logs under rewriting ended in earlier versions. */
const FORMERLY_REWRITTEN = '.new.log';

/** The parts of a mounted bucket that take up what a crash interrupted. */
export interface MountedParts {
  readonly services: Services;
  readonly tree: Tree;
  readonly files: Files;
  readonly renames: Renames;
  readonly intents: Intents;
}

/**
 * Finishes what a crash interrupted. Intents come first, then journals: their files are in the tree
 * again, with what was staged, and are uploaded. A damaged journal is kept aside, never uploaded in
 * part.
 * @param traces of the nodes that guests know, where a process was killed. What is open stays.
 * @param isLeaseLost whether others may have locked since what was written here under locks: all
 * journals are kept aside.
 */
export async function recover(
  mounted: MountedParts,
  folder: string,
  traces: Traces,
  isLeaseLost = false,
): Promise<void> {
  const { log } = mounted.services;
  const moved = new Map<string, string>();
  /** ETags of files that were renamed in the bucket, by the path that they had. */
  const renamed = new Map<string, string>();
  const replaced = new Set<string>();
  for (const { id, intent } of await mounted.intents.list()) {
    if (intent.type === 'hidden' && traces.keepHidden(id, intent.key)) continue;
    await finish(mounted, intent, moved, renamed, replaced);
    await mounted.intents.end(id);
    log.info({ intent }, 'interrupted change finished');
  }
  for await (const { path, removals } of RemovalLog.left(join(folder, 'intents'))) {
    await finishRemovals(mounted, removals, () => unlink(path));
  }
  const staging = join(folder, 'staging');
  const journals: Recovered[] = [];
  for (const name of await readdir(staging)) {
    const path = join(staging, name);
    if (name.endsWith(`.log${REWRITTEN_SUFFIX}`) || name.endsWith(FORMERLY_REWRITTEN)) {
      // The journal that it was to replace is still there.
      await unlink(path);
      continue;
    }
    if (!name.endsWith('.log')) continue;
    const id = name.slice(0, -4);
    const found = await Staged.recover(path, id);
    if (found === undefined) continue;
    const isLost = isLeaseLost && found.path !== undefined;
    if (found.damaged || isLost) {
      await found.staged.close();
      const aside = join(folder, 'conflicts', name);
      await rename(path, aside);
      mounted.files.losses.add(found.path ?? '', false);
      const fields = { path: found.path, aside };
      log.error(fields, isLost ? UNDER_LOST_LEASE : DAMAGED);
      continue;
    }
    journals.push(found);
    for (const other of found.replaces) replaced.add(other);
  }
  const left: Recovered[] = [];
  await parallel(journals, JOURNALS_AT_ONCE, async (found) => {
    const isReplaced = replaced.has(found.staged.id);
    if (isReplaced && !traces.keepJournal(found.staged)) return found.staged.retire();
    // Before anything goes up: it may be at the key of another journal's file.
    await clear(mounted, found);
    left.push(isReplaced ? { ...found, path: undefined } : found);
  });
  await parallel(left, JOURNALS_AT_ONCE, async (found) => {
    const was = renamed.get(found.path ?? '');
    // A file that was made since at the name is another one.
    const isOther = was !== undefined && found.staged.base?.etag !== was;
    await resumeJournal(mounted, found, isOther ? new Map() : moved, traces);
  });
  await traces.settle(mounted, moved);
}

/**
 * Removes what is still there of what was to go: other objects at their keys stay. None of them
 * keeps the mount from starting.
 * @param over called when nothing of them is to be removed any more.
 */
async function finishRemovals(
  mounted: MountedParts,
  removals: readonly Removal[],
  over: () => Promise<void>,
): Promise<void> {
  const { bucket, log, pendingDeletes } = mounted.services;
  const { failed } = await removeUnchanged(bucket, removals, () => deadline(mounted));
  const waiting: Removal[] = [];
  for (const removal of removals) {
    const failure = failed.get(removal.key);
    if (failure === undefined) continue;
    if (failure.transient) waiting.push(removal);
    else log.error({ key: removal.key, error: failure.message }, 'a removed file is there again: not let go');
  }
  if (waiting.length > 0) {
    log.warn({ keys: waiting.length }, 'removed files are not gone yet');
    // Kept from sight and from being written, so that the notes still tell what was removed.
    await pendingDeletes.remove(waiting, over);
    return;
  }
  await over();
  log.info({ removals: removals.length }, 'interrupted removals finished');
}

function deadline(mounted: MountedParts): Deadline {
  return Deadline.after(mounted.services.options.operationTimeout);
}

async function finish(
  mounted: MountedParts,
  intent: Intent,
  moved: Map<string, string>,
  renamed: Map<string, string>,
  replaced: Set<string>,
): Promise<void> {
  const { bucket, keys } = mounted.services;
  switch (intent.type) {
    case 'hidden':
      await bucket.remove(intent.key, deadline(mounted));
      break;
    case 'rename-file': {
      const copy = await bucket.head(keys.file(intent.to), deadline(mounted));
      // Without the copy nothing has happened. With it the original is deleted, unless another
      // writer has made a new one.
      if (copy?.metadata[WRITE_MARK] !== intent.mark) break;
      const original = await bucket.head(keys.file(intent.from), deadline(mounted));
      if (original?.etag === intent.etag) await bucket.remove(original.key, deadline(mounted));
      moved.set(intent.from, intent.to);
      renamed.set(intent.from, intent.etag);
      if (intent.replaces !== undefined) replaced.add(intent.replaces);
      break;
    }
    case 'rename-directory': {
      const { renames } = mounted;
      if (intent.phase === 'undo') {
        await renames.deleteCopied(intent.to, intent.from);
        break;
      }
      if (intent.phase === 'delete') await renames.deleteCopied(intent.from, intent.to);
      else await renames.deleteAll((await renames.copyBelow(intent.from, intent.to)).originals);
      moved.set(intent.from, intent.to);
      break;
    }
  }
}

/** The path after the renames: it, or a directory above it, may have moved. */
function movedPath(path: string, moved: ReadonlyMap<string, string>): string {
  for (const [from, to] of moved) {
    if (path === from || path.startsWith(`${from}/`)) return to + path.slice(from.length);
  }
  return path;
}

/** Removes what a journal's file has left in the bucket: uploads, and what is at an old name. */
async function clear(mounted: MountedParts, found: Recovered): Promise<void> {
  const { bucket } = mounted.services;
  for (const upload of found.uploads) await abandon(mounted, upload);
  for (const { key, etag } of found.obsolete) {
    const object = await bucket.head(key, deadline(mounted));
    if (object?.etag === etag) await bucket.remove(key, deadline(mounted));
  }
}

async function resumeJournal(
  mounted: MountedParts,
  found: Recovered,
  moved: ReadonlyMap<string, string>,
  traces: Traces,
): Promise<void> {
  const { bucket, keys, log } = mounted.services;
  const { staged } = found;
  if (found.path === undefined) {
    if (!traces.keepJournal(staged)) await staged.retire();
    return;
  }
  const path = movedPath(found.path, moved);
  const key = keys.file(path);
  // An upload of this journal, or the rename, may have succeeded although its answer was lost.
  // Where nothing is read from the bucket, that is found out by the next upload.
  if (staged.base === undefined && path === found.path) staged.attempted = true;
  else {
    const isOurs = await mounted.files.recogniseOwnUpload(staged, key);
    if (!isOurs && path !== found.path && staged.base !== undefined) {
      const copy = await bucket.head(key, deadline(mounted));
      if (copy !== undefined) await staged.place(path, copy, { etag: copy.etag });
    }
  }
  const slash = path.lastIndexOf('/');
  const parent = mounted.tree.assumeDirectory(path.slice(0, Math.max(0, slash)));
  const node = mounted.tree.create(parent, path.slice(slash + 1), staged.posix);
  node.forgotten = true;
  mounted.files.attachJournal(node, staged);
  node.version.object = staged.base;
  mounted.files.writeback.schedule(node, 0);
  log.info({ path: pathOf(node), bytes: staged.log.size }, 'journal found: its file goes up');
}

/**
 * Aborts a multipart upload that the crash left behind. If the answer to its creation was lost, it
 * is identified by key and time.
 */
async function abandon(
  mounted: MountedParts,
  upload: { readonly key: string; readonly id: string | undefined; readonly at: number },
): Promise<void> {
  const { bucket } = mounted.services;
  if (upload.id !== undefined) return bucket.abortUpload(upload.key, upload.id, deadline(mounted));
  for (const found of await bucket.uploadsOf(upload.key, deadline(mounted))) {
    if (found.initiated >= upload.at - CLOCK_SKEW_MS) {
      await bucket.abortUpload(upload.key, found.id, deadline(mounted));
    }
  }
}
