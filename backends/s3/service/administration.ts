import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { UsageError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import { ask } from './control.js';
import { Intents } from '../journal/intents.js';
import { defaultFolder, Mounted } from './mounted.js';
import { optionsSchema } from '../options.js';
import type { S3Options } from '../options.js';
import { Staged } from '../journal/staged.js';
import type { Recovered } from '../journal/staged.js';

/** A file's journal, as found in a cache folder. */
export interface JournalReport {
  readonly id: string;
  /** Below the root; nothing where the file was removed. */
  readonly path: string | undefined;
  readonly size: number;
  readonly damaged: boolean;
}

/** What a cache folder holds. */
export interface FolderReport {
  readonly folder: string;
  /** A process has it mounted. */
  readonly mounted: boolean;
  /** What that process says. */
  readonly running: Record<string, unknown> | undefined;
  /** Data that the bucket does not have yet. */
  readonly journals: readonly JournalReport[];
  /** Data that lost a race or is damaged, kept aside. */
  readonly aside: readonly JournalReport[];
  /** Changes of several requests that are under way, or were interrupted. */
  readonly intents: readonly string[];
}

/** The cache folder that options mean. */
export function folderOf(options: Pick<S3Options, 'cacheDir' | 'bucket' | 'prefix' | 'endpoint'>): string {
  return options.cacheDir ?? defaultFolder(options);
}

/** Reads a cache folder; changes nothing, whether or not it is mounted. */
export async function status(folder: string): Promise<FolderReport> {
  const names = await readdir(folder).catch((): string[] => []);
  if (!names.includes('staging')) throw new UsageError(`${folder}: no cache folder of an s3 mount`);
  const running = await ask(folder, 'status');
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
    reports.push({ id, path: found.path, size: found.staged.size, damaged: found.damaged });
    await found.staged.close();
  }
  return reports;
}

async function open(folder: string): Promise<{ id: string; found: Recovered }[]> {
  const opened: { id: string; found: Recovered }[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.endsWith('.log')) continue;
    const id = name.slice(0, -4);
    // A journal may end, and be gone, while we look.
    const found = await Staged.inspect(join(folder, name), id).catch(() => undefined);
    if (found !== undefined) opened.push({ id, found });
  }
  return opened;
}

/**
 * Has the process that has the folder mounted upload everything.
 * @throws UsageError where there is none.
 */
export async function flush(folder: string): Promise<Record<string, unknown>> {
  const answer = await ask(folder, 'flush');
  if (answer === undefined) {
    throw new UsageError(
      `${folder}: not mounted; "virtiofs-kit s3 recover" uploads what a dead process left`,
    );
  }
  return answer;
}

/** Uploads what a dead process left in its cache folder, and finishes its renames. */
export async function recover(options: unknown, log: Logger): Promise<FolderReport> {
  const checked = optionsSchema.parse(options);
  const mounted = await Mounted.start({ ...checked, readOnly: false }, log);
  try {
    await mounted.files.writeback.flush();
  } finally {
    await mounted.stop();
  }
  return status(mounted.folder);
}

/** A file written from a journal that was kept aside. */
export interface Exported {
  readonly file: string;
  readonly path: string | undefined;
  /** Bytes that were never in the journal but in an object that is gone: zeros in the file. */
  readonly missing: number;
}

/**
 * Writes what was kept aside as plain files, `ID` each, and removes it from the folder if `remove`.
 * @param target folder, made if it is not there.
 */
export async function exportAside(folder: string, target: string, remove: boolean): Promise<Exported[]> {
  await mkdir(target, { recursive: true });
  const exported: Exported[] = [];
  for (const { id, found } of await open(join(folder, 'conflicts'))) {
    const { staged, path } = found;
    const file = join(target, id);
    const missing = await write(staged, file);
    await staged.close();
    if (remove) await unlink(join(folder, 'conflicts', `${id}.log`));
    exported.push({ file, path, missing });
  }
  return exported;
}

async function write(staged: Staged, file: string): Promise<number> {
  const stream = createWriteStream(file, { mode: 0o600 });
  const failed = new Promise<never>((_, reject) => stream.once('error', reject));
  let missing = 0;
  for (const piece of staged.pieces(0, staged.size)) {
    for (let at = piece.start; at < piece.end; at += CHUNK) {
      const bytes = Buffer.alloc(Math.min(CHUNK, piece.end - at));
      if (piece.source === 'log') await staged.log.read(piece.position + at - piece.start, bytes);
      if (!stream.write(bytes)) await Promise.race([failed, once(stream, 'drain')]);
    }
    if (piece.source === 'gap') missing += Math.max(0, Math.min(piece.end, staged.baseLimit) - piece.start);
  }
  await Promise.race([failed, new Promise<void>((resolve) => stream.end(resolve))]);
  return missing;
}

const CHUNK = 2 ** 20;
