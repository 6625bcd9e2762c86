import type { LastingContents, LastingMemory } from '../../../core/backend/accelerator.js';
import type { Logger } from '../../../core/backend/index.js';
import type { LogMemory } from '../../../core/lasting-memory/index.js';
import type { Arena, RegionMemory } from '../content/arena.js';
import type { Chunk } from '../content/chunk.js';
import { allInodes, emptyTree } from '../saved-state.js';
import type { Inode } from '../tree/inode.js';
import type { Tree } from '../tree/tree.js';
import { LOG_BYTES } from './records.js';
import { TreeRecorder } from './recorder.js';
import { replayVolume } from './replay.js';

/**
 * The memory is mapped in windows, most of them later or never. Each costs time and an entry in a
 * table of the process; but for one of 64 MiB V8 collects garbage, whoever owns its memory.
 */
const WINDOW_BYTES_MIN = 2 ** 25;
const WINDOW_BYTES_MAX = 2 ** 30;
const MAX_WINDOWS = 1024;

/** Bytes of a window, if so many bytes are to be mapped. */
function windowBytes(content: number): number {
  let bytes = WINDOW_BYTES_MIN;
  while (bytes < WINDOW_BYTES_MAX && content > bytes * MAX_WINDOWS) bytes *= 2;
  return bytes;
}

/** What the keys of a volume's inodes have in common. */
export interface Keys {
  generation: number;
}

/** Keeps a volume in memory that outlives the process: its log, and behind that its content. */
export class VolumeContents implements LastingContents {
  readonly bytes: number;
  /** Called where a volume cannot be recovered. It is not used any more. */
  onLost: (() => void) | undefined;
  readonly #tree: Tree;
  readonly #keys: Keys;
  #log: LogMemory | undefined;
  #recorder: TreeRecorder | undefined;

  constructor(tree: Tree, keys: Keys) {
    this.#tree = tree;
    this.#keys = keys;
    const content = Math.min(tree.arena.maxBytes, WINDOW_BYTES_MAX * MAX_WINDOWS);
    const unit = windowBytes(content);
    this.bytes = LOG_BYTES + Math.ceil(content / unit) * unit;
  }

  /** Whether the volume is kept now. */
  get isKept(): boolean {
    return this.#recorder !== undefined;
  }

  begin(memory: LastingMemory): boolean {
    const tree = this.#tree;
    // What others share would have to be kept with its owners.
    if (!tree.history.isAlone) return false;
    const windows = new Windows(memory);
    const arena = this.#arena(windows);
    const inodes = allInodes(tree);
    const moved = new Set<Chunk>();
    for (const { content } of inodes) {
      for (const [, chunk] of content?.chunks() ?? []) {
        if (!moved.has(chunk)) chunk.relocate(tree.arena, arena);
        moved.add(chunk);
      }
    }
    tree.arena = arena;
    this.#log = logIn(memory);
    this.#record(inodes).begin();
    return true;
  }

  recover(memory: LastingMemory): void {
    const tree = this.#tree;
    try {
      const log = logIn(memory);
      const volume = replayVolume(log);
      if (volume.end > memory.bytes) throw new RangeError('memfs log: content outside of its memory');
      emptyTree(tree);
      const windows = new Windows(memory);
      const used = new Set(Array.from(volume.offsets, (offset) => windows.indexOf(offset)));
      const regions = Array.from(used, (index) => windows.map(index));
      windows.discardOthers();
      const inodes = volume.fill(tree, this.#arena(windows), regions);
      this.#keys.generation = volume.generation;
      this.#log = log;
      this.#record(inodes);
    } catch (error) {
      this.onLost?.();
      throw error;
    }
  }

  recovered(): void {
    const tree = this.#tree;
    for (const orphan of tree.orphans) tree.reap(orphan);
    tree.commit();
  }

  /** To be called when the volume is mounted. */
  mounted(log: Logger): void {
    if (this.#recorder !== undefined) this.#recorder.logger = log;
  }

  /** An inode by its number, where the volume is kept. */
  inode(ino: number): Inode | undefined {
    return this.#recorder?.inodes.get(ino);
  }

  /** Has `change` fill the tree with something else. */
  replace(change: () => void): void {
    const recorder = this.#recorder;
    recorder?.end();
    this.#tree.recorder = undefined;
    change();
    if (recorder !== undefined) this.#record(allInodes(this.#tree)).begin();
  }

  #record(inodes: Iterable<Inode>): TreeRecorder {
    const tree = this.#tree;
    const before = this.#recorder;
    const recorder = new TreeRecorder(tree, this.#log!, inodes, () => this.#keys.generation);
    recorder.logger = before?.logger;
    this.#recorder = recorder;
    tree.recorder = recorder;
    tree.arena.recorder = recorder;
    return recorder;
  }

  #arena(windows: Windows): Arena {
    const arena = this.#tree.arena.sibling();
    arena.source = () => windows.mapNext();
    return arena;
  }
}

function logIn(memory: LastingMemory): LogMemory {
  const { bytes } = memory.map(0, LOG_BYTES);
  return {
    words: new Int32Array(bytes.buffer, bytes.byteOffset, LOG_BYTES >>> 2),
    discard: (from, to) => memory.discard(from * 4, to * 4),
  };
}

/** The part of the memory that is behind the log, in windows of one length. */
class Windows {
  readonly #memory: LastingMemory;
  readonly #bytes: number;
  readonly #isMapped: boolean[];

  constructor(memory: LastingMemory) {
    this.#memory = memory;
    this.#bytes = windowBytes(memory.bytes - LOG_BYTES);
    const count = Math.floor((memory.bytes - LOG_BYTES) / this.#bytes);
    this.#isMapped = Array.from({ length: count }, () => false);
  }

  indexOf(offset: number): number {
    return Math.floor((offset - LOG_BYTES) / this.#bytes);
  }

  map(index: number): RegionMemory {
    const offset = LOG_BYTES + index * this.#bytes;
    const { bytes, close } = this.#memory.map(offset, this.#bytes);
    this.#isMapped[index] = true;
    return {
      bytes,
      offset,
      discard: (start, end) => this.#memory.discard(offset + start, offset + end),
      close: () => {
        this.#isMapped[index] = false;
        this.#memory.discard(offset, offset + this.#bytes);
        close();
      },
    };
  }

  /** @throws RangeError if all are mapped. */
  mapNext(): RegionMemory {
    const index = this.#isMapped.indexOf(false);
    if (index < 0) throw new RangeError('memfs: all of its memory is in use');
    return this.map(index);
  }

  /** Gives back what a former process had in windows that are not mapped. */
  discardOthers(): void {
    for (let i = 0; i < this.#isMapped.length; i++) {
      const first = i;
      while (i < this.#isMapped.length && !this.#isMapped[i]!) i++;
      const at = (index: number): number => LOG_BYTES + index * this.#bytes;
      if (i > first) this.#memory.discard(at(first), at(i));
    }
  }
}
