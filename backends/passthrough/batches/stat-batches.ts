import { type Attributes, type Entry, FsError } from '../../../core/backend/index.js';
import { STAT } from '../../../core/system/calls/files.js';
import { type Fd, type CallList, NativeMemory, ownMounts } from '../../../core/system/index.js';
import type { Node } from '../nodes/nodes.js';
import { putComponent } from '../calls/call-memory.js';
import { newEntry, type OwnEntry, type Share } from '../share.js';
import { addStatName, fillFromStat, takeStat } from '../calls/stat.js';
import { HANDLE_WORDS, putHandle } from '../nodes/node-finder.js';
import { MAX_HANDLE_BYTES } from '../../../core/system/calls/file-handles.js';
import { ENOENT } from '../../../core/system/calls/negative-errno.js';

/**
 * Each call of a list has a slot of native memory here: first the result (`struct stat` or `struct
 * statx`, at most 256 bytes), then the name with its NUL, the file handle, and its mount's id.
 */
const NAME_OFFSET = 256;
const HANDLE_OFFSET = 512;
const MOUNT_OFFSET = HANDLE_OFFSET + HANDLE_WORDS * 4;
const SLOT_BYTES = 704;
/** Longest name, in UTF-16 units, that fits a slot: each unit is at most three bytes of UTF-8. */
const NAME_MAX_UNITS = 85;

/**
 * A stat call that waits in a list. `node` and `parent` say which kind it is: both undefined for
 * `fstat` of a descriptor, only `parent` for a LOOKUP of a name, both for a GETATTR of a node by
 * its last known name.
 */
interface PendingStat {
  parent: Node | undefined;
  node: Node | undefined;
  name: string;
  /** Index of the call that takes its file handle; -1 where there is none. */
  handleCall: number;
  readonly entry: OwnEntry;
}

/**
 * The stat calls of one list: the start of the LOOKUP and GETATTR requests that are carried out
 * together. Only one list at a time may use it, since all share the same slots.
 */
export class StatBatch {
  readonly #share: Share;
  readonly #memory: NativeMemory;
  readonly #pending: readonly PendingStat[];
  /** The calls that take file handles, all before the stats of the list. */
  readonly #handles: CallList;
  /** When the first of them began (milliseconds since 1970); 0 before. */
  #handleTime = 0;

  /**
   * @param capacity calls in a list at most.
   * @param handles a list for as many, which this batch owns.
   */
  constructor(share: Share, capacity: number, handles: CallList) {
    this.#share = share;
    this.#handles = handles;
    this.#memory = NativeMemory.allocate(capacity * SLOT_BYTES);
    this.#pending = Array.from({ length: capacity }, () => ({
      parent: undefined,
      node: undefined,
      name: '',
      handleCall: -1,
      entry: newEntry(),
    }));
  }

  /**
   * Adds the stat of a name in a directory to a list that has room.
   * @returns false where the request must be answered alone: the name is too long for a slot, or
   * the directory cannot be opened.
   * @throws FsError EINVAL if `name` is not a single path component.
   */
  addName(list: CallList, parent: Node, name: string): boolean {
    return this.#add(list, parent, undefined, name);
  }

  /**
   * Adds the stat of a node by the name it was last seen under, in the directory that
   * `Share.lastSeenParent` gave. Otherwise like {@link addName}.
   */
  addNode(list: CallList, parent: Node, node: Node): boolean {
    return this.#add(list, parent, node, node.name);
  }

  /**
   * Adds the `fstat` of a descriptor to a list that has room. Its attributes lack the birth time.
   */
  addDescriptor(list: CallList, fd: Fd): void {
    const index = list.count;
    this.#pending[index]!.parent = undefined;
    list.fstat(fd, this.#memory.address + index * SLOT_BYTES);
  }

  #add(list: CallList, parent: Node, node: Node | undefined, name: string): boolean {
    // A mount of this process's own must not be asked: `statName` sees to that.
    if (name.length > NAME_MAX_UNITS || ownMounts.any) return false;
    const fd = this.#share.nodes.descriptor(parent);
    if (fd < 0) return false;
    const index = list.count;
    const start = index * SLOT_BYTES;
    putComponent(name, this.#memory.u8, start + NAME_OFFSET);
    const pending = this.#pending[index]!;
    pending.parent = parent;
    pending.node = node;
    pending.name = name;
    const address = this.#memory.address + start;
    pending.handleCall = node === undefined ? this.#addHandle(parent, fd, start) : -1;
    addStatName(list, fd, address + NAME_OFFSET, address);
    return true;
  }

  /** @returns the index of the call, or -1 where the handle is not worth it. */
  #addHandle(parent: Node, fd: Fd, start: number): number {
    if (!this.#share.finder.expectsNew(parent)) return -1;
    const { address, u32 } = this.#memory;
    u32[(start + HANDLE_OFFSET) >>> 2] = MAX_HANDLE_BYTES;
    const slot = address + start;
    this.#handles.nameToHandle(fd, slot + NAME_OFFSET, slot + HANDLE_OFFSET, slot + MOUNT_OFFSET);
    return this.#handles.count - 1;
  }

  /** Takes the file handles for what was added so far. To be called right before the list runs. */
  takeHandles(): void {
    if (this.#handles.count === 0) return;
    if (this.#handleTime === 0) this.#handleTime = Date.now();
    this.#handles.run();
  }

  /** The list was cleared. */
  clear(): void {
    this.#handles.clear();
    this.#handleTime = 0;
  }

  /**
   * The answer of `lookup` or `getattr` to the call at `index` of a list that has run. Each index
   * has an answer object of its own, refilled by the next batch.
   * @throws FsError what `lookup` or `getattr` would have thrown.
   */
  take(list: CallList, index: number): Attributes | Entry<Node> | undefined {
    const { parent, node, name, handleCall, entry } = this.#pending[index]!;
    const share = this.#share;
    const code = list.result(index);
    const word = (index * SLOT_BYTES) >>> 2;
    const { u32, i32, address } = this.#memory;
    if (parent === undefined) {
      if (code < 0) throw FsError.of(-code);
      fillFromStat(u32, i32, word, entry.attributes);
      return share.translated(entry.attributes, u32[word + (STAT.DEV >>> 2)]!);
    }
    if (code === 0) takeStat(u32, word);
    if (node !== undefined) {
      if (code < 0 || !share.finder.isStatOf(node)) share.finder.statUnanchored(node);
      return share.attributes(entry.attributes);
    }
    if (code === ENOENT) return undefined;
    // To open the directory again takes its handle into call memory.
    const fd = share.descriptor(parent);
    const handleWord = word + (HANDLE_OFFSET >>> 2);
    if (handleCall >= 0 && this.#handles.result(handleCall) >= 0 && putHandle(u32, handleWord))
      share.finder.handleWasTaken(this.#handleTime);
    return share.found(code, parent, fd, address + index * SLOT_BYTES + NAME_OFFSET, name, entry);
  }

  close(): void {
    this.#handles.close();
    this.#memory.free();
  }
}
