import type { Logger } from '../../../core/backend/index.js';
import { Compaction, putText, putWide, RecordLog, textWords } from '../../../core/lasting-memory/index.js';
import type { LogMemory } from '../../../core/lasting-memory/index.js';
import type { ContentRecorder, RecordedChunk } from '../content/arena.js';
import type { Inode } from '../tree/inode.js';
import type { Recorder, Tree } from '../tree/tree.js';
import { BLOCK_UNIT, LOG_BYTES, RecordType, VOLUME_LOG, WORDS } from './records.js';

/**
 * Writes every change of a tree to a log in memory that outlives the process. The records of one
 * change become valid together, by {@link commit}.
 */
export class TreeRecorder implements Recorder, ContentRecorder {
  /** Every inode of the tree, by number. */
  readonly inodes = new Map<number, Inode>();
  logger: Logger | undefined;
  readonly #tree: Tree;
  readonly #generation: () => number;
  readonly #log: RecordLog;
  readonly #compaction: Compaction;
  /** Inodes whose attributes have changed. */
  readonly #dirty: Inode[] = [];
  #isChanging = false;
  #isOver = false;

  /**
   * @param memory which {@link replayVolume} has read, or in which no log was.
   * @param inodes the tree's.
   * @param generation of the keys.
   */
  constructor(tree: Tree, memory: LogMemory, inodes: Iterable<Inode>, generation: () => number) {
    this.#tree = tree;
    this.#generation = generation;
    for (const inode of inodes) this.#enter(inode);
    this.#log = new RecordLog(memory, VOLUME_LOG);
    const everything = (): Iterator<void> => this.#everything();
    this.#compaction = new Compaction(this.#log, everything, () => this.#log.commit());
  }

  /** Writes everything that there is. From here on a later process finds the log. */
  begin(): void {
    for (const _ of this.#everything());
    this.#log.commit();
    if (this.#isOver) return;
    this.#log.begin();
    this.#compaction.written();
  }

  /** Nothing is written any more, and no process finds the log. */
  end(): void {
    this.#isOver = true;
    this.#log.invalidate();
    for (const inode of this.inodes.values()) {
      inode.isRecorded = false;
      inode.isDirty = false;
      inode.changedXattrs = undefined;
      if (inode.content !== undefined) inode.content.ino = 0;
    }
    this.#tree.arena.changed();
  }

  made(inode: Inode): void {
    this.#enter(inode);
    this.touched(inode);
  }

  touched(inode: Inode): void {
    this.#change();
    if (inode.isDirty || !inode.isRecorded) return;
    inode.isDirty = true;
    this.#dirty.push(inode);
  }

  gone(inode: Inode): void {
    this.#change();
    inode.isRecorded = false;
    if (inode.content !== undefined) inode.content.ino = 0;
    this.inodes.delete(inode.ino);
    if (this.#has(RecordType.GONE)) putWide(this.#log, inode.ino);
  }

  entry(parent: Inode, name: string, inode: Inode | undefined): void {
    this.#change();
    if (!this.#has(RecordType.ENTRY, textWords(name) - 1)) return;
    putWide(this.#log, parent.ino);
    putWide(this.#log, inode?.ino ?? 0);
    putText(this.#log, name);
  }

  chunk(ino: number, index: number, chunk: RecordedChunk | undefined): void {
    this.#change();
    if (!this.#has(RecordType.CHUNK)) return;
    const log = this.#log;
    putWide(log, ino);
    putWide(log, index);
    log.put(chunk?.pages ?? 0);
    log.put(chunk?.data ?? 0);
    const hasBlock = chunk !== undefined && chunk.length > 0;
    log.put(hasBlock ? (chunk.offset - LOG_BYTES) / BLOCK_UNIT : 0);
    log.put(hasBlock ? (chunk.length / BLOCK_UNIT) | ((chunk.start / BLOCK_UNIT) << 16) : 0);
  }

  cut(ino: number, index: number): void {
    this.#change();
    if (!this.#has(RecordType.CUT)) return;
    putWide(this.#log, ino);
    putWide(this.#log, index);
  }

  commit(): void {
    if (!this.#isChanging) return;
    for (const inode of this.#dirty) {
      inode.isDirty = false;
      if (!inode.isRecorded) continue;
      this.#inode(inode);
      const { changedXattrs } = inode;
      if (changedXattrs === undefined) continue;
      inode.changedXattrs = undefined;
      for (const name of changedXattrs) this.#xattr(inode, name, inode.xattrs?.get(name));
    }
    this.#dirty.length = 0;
    this.#log.commit();
    this.#isChanging = false;
    this.#tree.arena.changed();
    if (!this.#isOver) this.#compaction.collect();
  }

  #enter(inode: Inode): void {
    inode.isRecorded = true;
    if (inode.content !== undefined) inode.content.ino = inode.ino;
    this.inodes.set(inode.ino, inode);
  }

  #change(): void {
    if (this.#isChanging) return;
    this.#isChanging = true;
    this.#tree.arena.change();
  }

  /** Begins a record. @returns false if there is no room for it: the log has ended. */
  #has(type: number, more = 0): boolean {
    if (this.#isOver) return false;
    const words = WORDS[type]! + more;
    if (this.#log.hasRoom(words)) {
      this.#log.put(type | (words << 8));
      return true;
    }
    this.#isOver = true;
    this.#log.invalidate();
    this.logger?.error(
      {},
      'the volume has more names and attributes than its log holds: guests do not survive a crash from here on',
    );
    return false;
  }

  #inode(inode: Inode): void {
    if (!this.#has(RecordType.INODE)) return;
    const log = this.#log;
    putWide(log, inode.ino);
    log.put(inode.mode);
    log.put(inode.uid);
    log.put(inode.gid);
    log.put(inode.nlink);
    log.put(inode.rdev);
    putWide(log, inode.content?.size ?? 0);
    putWide(log, inode.atime);
    log.put(inode.atimeNsec);
    putWide(log, inode.mtime);
    log.put(inode.mtimeNsec);
    putWide(log, inode.ctime);
    log.put(inode.ctimeNsec);
    putWide(log, inode.btime);
    log.put(inode.btimeNsec);
    if (inode.target === undefined || !this.#has(RecordType.TARGET, textWords(inode.target) - 1)) return;
    putWide(log, inode.ino);
    putText(log, inode.target);
  }

  #xattr(inode: Inode, name: string, value: Uint8Array | undefined): void {
    const more = textWords(name) - 1 + (((value?.length ?? 0) + 3) >>> 2);
    if (!this.#has(RecordType.XATTR, more)) return;
    const log = this.#log;
    putWide(log, inode.ino);
    log.put(value?.length ?? -1);
    putText(log, name);
    if (value !== undefined) log.putBytes(value, 0, value.length);
  }

  /** Writes everything, with a pause after each small part. */
  *#everything(): Generator<void, void> {
    if (this.#has(RecordType.VOLUME)) {
      this.#log.put(this.#generation());
      putWide(this.#log, this.#tree.lastIno);
    }
    for (const inode of this.inodes.values()) {
      this.#inode(inode);
      yield;
      for (const [name, value] of inode.xattrs ?? []) {
        if (inode.xattrs?.get(name) !== value || !inode.isRecorded) continue;
        this.#xattr(inode, name, value);
        yield;
      }
      for (const [name, child] of inode.entries ?? []) {
        this.entry(inode, name, child);
        yield;
      }
      for (const [index, chunk] of inode.content?.chunks() ?? []) {
        if (!inode.isRecorded) break;
        this.chunk(inode.ino, index, chunk);
        yield;
      }
    }
  }
}
