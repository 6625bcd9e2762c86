import { randomBytes } from 'node:crypto';
import {
  type Attributes,
  type Awaitable,
  type Backend,
  type Context,
  FsError,
  type GuestBuffer,
  type HostBuffer,
  OpenFlags,
  type Steps,
  wait,
} from '../../backend/index.js';
import { pause } from '../../backend/pauses.js';
import { Buffers } from '../buffers.js';
import { Turns } from '../turns.js';
import type { Keys } from './keys.js';
import {
  BLOCK_BYTES,
  HEADER_BYTES,
  headerOf,
  idIn,
  placeOf,
  positionOf,
  SEALED_BLOCK_BYTES,
  sealedSizeOf,
  SIZE_MAX,
  sizeOf,
} from './layout.js';
import { open, seal, SEAL_BYTES } from './sealing.js';

/** Blocks that are read or written at once: 1 MiB. */
const BLOCKS = 256;

/** Blocks that are sealed or opened before others have a turn: about a tenth of a millisecond. */
const BLOCKS_AT_ONCE = 16;

/** Buffers that are kept for the next requests. */
const BUFFERS = 4;

const ZEROS = Buffer.alloc(SEALED_BLOCK_BYTES);

/** What is known of a file that is in use. */
export class FileState {
  /** Changes of its content are alone, reads are beside each other. */
  readonly turns = new Turns();
  key: Buffer | undefined;
  /** A block that cannot be opened has been logged. */
  isBroken = false;
}

/** @param done how many blocks of a request are done. */
function* makeRoom(done: number): Steps<void> {
  if (done > 0 && done % BLOCKS_AT_ONCE === 0) yield* wait(pause());
}

/** The content of files, in blocks that are sealed each by itself. */
export class Content<N extends object, F> {
  readonly #inner: Backend<N, F>;
  readonly #keys: Keys;
  readonly buffers = new Buffers(BLOCKS * SEALED_BLOCK_BYTES, BUFFERS);
  readonly #broken: (state: FileState, block: number) => void;

  /** @param broken is told of a block that was not sealed for its place with this key. */
  constructor(inner: Backend<N, F>, keys: Keys, broken: (state: FileState, block: number) => void) {
    this.#inner = inner;
    this.#keys = keys;
    this.#broken = broken;
  }

  *read(
    state: FileState,
    node: N,
    file: F,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Steps<number> {
    const sealedSize = yield* this.#sealedSize(node, file, context);
    const end = Math.min(offset + buffer.length, sizeOf(sealedSize));
    if (offset >= end) return 0;
    const key = yield* this.#key(state, node, file, sealedSize, context);
    for (let at = offset; at < end;) {
      const first = Math.floor(at / BLOCK_BYTES);
      const stop = Math.min(end, (first + BLOCKS) * BLOCK_BYTES);
      const start = at;
      yield* this.#load(node, file, first, stop, context, (block, sealed) => {
        const text = this.#open(state, key, block, sealed);
        const from = Math.max(start, block * BLOCK_BYTES);
        const to = Math.min(stop, block * BLOCK_BYTES + text.length);
        if (to > from) buffer.put(from - offset, text, from - block * BLOCK_BYTES, to - block * BLOCK_BYTES);
      });
      at = stop;
    }
    return end - offset;
  }

  /** @param appends whether to write at the end, wherever `offset` is. */
  *write(
    state: FileState,
    node: N,
    file: F,
    appends: boolean,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): Steps<number> {
    const sealedSize = yield* this.#sealedSize(node, file, context);
    let size = sizeOf(sealedSize);
    const start = appends ? size : offset;
    const end = start + buffer.length;
    if (buffer.length === 0) return 0;
    if (end > SIZE_MAX) throw FsError.of('EFBIG');
    const key = yield* this.#writableKey(state, node, file, sealedSize, flags, context);
    const store = (first: number, text: Uint8Array): Steps<void> =>
      this.#store(node, file, key, first, text, flags, context);
    const isGap = Math.floor(size / BLOCK_BYTES) < Math.floor(start / BLOCK_BYTES);
    if (isGap && size % BLOCK_BYTES !== 0) {
      const last = Math.floor(size / BLOCK_BYTES);
      yield* store(last, yield* this.#padded(state, node, file, key, last, size, BLOCK_BYTES, context));
    }
    for (let at = start; at < end;) {
      const first = Math.floor(at / BLOCK_BYTES);
      const stop = Math.min(end, (first + BLOCKS) * BLOCK_BYTES);
      const last = Math.floor((stop - 1) / BLOCK_BYTES);
      const from = first * BLOCK_BYTES;
      const to = Math.min(Math.max(size, stop), (last + 1) * BLOCK_BYTES);
      const text = Buffer.alloc(to - from);
      try {
        if (at > from || (first === last && stop < to))
          text.set(yield* this.#text(state, node, file, key, first, size, context));
        if (first !== last && stop < to)
          text.set(
            yield* this.#text(state, node, file, key, last, size, context),
            (last - first) * BLOCK_BYTES,
          );
        buffer.get(at - start, text, at - from, stop - from);
        yield* store(first, text);
      } catch (error) {
        if (at === start) throw error;
        return at - start;
      }
      at = stop;
      size = Math.max(size, stop);
    }
    return buffer.length;
  }

  /**
   * Cuts a file, or makes it longer.
   * @param change sets the size of the inner backend's file, with whatever else is to be set.
   */
  *resize(
    state: FileState,
    node: N,
    file: F | undefined,
    size: number,
    context: Context,
    change: (sealedSize: number) => Awaitable<Attributes>,
  ): Steps<Attributes> {
    if (size > SIZE_MAX) throw FsError.of('EFBIG');
    if (size === 0) {
      state.key = undefined;
      return yield* wait(change(0));
    }
    const sealedSize = yield* this.#sealedSize(node, file, context);
    const before = sizeOf(sealedSize);
    const end = Math.min(before, size);
    const isPartBlock = before !== size && end % BLOCK_BYTES !== 0;
    if (isPartBlock || sealedSize < HEADER_BYTES) {
      const { open: openInner, release } = this.#inner;
      const opened =
        file === undefined && openInner !== undefined
          ? yield* wait(openInner.call(this.#inner, node, OpenFlags.READ_WRITE, context))
          : undefined;
      const used = (opened === undefined ? file : opened.file) as F;
      try {
        const key = yield* this.#writableKey(state, node, used, sealedSize, 0, context);
        if (isPartBlock) {
          const block = Math.floor(end / BLOCK_BYTES);
          const length = Math.min(size - block * BLOCK_BYTES, BLOCK_BYTES);
          const text = yield* this.#padded(state, node, used, key, block, before, length, context);
          yield* this.#store(node, used, key, block, text, 0, context);
        }
      } finally {
        if (opened !== undefined) yield* wait(release?.call(this.#inner, node, used));
      }
    }
    return yield* wait(change(sealedSizeOf(size)));
  }

  *#sealedSize(node: N, file: F | undefined, context: Context): Steps<number> {
    const { size = 0 } = yield* wait(this.#inner.getattr(node, file, context));
    return size;
  }

  *#key(state: FileState, node: N, file: F, sealedSize: number, context: Context): Steps<Buffer> {
    if (sealedSize < HEADER_BYTES) throw FsError.of('EIO');
    if (state.key !== undefined) return state.key;
    const buffer = this.buffers.take();
    try {
      yield* this.#fill(node, file, buffer, 0, HEADER_BYTES, context);
      const id = idIn(buffer.bytes.subarray(0, HEADER_BYTES));
      if (id === undefined) throw FsError.of('EIO');
      return (state.key = this.#keys.ofFile(id));
    } finally {
      this.buffers.give(buffer);
    }
  }

  /** The key of a file that may be empty, and gets its header then. */
  *#writableKey(
    state: FileState,
    node: N,
    file: F,
    sealedSize: number,
    flags: number,
    context: Context,
  ): Steps<Buffer> {
    if (sealedSize > 0) return yield* this.#key(state, node, file, sealedSize, context);
    const id = randomBytes(HEADER_BYTES - 8);
    const buffer = this.buffers.take();
    try {
      buffer.bytes.set(headerOf(id));
      yield* this.#drain(node, file, buffer, 0, HEADER_BYTES, flags, context);
    } finally {
      this.buffers.give(buffer);
    }
    return (state.key = this.#keys.ofFile(id));
  }

  /** A block's content, of a file that has `size` bytes; nothing beyond its end. */
  *#text(
    state: FileState,
    node: N,
    file: F,
    key: Buffer,
    block: number,
    size: number,
    context: Context,
  ): Steps<Uint8Array> {
    const end = Math.min(size, (block + 1) * BLOCK_BYTES);
    let text: Uint8Array = new Uint8Array(0);
    if (end > block * BLOCK_BYTES)
      yield* this.#load(node, file, block, end, context, (_block, sealed) => {
        text = this.#open(state, key, block, sealed);
      });
    return text;
  }

  /** A block's content, cut or with zeros behind it. */
  *#padded(
    state: FileState,
    node: N,
    file: F,
    key: Buffer,
    block: number,
    size: number,
    length: number,
    context: Context,
  ): Steps<Uint8Array> {
    const padded = new Uint8Array(length);
    const text = yield* this.#text(state, node, file, key, block, size, context);
    padded.set(text.subarray(0, length));
    return padded;
  }

  #open(state: FileState, key: Buffer, block: number, sealed: Uint8Array): Uint8Array {
    const isHole = ZEROS.subarray(0, sealed.length).equals(sealed);
    if (isHole) return new Uint8Array(Math.max(0, sealed.length - SEAL_BYTES));
    const text = open(key, placeOf(block), sealed);
    if (text !== undefined) return text;
    this.#broken(state, block);
    throw FsError.of('EIO');
  }

  /** Reads sealed blocks, from `first` to the one in which the content has its byte `end - 1`. */
  *#load(
    node: N,
    file: F,
    first: number,
    end: number,
    context: Context,
    each: (block: number, sealed: Uint8Array) => void,
  ): Steps<void> {
    const blocks = Math.ceil(end / BLOCK_BYTES) - first;
    const buffer = this.buffers.take();
    try {
      const length = blocks * SEALED_BLOCK_BYTES;
      const count = yield* this.#fill(node, file, buffer, positionOf(first), length, context);
      for (let i = 0; i < blocks; i++) {
        yield* makeRoom(i);
        const at = i * SEALED_BLOCK_BYTES;
        if (at < count) each(first + i, buffer.bytes.subarray(at, Math.min(count, at + SEALED_BLOCK_BYTES)));
      }
    } finally {
      this.buffers.give(buffer);
    }
  }

  /** Seals and writes whole blocks; the last one may be short, at the end of the file. */
  *#store(
    node: N,
    file: F,
    key: Buffer,
    first: number,
    text: Uint8Array,
    flags: number,
    context: Context,
  ): Steps<void> {
    const buffer = this.buffers.take();
    try {
      let length = 0;
      for (let at = 0; at < text.length; at += BLOCK_BYTES) {
        yield* makeRoom(at / BLOCK_BYTES);
        const block = first + at / BLOCK_BYTES;
        const sealed = seal(key, placeOf(block), text.subarray(at, at + BLOCK_BYTES));
        buffer.bytes.set(sealed, length);
        length += sealed.length;
      }
      yield* this.#drain(node, file, buffer, positionOf(first), length, flags, context);
    } finally {
      this.buffers.give(buffer);
    }
  }

  /** Reads until the buffer is full to `length`, or the file ends. @returns the bytes read. */
  *#fill(
    node: N,
    file: F,
    buffer: HostBuffer,
    position: number,
    length: number,
    context: Context,
  ): Steps<number> {
    let at = 0;
    while (at < length) {
      const part = buffer.slice(at, length);
      const count = yield* wait(this.#inner.read!(node, file, part, position + at, context));
      if (count === 0) break;
      at += count;
    }
    return at;
  }

  *#drain(
    node: N,
    file: F,
    buffer: HostBuffer,
    position: number,
    length: number,
    flags: number,
    context: Context,
  ): Steps<void> {
    for (let at = 0; at < length;) {
      const part = buffer.slice(at, length);
      const count = yield* wait(this.#inner.write!(node, file, part, position + at, flags, context));
      if (count === 0) throw FsError.of('EIO');
      at += count;
    }
  }
}
