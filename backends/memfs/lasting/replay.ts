import { FileType } from '../../../core/backend/index.js';
import { type LogMemory, readLog, readText, readWide } from '../../../core/lasting-memory/index.js';
import type { Arena, LeftBlock, RegionMemory } from '../content/arena.js';
import { CHUNK_BYTES, Chunk, pageCount } from '../content/chunk.js';
import { areWithoutCircles } from '../saved-state.js';
import { Inode, pagesOf } from '../tree/inode.js';
import { Space } from '../tree/space.js';
import type { Tree } from '../tree/tree.js';
import { store } from '../tree/xattrs.js';
import { BLOCK_UNIT, LOG_BYTES, RecordType, VOLUME_LOG, WORDS } from './records.js';

/** What the log says of an inode: where records lie in its words. */
interface Found {
  /** The INODE record; -1 before there is one. */
  attributes: number;
  target: string | undefined;
  xattrs: Map<string, Uint8Array> | undefined;
  entries: Map<string, number> | undefined;
  /** CHUNK_BYTES records by index: where they lie, with the number of the part above 2^32. */
  chunks: Map<number, number> | undefined;
  /** CUT records: both numbers grow. */
  cuts: (readonly [place: number, index: number])[] | undefined;
}

const PART = 2 ** 32;

/** What a log says of a volume. */
export interface LeftVolume {
  readonly generation: number;
  readonly lastIno: number;
  /** Bytes from the beginning of the memory up to which there are blocks. */
  readonly end: number;
  /** Fills a tree, which is empty, and whose content goes into the arena from here on. */
  fill(tree: Tree, arena: Arena, regions: readonly RegionMemory[]): readonly Inode[];
  /** Offsets at which blocks are. */
  readonly offsets: Iterable<number>;
}

/**
 * Reads what a killed process has left of a volume.
 * @throws RangeError for memory that no recorder has written.
 */
export function replayVolume(memory: LogMemory): LeftVolume {
  const reader = new Reader(memory.words);
  if (!readLog(memory, VOLUME_LOG, (type, at, end) => reader.take(type, at, end)))
    throw wrong('nothing was kept');
  return reader.finish();
}

class Reader implements LeftVolume {
  generation = 0;
  lastIno = 0;
  end = LOG_BYTES;
  readonly #words: Int32Array;
  readonly #found = new Map<number, Found>();
  /** Blocks with their bytes, by offset. */
  readonly #blocks = new Map<number, number>();
  #last = 0;
  #part = 0;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  get offsets(): Iterable<number> {
    return this.#blocks.keys();
  }

  take(type: number, at: number, end: number): void {
    const w = this.#words;
    const least = WORDS[type];
    if (least === undefined || end - at + 1 < least) throw wrong(`a record of type ${type}`);
    if (at < this.#last) this.#part += 1;
    this.#last = at;
    if (type === RecordType.VOLUME) {
      this.generation = w[at]!;
      this.lastIno = Math.max(this.lastIno, readWide(w, at + 1));
      return;
    }
    const ino = readWide(w, at);
    if (!(Number.isSafeInteger(ino) && ino > 0)) throw wrong(`an inode number ${ino}`);
    this.lastIno = Math.max(this.lastIno, ino);
    if (type === RecordType.GONE) {
      this.#found.delete(ino);
      return;
    }
    const found = this.#of(ino);
    const place = at + this.#part * PART;
    switch (type) {
      case RecordType.INODE:
        found.attributes = at;
        return;
      case RecordType.TARGET:
        found.target = readText(w, at + 2, end, VOLUME_LOG.name).text;
        return;
      case RecordType.XATTR:
        this.#xattr(found, at, end);
        return;
      case RecordType.ENTRY: {
        const { text: name } = readText(w, at + 4, end, VOLUME_LOG.name);
        const child = readWide(w, at + 2);
        if (child === 0) found.entries?.delete(name);
        else (found.entries ??= new Map()).set(name, child);
        return;
      }
      case RecordType.CHUNK:
        (found.chunks ??= new Map()).set(readWide(w, at + 2), place);
        return;
      default: {
        const index = readWide(w, at + 2);
        const cuts = (found.cuts ??= []);
        while (cuts.length > 0 && cuts.at(-1)![1] >= index) cuts.pop();
        cuts.push([place, index]);
      }
    }
  }

  finish(): this {
    for (const [ino, found] of this.#found) {
      if (found.attributes < 0) throw wrong(`nothing is known of inode ${ino}`);
      const { chunks } = found;
      if (chunks === undefined) continue;
      for (const [index, place] of chunks)
        if (isCut(found, index, place) || !this.#isChunk(index, place % PART)) chunks.delete(index);
    }
    return this;
  }

  fill(tree: Tree, arena: Arena, regions: readonly RegionMemory[]): readonly Inode[] {
    const blocks: LeftBlock[] = [...this.#blocks];
    const spans = arena.adopt(regions, blocks);
    const spanAt = new Map(blocks.map(([offset], i) => [offset, spans[i]!]));
    const shared = new Map<number, Chunk>();
    const w = this.#words;
    const space = new Space(Infinity, Infinity);
    const inodes = new Map<number, Inode>();
    for (const [ino, found] of this.#found) {
      const mode = w[found.attributes + 2]!;
      const inode = ino === tree.root.ino ? tree.root : new Inode(tree, 0, ino, mode, tree.clock);
      if (inode.type !== (mode & FileType.MASK)) throw wrong('another root');
      this.#attributes(inode, found.attributes);
      inodes.set(ino, inode);
      if (inode !== tree.root) space.takeInode();
      for (const [name, value] of found.xattrs ?? []) store(inode, name, value, space);
      if (inode.type === FileType.SYMLINK) {
        inode.target = found.target ?? '';
        space.takeTarget(inode.target.length);
        space.takePages(pagesOf(inode));
      }
      if (inode.content === undefined) continue;
      inode.content.size = readWide(w, found.attributes + 7);
      for (const [index, place] of [...(found.chunks ?? [])].sort(([a], [b]) => a - b)) {
        const chunk = this.#chunk(place % PART, arena, shared);
        if (chunk.length > 0) {
          const offset = this.#block(place % PART)!.offset;
          chunk.span = spanAt.get(offset)!;
          chunk.at = offset - chunk.span.slab.region.memory.offset!;
        }
        inode.content.restore(index, chunk, arena, space);
        space.takePages(pageCount(chunk.pages));
      }
    }
    this.#names(tree, inodes, space);
    tree.space.inherit(space);
    tree.arena = arena;
    tree.lastIno = this.lastIno;
    return [...inodes.values()];
  }

  #of(ino: number): Found {
    let found = this.#found.get(ino);
    if (found === undefined) {
      found = {
        attributes: -1,
        target: undefined,
        xattrs: undefined,
        entries: undefined,
        chunks: undefined,
        cuts: undefined,
      };
      this.#found.set(ino, found);
    }
    return found;
  }

  #xattr(found: Found, at: number, end: number): void {
    const w = this.#words;
    const length = w[at + 2]!;
    const { text: name, next } = readText(w, at + 3, end, VOLUME_LOG.name);
    if (length < 0) found.xattrs?.delete(name);
    else if (next + ((length + 3) >>> 2) > end) throw wrong('an attribute is cut short');
    else
      (found.xattrs ??= new Map()).set(
        name,
        new Uint8Array(w.buffer, w.byteOffset + next * 4, length).slice(),
      );
  }

  /** The block of a CHUNK_BYTES record; undefined if it has none. */
  #block(at: number): { offset: number; length: number; start: number } | undefined {
    const w = this.#words;
    const form = w[at + 7]!;
    if (form === 0) return undefined;
    return {
      offset: (w[at + 6]! >>> 0) * BLOCK_UNIT + LOG_BYTES,
      length: (form & 0xffff) * BLOCK_UNIT,
      start: (form >>> 16) * BLOCK_UNIT,
    };
  }

  /** Checks a CHUNK_BYTES record. @returns false for a hole. */
  #isChunk(index: number, at: number): boolean {
    const [pages, data] = [this.#words[at + 4]!, this.#words[at + 5]!];
    if (pages === 0) return false;
    if (!(Number.isSafeInteger(index) && index >= 0) || (data & ~pages) !== 0) throw wrong('a bad chunk');
    const block = this.#block(at);
    // Data without a block is zeros.
    if (block === undefined) return true;
    const { offset, length, start } = block;
    const isPower = length > 0 && (length & (length - 1)) === 0;
    if (!isPower || length > CHUNK_BYTES || start % length !== 0 || start + length > CHUNK_BYTES)
      throw wrong('a bad block');
    if ((this.#blocks.get(offset) ?? length) !== length) throw wrong('content where other content is');
    this.#blocks.set(offset, length);
    this.end = Math.max(this.end, offset + length);
    return true;
  }

  /** The chunk of a record. Those with one block are one chunk, which files share. */
  #chunk(at: number, arena: Arena, shared: Map<number, Chunk>): Chunk {
    const [pages, data] = [this.#words[at + 4]!, this.#words[at + 5]!];
    const block = this.#block(at);
    const known = block === undefined ? undefined : shared.get(block.offset);
    if (known !== undefined) {
      if (known.data !== data || known.pages !== pages || known.start !== block!.start)
        throw wrong('content where other content is');
      known.references += 1;
      return known;
    }
    const chunk = new Chunk(arena);
    chunk.pages = pages;
    chunk.data = data;
    if (block !== undefined) {
      chunk.start = block.start;
      chunk.length = block.length;
      shared.set(block.offset, chunk);
    }
    return chunk;
  }

  #attributes(inode: Inode, at: number): void {
    const w = this.#words;
    inode.mode = w[at + 2]!;
    inode.uid = w[at + 3]! >>> 0;
    inode.gid = w[at + 4]! >>> 0;
    inode.nlink = w[at + 5]!;
    inode.rdev = w[at + 6]! >>> 0;
    inode.atime = readWide(w, at + 9);
    inode.atimeNsec = w[at + 11]!;
    inode.mtime = readWide(w, at + 12);
    inode.mtimeNsec = w[at + 14]!;
    inode.ctime = readWide(w, at + 15);
    inode.ctimeNsec = w[at + 17]!;
    inode.btime = readWide(w, at + 18);
    inode.btimeNsec = w[at + 20]!;
  }

  #names(tree: Tree, inodes: ReadonlyMap<number, Inode>, space: Space): void {
    const names = new Map<Inode, number>();
    if (!inodes.has(tree.root.ino)) throw wrong('no root');
    for (const [ino, inode] of inodes) {
      const { entries } = this.#found.get(ino)!;
      if (entries === undefined) continue;
      if (entries.size > 0 && inode.entries === undefined) throw wrong('names in a file');
      for (const [name, number] of entries) {
        const child = inodes.get(number);
        if (child === undefined || child === tree.root) throw wrong('a name of nothing');
        inode.entries!.set(name, child);
        names.set(child, (names.get(child) ?? 0) + 1);
        if (child.entries === undefined) continue;
        if (child.parent !== undefined) throw wrong('a directory with two names');
        child.parent = inode;
      }
    }
    for (const inode of inodes.values()) {
      const count = names.get(inode) ?? 0;
      // What has more or fewer names than it says would never go away, or go too early.
      const isRight =
        inode.entries === undefined
          ? inode.nlink === count
          : inode === tree.root || (inode.nlink === 0) === (count === 0);
      if (!isRight) throw wrong('another number of links');
      if (inode.nlink === 0) tree.orphans.add(inode);
      else if (inode.entries === undefined) for (let n = 1; n < inode.nlink; n++) space.takeInode();
    }
    const directories = [...inodes.values()].filter(({ entries }) => entries !== undefined);
    if (!areWithoutCircles(directories, tree.root)) throw wrong('directories in a circle');
  }
}

function isCut({ cuts }: Found, index: number, place: number): boolean {
  if (cuts === undefined) return false;
  let [low, high] = [0, cuts.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (cuts[middle]![0] > place) high = middle;
    else low = middle + 1;
  }
  return low < cuts.length && cuts[low]![1] <= index;
}

function wrong(what: string): RangeError {
  return new RangeError(`${VOLUME_LOG.name}: ${what}`);
}
