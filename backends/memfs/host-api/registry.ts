import { UsageError } from '../../../core/backend/index.js';
import type { MemfsVolume, VolumeSnapshot } from './volume.js';

/** Named volumes and snapshots of this process. No name is used twice. */
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

/** Removes a volume's name. */
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

/** The volume of a name. @throws UsageError if there is none. */
export function volumeNamed(name: string): MemfsVolume {
  const volume = volumes.get(name);
  if (volume === undefined)
    throw new UsageError(`memfs: ${name}: no such volume; ${known([...volumes.keys()])}`);
  return volume;
}

/** The volume or snapshot of a name, as the base of a fork. @throws UsageError if there is none. */
export function baseNamed(name: string): MemfsVolume | VolumeSnapshot {
  const base = volumes.get(name) ?? snapshots.get(name);
  if (base !== undefined) return base;
  throw new UsageError(
    `memfs: base ${name}: no such volume or snapshot; ${known([...volumes.keys(), ...snapshots.keys()])}`,
  );
}

/** Every name and its volume or snapshot. */
export function names(): readonly (readonly [name: string, what: MemfsVolume | VolumeSnapshot])[] {
  return [...volumes, ...snapshots];
}

function known(found: readonly string[]): string {
  return found.length === 0 ? 'none has a name yet' : `known are ${found.join(', ')}`;
}
