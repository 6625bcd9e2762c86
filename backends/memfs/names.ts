import { UsageError } from '../../core/backend/index.js';
import type { MemfsVolume } from './volume.js';

const volumes = new Map<string, MemfsVolume>();

/** Gives a volume a name in this process. @throws UsageError if another has it. */
export function register(name: string, volume: MemfsVolume): void {
  if (volumes.has(name)) throw new UsageError(`backend memfs: name ${name}: another volume has it`);
  volumes.set(name, volume);
}

/** Frees a name. */
export function unregister(name: string): void {
  volumes.delete(name);
}

/** A volume by name. @throws UsageError if there is none. */
export function named(name: string): MemfsVolume {
  const volume = volumes.get(name);
  if (volume !== undefined) return volume;
  const known =
    volumes.size === 0 ? 'no volume has a name yet' : `known are ${[...volumes.keys()].join(', ')}`;
  throw new UsageError(`backend memfs: base ${name}: no such volume; ${known}; list its export first`);
}
