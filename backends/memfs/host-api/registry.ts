import { UsageError } from '../../../core/backend/index.js';
import type { MemfsVolume, VolumeSnapshot } from './volume.js';

/** Volumes and snapshots of this process by name; a name is one or the other. */
const volumes = new Map<string, MemfsVolume>();
const snapshots = new Map<string, VolumeSnapshot>();

/** @throws UsageError if the name is taken. */
export function checkFree(name: string): void {
  if (volumes.has(name) || snapshots.has(name)) {
    throw new UsageError(`memfs: ${name} is the name of another volume or snapshot`);
  }
}

/** Gives a volume a name. @throws UsageError if it is taken. */
export function register(name: string, volume: MemfsVolume): void {
  checkFree(name);
  volumes.set(name, volume);
}

/** Frees a volume's name. */
export function unregister(name: string): void {
  volumes.delete(name);
}

/** Gives a snapshot of a volume a name. @throws UsageError if it is taken. */
export function registerSnapshot(name: string, snapshot: VolumeSnapshot): void {
  checkFree(name);
  snapshots.set(name, snapshot);
}

/** Discards a snapshot. @returns whether there was one of that name. */
export function discardSnapshot(name: string): boolean {
  snapshots.get(name)?.discard();
  return snapshots.delete(name);
}

/** A volume by name. @throws UsageError if there is none. */
export function volumeNamed(name: string): MemfsVolume {
  const volume = volumes.get(name);
  if (volume === undefined)
    throw new UsageError(`memfs: ${name}: no such volume; ${known([...volumes.keys()])}`);
  return volume;
}

/** What a fork may begin as, by name. @throws UsageError if there is none. */
export function baseNamed(name: string): MemfsVolume | VolumeSnapshot {
  const base = volumes.get(name) ?? snapshots.get(name);
  if (base !== undefined) return base;
  throw new UsageError(
    `memfs: base ${name}: no such volume or snapshot; ${known([...volumes.keys(), ...snapshots.keys()])}`,
  );
}

/** Every name, with what it stands for. */
export function names(): readonly (readonly [name: string, what: MemfsVolume | VolumeSnapshot])[] {
  return [...volumes, ...snapshots];
}

function known(found: readonly string[]): string {
  return found.length === 0 ? 'none has a name yet' : `known are ${found.join(', ')}`;
}
