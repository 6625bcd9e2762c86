import type { DirectoryJSON } from '@jsonjoy.com/fs-core';
import { Volume } from 'memfs';
import type { Logger } from '../../../core/backend/index.js';
import { heapLimit, memoryLimit } from '../../../core/backend/limits.js';
import { addLayer, saveArchive } from '../import/archive.js';
import { Arena } from '../content/arena.js';
import { MemfsBackend } from '../backend.js';
import { defaultInodes, defaultSize, type VolumeLimits } from '../limits.js';
import { type Change, changes } from '../tree/changes.js';
import { PAGE_BYTES } from '../content/chunk.js';
import { load } from '../import/load.js';
import type { Snapshot } from '../tree/snapshot.js';
import { Space } from '../tree/space.js';
import { HeapBudget } from '../tree/heap-share.js';
import { TreeSuperblock } from './superblock.js';
import { Tree } from '../tree/tree.js';

const silent = (): void => undefined;
const SILENT: Logger = { debug: silent, info: silent, warn: silent, error: silent };

/**
 * The arena for the content of all volumes of this process. What says where that is takes at most a
 * quarter of the heap.
 */
const arena = new Arena(memoryLimit() * 0.8, heapLimit / 4);

/** Inodes, names, targets of symbolic links and extended attributes of all volumes. */
const heap = new HeapBudget(heapLimit / 2);

/** Bytes of content of all volumes of this process: in use, and taken from the system. */
export function memoryInUse(): { readonly used: number; readonly taken: number } {
  return { used: arena.blockBytes, taken: arena.slabBytes };
}

/**
 * A file system in memory: a memfs `Volume` for the host program and, as {@link backend}, an export
 * for guests, at the same time if wanted. Each sees the other's changes (a guest when its caches
 * expire). memfs's own permission checks do not apply; the host program acts as root. memfs shows
 * times in milliseconds and `blocks` as 1.
 */
export class MemfsVolume extends Volume {
  /** The files themselves, which the backend and this API share. */
  readonly tree: Tree;
  /** What to serve: `serve({ socket, backend: volume.backend })`. */
  readonly backend: MemfsBackend;

  /** @param origin the snapshot that the volume is forked from: see {@link VolumeSnapshot.fork}. */
  constructor({ size = defaultSize(), inodes = defaultInodes() }: VolumeLimits = {}, origin?: Snapshot) {
    const tree = new Tree(
      origin?.tree.arena ?? arena,
      new Space(Math.ceil(size / PAGE_BYTES), inodes, heap),
      origin,
    );
    const superblock = new TreeSuperblock(tree);
    super(superblock);
    this.tree = tree;
    this.backend = new MemfsBackend(tree);
    superblock.changed = (directory, change) => this.backend.changed(directory, change);
  }

  static override fromJSON(json: DirectoryJSON, cwd = '/'): MemfsVolume {
    const volume = new MemfsVolume();
    volume.fromJSON(json, cwd);
    return volume;
  }

  /** Takes a snapshot, in constant time and memory. Guests may continue to use the volume. */
  snapshot(): VolumeSnapshot {
    return new VolumeSnapshot(this.tree, this.tree.history.snapshot());
  }

  /**
   * Makes another volume that starts as a copy of this one. They share memory until one of them
   * changes it.
   */
  fork(limits?: VolumeLimits): MemfsVolume {
    const snapshot = this.snapshot();
    const fork = snapshot.fork(limits);
    snapshot.discard();
    return fork;
  }

  /**
   * Fills the volume from a directory, a tar archive (gzipped or not) or a memfs JSON volume
   * (`*.json`).
   * @param log gets the progress, once a second.
   * @throws UsageError if the source does not exist, is damaged, or does not fit.
   */
  load(from: string, log: Logger = SILENT): Promise<void> {
    return load(this, from, log);
  }

  /**
   * Adds a layer of a container image: a tar archive in which `.wh.NAME` removes what was NAME
   * before, and `.wh..wh..opq` in a directory all that was in it (OCI image specification,
   * "layer.md").
   * @throws TarError for an archive that is damaged, or leads out of the volume; FsError.
   */
  addLayer(archive: AsyncIterable<Uint8Array>): Promise<void> {
    return addLayer(archive, this.tree);
  }

  /**
   * Writes the current state into a tar archive, gzipped if the name ends in `gz`. The file appears
   * when it is complete. Guests may continue meanwhile.
   * @throws what node:fs throws.
   */
  async save(path: string): Promise<void> {
    const fork = this.fork();
    try {
      await saveArchive(path, fork.tree);
    } finally {
      fork.discard();
    }
  }

  /**
   * The differences from the snapshot that a fork started from, by path; for a volume that is no
   * fork, everything. Parts that were never used are skipped. A renamed file appears as removed and
   * added.
   */
  changes(): Iterable<Change> {
    return changes(this.tree);
  }

  /**
   * Frees the volume's memory, except for what its snapshots and their forks need. The volume must
   * not be used any more.
   */
  discard(): void {
    this.tree.history.discard();
  }
}

/** A volume as it was at one moment. */
export class VolumeSnapshot {
  readonly #tree: Tree;
  readonly #snapshot: Snapshot;

  /** For {@link MemfsVolume.snapshot}. */
  constructor(tree: Tree, snapshot: Snapshot) {
    this.#tree = tree;
    this.#snapshot = snapshot;
  }

  /**
   * Makes a volume that starts as a copy of the snapshot. Files are copied when they change,
   * directories when they are used.
   */
  fork(limits?: VolumeLimits): MemfsVolume {
    const { maxPages, maxInodes } = this.#tree.space;
    return new MemfsVolume({ size: maxPages * PAGE_BYTES, inodes: maxInodes, ...limits }, this.#snapshot);
  }

  /** Discards the snapshot. Its forks live on. */
  discard(): void {
    this.#tree.history.discardSnapshot(this.#snapshot);
  }
}
