import type { MemfsVolume } from '../../backends/memfs/index.js';
import {
  differences,
  type HostChange,
  type HostFiles,
  type OverlayBackend,
} from '../../backends/overlay/index.js';

/** The files of a sandbox. */
export interface Files {
  readonly files: HostFiles;
  readonly overlay: OverlayBackend;
  readonly volume: MemfsVolume;
}

/**
 * Carries out here what a sandbox has changed since it began. Paths that nobody changed there stay
 * as they are here.
 * @returns what was carried out.
 */
export async function merge(from: Files, to: HostFiles): Promise<HostChange[]> {
  const done: HostChange[] = [];
  const remove = async (path: string): Promise<void> => {
    if (!(await to.exists(path))) return;
    await to.rm(path);
    done.push({ kind: 'removed', path });
  };
  const changed = new Map<string, HostChange['kind']>();
  // The layer in memory has names where the whole tree has them, and a mark where a name is gone.
  for (const { kind, path } of from.volume.changes()) {
    changed.set(path, kind);
    if (kind === 'removed' && !(await from.files.exists(path))) await remove(path);
  }
  /** A directory that was made there, with all that is in it. */
  let made = '//';
  for await (const { kind, path: relative, seen, replaces } of differences(from.overlay.union)) {
    const path = `/${relative}`;
    const change = changed.get(path);
    if (change === undefined && !path.startsWith(made)) continue;
    if (kind === 'removed') {
      await remove(path);
      continue;
    }
    const isMade = seen?.node.isDirectory === true && (kind === 'added' || replaces);
    if (change === 'added' && isMade && !path.startsWith(made)) {
      made = `${path}/`;
      // What was there has gone.
      if (replaces) await to.rm(path);
    }
    const isNew = !(await to.exists(path));
    await to.copyFrom(from.files, path);
    done.push({ kind: isNew ? 'added' : 'changed', path });
  }
  return done;
}
