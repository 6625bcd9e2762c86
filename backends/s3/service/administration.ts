import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { UsageError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import { askSocket, type CommandRequest } from '../../../core/control/index.js';
import { Bucket } from '../client/bucket.js';
import { Deadline } from '../client/deadline.js';
import { Metrics } from '../client/metrics.js';
import { Requests } from '../client/requests.js';
import { Intents } from '../journal/intents.js';
import { KeyMap } from '../objects/keys.js';
import { explained } from './start-errors.js';
import { controlPath, MountedBucket } from './mounted-bucket.js';
import type { S3Options } from '../options.js';
import { Staged } from '../journal/staged.js';
import type { Recovered } from '../journal/staged.js';

/** A file's journal, as found in a cache folder. */
export interface JournalReport {
  readonly id: string;
  /** Path below the root; undefined if the file was removed. */
  readonly path: string | undefined;
  readonly size: number;
  readonly damaged: boolean;
  /** Bytes of the journal that can not be read, if it is damaged. */
  readonly unreadable: number;
}

/** The state of a cache folder. */
export interface FolderReport {
  readonly folder: string;
  /** Whether a process has it mounted. */
  readonly mounted: boolean;
  /** That process's answer to `status`. */
  readonly running: Record<string, unknown> | undefined;
  /** Data that the bucket does not have yet. */
  readonly journals: readonly JournalReport[];
  /** Data that was kept aside: another writer came first, or the journal is damaged. */
  readonly aside: readonly JournalReport[];
  /** Changes of several requests that are in progress or were interrupted. */
  readonly intents: readonly string[];
}

/** Reads the state of a cache folder without changing it, mounted or not. */
export async function status(folder: string): Promise<FolderReport> {
  const names = await readdir(folder).catch((): string[] => []);
  if (!names.includes('staging')) throw new UsageError(`${folder}: no cache folder of an s3 mount`);
  const running = await runningStatus(folder);
  const intents = await new Intents(join(folder, 'intents')).list();
  return {
    folder,
    mounted: running !== undefined,
    running,
    journals: await journals(join(folder, 'staging')),
    aside: await journals(join(folder, 'conflicts')),
    intents: intents.map(({ intent }) => JSON.stringify(intent)),
  };
}

async function journals(folder: string): Promise<JournalReport[]> {
  const reports: JournalReport[] = [];
  for (const { id, found } of await open(folder)) {
    const { path, staged, damaged, unreadable } = found;
    reports.push({ id, path, size: staged.size, damaged, unreadable });
    await found.staged.close();
  }
  return reports;
}

async function open(folder: string): Promise<{ id: string; found: Recovered }[]> {
  const opened: { id: string; found: Recovered }[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.endsWith('.log')) continue;
    const id = name.slice(0, -4);
    // A running mount may remove the journal in between.
    const found = await Staged.inspect(join(folder, name), id).catch(() => undefined);
    if (found !== undefined) opened.push({ id, found });
  }
  return opened;
}

/** What the process says that has a cache folder mounted; undefined if there is none. */
async function runningStatus(folder: string): Promise<Record<string, unknown> | undefined> {
  const request: CommandRequest = { backend: 's3', command: 'status', options: {} };
  const lines = await askSocket(controlPath(folder), request);
  return lines === undefined ? undefined : (JSON.parse(lines.join('\n')) as Record<string, unknown>);
}

/** Uploads what a dead process left in its cache folder, and finishes its renames. */
export async function recover(options: S3Options, log: Logger): Promise<FolderReport> {
  const mounted = await MountedBucket.start({ ...options, readOnly: false }, log);
  try {
    await mounted.files.writeback.flush();
  } finally {
    await mounted.stop();
  }
  return status(mounted.folder);
}

/** An upload that was left in the bucket. */
export interface SweptUpload {
  readonly key: string;
  readonly id: string;
  /** When it began, in ISO 8601. */
  readonly began: string;
}

/**
 * Aborts the multipart uploads below the prefix that are of a certain age: their parts are paid
 * for, and no listing shows them.
 * @param hours an upload that is younger may be under way, here or elsewhere
 * @param isTrial whether they are only named
 * @throws UsageError if the server can't be used.
 */
export async function sweepUploads(
  options: S3Options,
  hours: number,
  isTrial: boolean,
  log: Logger,
): Promise<SweptUpload[]> {
  const metrics = new Metrics();
  const requests = new Requests(options, log, metrics);
  const bucket = new Bucket(options, requests, metrics, log);
  const deadline = (): Deadline => Deadline.after(options.operationTimeout);
  const until = Date.now() - hours * HOUR_MS;
  const swept: SweptUpload[] = [];
  try {
    for await (const { key, id, initiated } of bucket.uploadsBelow(
      new KeyMap(options.prefix).directory(''),
      deadline,
    )) {
      if (initiated > until) continue;
      if (!isTrial) await bucket.abortUpload(key, id, deadline());
      swept.push({ key, id, began: new Date(initiated).toISOString() });
    }
    return swept;
  } catch (error) {
    throw explained(error, options);
  } finally {
    requests.close();
  }
}

const HOUR_MS = 3_600_000;

/** A plain file made from a journal that was kept aside. */
export interface Exported {
  readonly file: string;
  readonly path: string | undefined;
  /**
   * Bytes that were accepted and are not in the file: zeros there, since an object had them that is
   * gone, or unreadable in the journal.
   */
  readonly missing: number;
  readonly damaged: boolean;
}

/**
 * Writes what was kept aside as plain files, named by the journal's id. `remove` deletes the
 * journals.
 * @param target folder for the files; created if it does not exist.
 */
export async function exportAside(folder: string, target: string, remove: boolean): Promise<Exported[]> {
  await mkdir(target, { recursive: true });
  const exported: Exported[] = [];
  for (const { id, found } of await open(join(folder, 'conflicts'))) {
    const { staged, path, damaged, unreadable } = found;
    const file = join(target, id);
    const missing = unreadable + (await write(staged, file));
    await staged.close();
    if (remove) await unlink(join(folder, 'conflicts', `${id}.log`));
    exported.push({ file, path, missing, damaged });
  }
  return exported;
}

async function write(staged: Staged, file: string): Promise<number> {
  const stream = createWriteStream(file, { mode: 0o600 });
  const failed = new Promise<never>((_, reject) => stream.once('error', reject));
  let missing = 0;
  for (const piece of staged.pieces(0, staged.size)) {
    for (let at = piece.start; at < piece.end; at += CHUNK_BYTES) {
      const bytes = Buffer.alloc(Math.min(CHUNK_BYTES, piece.end - at));
      if (piece.source === 'log') await staged.log.read(piece.position + at - piece.start, bytes);
      if (!stream.write(bytes)) await Promise.race([failed, once(stream, 'drain')]);
    }
    if (piece.source === 'gap') missing += Math.max(0, Math.min(piece.end, staged.baseLimit) - piece.start);
  }
  await Promise.race([failed, new Promise<void>((resolve) => stream.end(resolve))]);
  return missing;
}

const CHUNK_BYTES = 2 ** 20;
