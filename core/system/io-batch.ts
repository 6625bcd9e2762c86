import koffi from 'koffi';
import { preadv2, pwritev2 } from './files.js';
import { libc, result } from './libc.js';
import { getLong, NativeMemory, putLong } from './native-memory.js';
import type { Pieces } from './pieces.js';

/** Kinds of transfer, `IOCB_CMD_*` of <linux/aio_abi.h>: of memory in one piece, or by an array of `struct iovec`. */
const Transfer = { PREAD: 0, PWRITE: 1, PREADV: 7, PWRITEV: 8 } as const;

const arm64 = process.arch === 'arm64';
const SYS_IO_SETUP = arm64 ? 0 : 206;
const SYS_IO_DESTROY = arm64 ? 1 : 207;
const SYS_IO_GETEVENTS = arm64 ? 4 : 208;
const SYS_IO_SUBMIT = arm64 ? 2 : 209;

const setup = libc<(number: number, events: number, context: number) => number>('syscall', 'int', [
  'int',
  'uint',
  'uintptr_t',
]);
const submit = libc<(number: number, context: number, count: number, blocks: number) => number>(
  'syscall',
  'int',
  ['int', 'uintptr_t', 'int64_t', 'uintptr_t'],
);
const getEvents = libc<
  (number: number, context: number, least: number, most: number, events: number, timeout: number) => number
>('syscall', 'int', ['int', 'uintptr_t', 'int64_t', 'int64_t', 'uintptr_t', 'uintptr_t']);
const destroy = libc<(number: number, context: number) => number>('syscall', 'int', ['int', 'uintptr_t']);

/** Transfers in one batch at most. */
const CAPACITY = 64;

/** Fewer transfers cost less one by one. */
const FEW = 4;

/** Where the pieces lie in the batch's memory: pointers to the blocks, the blocks, events, results, the context's number. */
const BLOCK_SIZE = 64;
const EVENT_SIZE = 32;
const BLOCKS = 8 * CAPACITY;
const EVENTS = BLOCKS + BLOCK_SIZE * CAPACITY;
const RESULTS = EVENTS + EVENT_SIZE * CAPACITY;
const CONTEXT = RESULTS + 4 * CAPACITY;
const BYTES = CONTEXT + 8;

/** Words of `struct iocb`, <linux/aio_abi.h>. `aio_data` is the transfer's number. */
const DATA = 0;
const RW_FLAGS = 3;
const COMMAND = 4;
const FD = 5;
const BUFFER = 6;
const COUNT = 8;
const OFFSET = 10;

/** Words of `struct aio_ring`, Linux `fs/aio.c`, which processes read in place; events follow it. */
const RING_SLOTS = 1;
const RING_HEAD = 2;
const RING_TAIL = 3;
const RING_MAGIC = 4;
const RING_INCOMPATIBLE = 6;
const RING_HEADER = 7;
const MAGIC = 0xa10a10a1;
const HEADER = 32;

/** Words of `struct io_event`. */
const EVENT_WORDS = EVENT_SIZE / 4;
const EVENT_RESULT = 4;

const EINTR = -4;

/**
 * Reads and writes of files that are carried out by one system call, in the order in which they were added: io_submit(2).
 * Files are not opened with O_DIRECT here, so that the kernel carries each out before the call returns, as read and write
 * would; what it saves is the way into the kernel and back for each.
 */
export class IoBatch {
  /** Bytes up to which a transfer is better carried out with others: beyond, the way into the kernel is a small part of it. */
  static readonly SMALL = 16_384;
  /** Where it lies: another thread finds it by that, see {@link at}. */
  readonly address: number;
  /** By transfer: bytes, or minus the errno. Of the last {@link submit}. */
  readonly results: Int32Array;
  readonly #memory: NativeMemory | undefined;
  readonly #words: Uint32Array;
  readonly #ints: Int32Array;
  readonly #context: number;
  /** The context's completed transfers, shared with the kernel. */
  readonly #ring: Int32Array;
  #count = 0;

  private constructor(address: number, words: Uint32Array, memory?: NativeMemory) {
    this.address = address;
    this.#memory = memory;
    this.#words = words;
    this.#ints = new Int32Array(words.buffer, words.byteOffset, words.length);
    this.results = this.#ints.subarray(RESULTS >> 2, CONTEXT >> 2);
    this.#context = getLong(words, CONTEXT >> 2);
    const slots = new Uint32Array(koffi.view(this.#context, HEADER))[RING_SLOTS]!;
    this.#ring = new Int32Array(koffi.view(this.#context, HEADER + slots * EVENT_SIZE));
  }

  /** A batch, or nothing where the kernel has none to give (it is built without, a filter refuses it, `fs.aio-max-nr`). */
  static open(): IoBatch | undefined {
    const memory = NativeMemory.allocate(BYTES);
    const { address, u32: words } = memory;
    if (result(setup(SYS_IO_SETUP, CAPACITY, address + CONTEXT)) === 0) {
      const context = getLong(words, CONTEXT >> 2);
      const header = new Uint32Array(koffi.view(context, HEADER));
      if (
        header[RING_MAGIC] === MAGIC &&
        header[RING_INCOMPATIBLE] === 0 &&
        header[RING_HEADER] === HEADER &&
        header[RING_SLOTS]! >= CAPACITY
      ) {
        for (let i = 0; i < CAPACITY; i++) putLong(words, i * 2, address + BLOCKS + i * BLOCK_SIZE);
        return new IoBatch(address, words, memory);
      }
      destroy(SYS_IO_DESTROY, context);
    }
    memory.free();
    return undefined;
  }

  /** The batch that another thread of this process has open at an address, for {@link carryOut} while that thread leaves it alone. */
  static at(address: number): IoBatch {
    return new IoBatch(address, new Uint32Array(koffi.view(address, BYTES)));
  }

  /** Transfers that were added since the last {@link submit}. */
  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#count === CAPACITY;
  }

  /**
   * Adds a read. There must be room, and descriptor and memory must stay until {@link submit}.
   * @param flags as of preadv2(2).
   */
  addRead(fd: number, pieces: Pieces, offset: number, flags: number): void {
    if (pieces.iovCount === 1) this.#add(Transfer.PREAD, fd, pieces.address, pieces.length, offset, flags);
    else this.#add(Transfer.PREADV, fd, pieces.iov, pieces.iovCount, offset, flags);
  }

  /** Adds a write, as {@link addRead}. */
  addWrite(fd: number, pieces: Pieces, offset: number): void {
    if (pieces.iovCount === 1) this.#add(Transfer.PWRITE, fd, pieces.address, pieces.length, offset, 0);
    else this.#add(Transfer.PWRITEV, fd, pieces.iov, pieces.iovCount, offset, 0);
  }

  /** @param address of the memory, or of an array of `struct iovec`; `count` are its bytes, or entries. */
  #add(kind: number, fd: number, address: number, count: number, offset: number, flags: number): void {
    const words = this.#words;
    const at = (BLOCKS + this.#count * BLOCK_SIZE) >> 2;
    words[at + DATA] = this.#count;
    words[at + RW_FLAGS] = flags;
    words[at + COMMAND] = kind;
    words[at + FD] = fd;
    putLong(words, at + BUFFER, address);
    words[at + COUNT] = count;
    putLong(words, at + OFFSET, offset);
    this.#count += 1;
  }

  /** Carries out what was added; {@link results} has what came of it. @returns how many there were. */
  submit(): number {
    const count = this.take();
    this.carryOut(count);
    return count;
  }

  /** Ends adding, for a thread that is to {@link carryOut} them. @returns how many there were. */
  take(): number {
    const count = this.#count;
    this.#count = 0;
    return count;
  }

  /** Carries out the first so many transfers. */
  carryOut(count: number): void {
    for (let done = 0; done < count;) {
      const left = count - done;
      const blocks = this.address + done * 8;
      const taken = left < FEW ? 0 : result(submit(SYS_IO_SUBMIT, this.#context, left, blocks));
      if (taken > 0) {
        this.#reap(taken);
        done += taken;
      } else {
        // Also where the kernel refuses the first one, or has no memory for it: the plain call has the answer.
        this.results[done] = this.#alone(done);
        done += 1;
      }
    }
  }

  /** Gives its memory back. It must be empty, and is not to be used again. */
  close(): void {
    destroy(SYS_IO_DESTROY, this.#context);
    this.#memory?.free();
  }

  /** Takes the results of so many transfers. */
  #reap(count: number): void {
    const ring = this.#ring;
    const slots = ring[RING_SLOTS]!;
    const tail = Atomics.load(ring, RING_TAIL);
    let head = ring[RING_HEAD]!;
    for (; count > 0 && head !== tail; count--) {
      const at = (HEADER >> 2) + head * EVENT_WORDS;
      this.results[ring[at]! & (CAPACITY - 1)] = ring[at + EVENT_RESULT]!;
      head = head + 1 === slots ? 0 : head + 1;
    }
    Atomics.store(ring, RING_HEAD, head);
    if (count > 0) this.#await(count);
  }

  /** Some file systems (of a network, say) carry a transfer out later: waits, as the plain call would. */
  #await(count: number): void {
    while (count > 0) {
      const got = result(getEvents(SYS_IO_GETEVENTS, this.#context, 1, count, this.address + EVENTS, 0));
      if (got === EINTR) continue;
      if (got < 0) throw new Error(`io_getevents: errno ${-got}`);
      for (let i = 0; i < got; i++) {
        const at = (EVENTS >> 2) + i * EVENT_WORDS;
        this.results[this.#ints[at]! & (CAPACITY - 1)] = this.#ints[at + EVENT_RESULT]!;
      }
      count -= got;
    }
  }

  #alone(index: number): number {
    const words = this.#words;
    const at = (BLOCKS + index * BLOCK_SIZE) >> 2;
    const kind = words[at + COMMAND]!;
    let address = getLong(words, at + BUFFER);
    let count = words[at + COUNT]!;
    if (kind === Transfer.PREAD || kind === Transfer.PWRITE) {
      // struct iovec { void *iov_base; size_t iov_len; }, where nothing else is at the moment.
      putLong(words, EVENTS >> 2, address);
      putLong(words, (EVENTS >> 2) + 2, count);
      address = this.address + EVENTS;
      count = 1;
    }
    const transfer = kind === Transfer.PREAD || kind === Transfer.PREADV ? preadv2 : pwritev2;
    return transfer(words[at + FD]!, address, count, getLong(words, at + OFFSET), words[at + RW_FLAGS]!);
  }
}
