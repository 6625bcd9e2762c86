import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { UsageError } from '../backend/index.js';
import { HeldMount, MountError, mountPoint } from '../mount/index.js';
import { isAtOrBelow } from '../system/index.js';
import { needsOf } from './backend-needs.js';
import type { HostMountOptions } from './mount.js';
import { kindOf } from './backend-source.js';

/** What to mount on this host, for other processes to serve, and where. */
export type KeptMountOptions = Pick<
  HostMountOptions,
  'directory' | 'backend' | 'folder' | 'registry' | 'readOnly' | 'allowOther'
>;

/**
 * Where a mount will be that other processes serve, without symbolic links.
 * @throws UsageError for a directory that is none, or where such a process would wait for itself.
 */
export async function keptMountPoint({
  directory,
  backend,
  folder,
  registry,
}: KeptMountOptions): Promise<string> {
  const place = await saying(() => mountPoint(directory));
  const needs = await needsOf({ exports: [{ backend }], folder }, registry).catch(() => undefined);
  // What is wrong with the options is told by who makes the backend of them.
  if (needs === undefined || typeof needs === 'string') return place;
  for (const { path } of needs.paths) {
    const real = await realpath(path).catch(() => resolve(path));
    if (!isAtOrBelow(real, place) && !isAtOrBelow(place, real)) continue;
    throw new UsageError(
      `${directory}: with --keep, what the backend uses (${path}) and the mount must not lie in one another: ` +
        'an engine that starts anew would wait for itself; choose another directory',
    );
  }
  return place;
}

/**
 * Mounts, for others to serve.
 * @param place as {@link keptMountPoint} gives it.
 * @throws UsageError
 */
export function holdMount(
  place: string,
  { backend, readOnly = false, allowOther }: KeptMountOptions,
): Promise<HeldMount> {
  const kind = kindOf(backend);
  const flags = { readOnly, ...(allowOther === undefined ? {} : { allowOther }) };
  return saying(() => HeldMount.open(place, `virtiofs-kit:${kind}`, flags));
}

async function saying<T>(make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } catch (error) {
    throw error instanceof MountError ? new UsageError(error.message, { cause: error }) : error;
  }
}
