import { readFileSync, statSync } from 'node:fs';
import type { NestedDirectoryJSON } from '@jsonjoy.com/fs-core';
import { FsError, type Logger, UsageError } from '../../../core/backend/index.js';
import { loadArchive } from './archive.js';
import { loadDirectory } from './directory.js';
import { TreeBuilder } from './tree-builder.js';
import type { Tree } from '../tree/tree.js';

/** Milliseconds between two log lines of progress. */
const INTERVAL_MS = 1000;

/** What can be filled: its tree, and memfs's own way in for a JSON volume. */
export interface LoadableVolume {
  readonly tree: Tree;
  fromNestedJSON(json: NestedDirectoryJSON, cwd: string): void;
}

/**
 * Fills a volume from a directory, a tar archive (gzipped or not), or a memfs JSON volume
 * (`*.json`). Progress is logged once a second.
 * @throws UsageError if the source does not exist, is damaged, or does not fit
 */
export async function load(volume: LoadableVolume, from: string, log: Logger): Promise<void> {
  const builder = new TreeBuilder(volume.tree);
  const started = performance.now();
  try {
    const stats = statSync(from);
    const tick = progress(builder, from, stats.isDirectory() ? undefined : stats.size, log);
    if (stats.isDirectory()) await loadDirectory(from, builder, () => tick(0));
    else if (/\.json$/i.test(from)) loadJson(volume, from);
    else await loadArchive(from, builder, tick);
    builder.finish();
  } catch (error) {
    throw new UsageError(`--from ${from}: ${explain(error)}`, { cause: error });
  }
  const { files, bytes } = builder;
  log.info({ from, files, bytes, milliseconds: Math.round(performance.now() - started) }, 'loaded');
}

function loadJson(volume: LoadableVolume, path: string): void {
  volume.fromNestedJSON(JSON.parse(readFileSync(path, 'utf8')) as NestedDirectoryJSON, '/');
}

function progress(
  builder: TreeBuilder,
  from: string,
  size: number | undefined,
  log: Logger,
): (read: number) => void {
  let last = performance.now();
  return (read) => {
    const now = performance.now();
    if (now - last < INTERVAL_MS) return;
    last = now;
    const { files, bytes } = builder;
    const percent = size === undefined ? {} : { percent: Math.floor((read / size) * 100) };
    log.info({ from, files, bytes, ...percent }, 'loading');
  };
}

function explain(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof FsError ? error.cause : error;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === 'ENOENT' && !(cause instanceof FsError)) return 'no such file or directory';
  if (code === 'ENOSPC') return 'does not fit; give more --size or --inodes';
  return (error as Error).message ?? message;
}
