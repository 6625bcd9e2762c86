import koffi from 'koffi';
import { SYS_FSTAT } from '../calls/files.js';
import { NativeMemory, putLong } from '../memory/native-memory.js';
import type { Pieces } from '../memory/pieces.js';
import { Region } from '../memory/region.js';

/**
 * What no function of the C library does: one system call after another. It is machine code, since
 * a foreign call for each costs as much as the kernel's part of a short one; by architecture, its
 * assembly beside it. First argument: the calls, 64 bytes each: its number, six arguments, its
 * result. Second: how many, at least one.
 */
const LOOPS: Readonly<Record<string, readonly string[]>> = {
  x64: [
    '53', //           push rbx
    '55', //           push rbp
    '48 89 fb', //     mov  rbx, rdi
    '48 89 f5', //     mov  rbp, rsi
    '48 8b 03', //     next: mov rax, [rbx]
    '48 8b 7b 08', //  mov  rdi, [rbx + 8]
    '48 8b 73 10', //  mov  rsi, [rbx + 16]
    '48 8b 53 18', //  mov  rdx, [rbx + 24]
    '4c 8b 53 20', //  mov  r10, [rbx + 32]
    '4c 8b 43 28', //  mov  r8, [rbx + 40]
    '4c 8b 4b 30', //  mov  r9, [rbx + 48]
    '0f 05', //        syscall
    '48 89 43 38', //  mov  [rbx + 56], rax
    '48 83 c3 40', //  add  rbx, 64
    '48 ff cd', //     dec  rbp
    '75 d6', //        jnz  next
    '5d', //           pop  rbp
    '5b', //           pop  rbx
    'c3', //           ret
  ],
  arm64: [
    'e9 03 00 aa', //  mov  x9, x0
    'ea 03 01 aa', //  mov  x10, x1
    '28 01 40 a9', //  next: ldp x8, x0, [x9]
    '21 09 41 a9', //  ldp  x1, x2, [x9, #16]
    '23 11 42 a9', //  ldp  x3, x4, [x9, #32]
    '25 19 40 f9', //  ldr  x5, [x9, #48]
    '01 00 00 d4', //  svc  #0
    '20 1d 00 f9', //  str  x0, [x9, #56]
    '29 01 01 91', //  add  x9, x9, #64
    '4a 05 00 f1', //  subs x10, x10, #1
    '01 ff ff 54', //  b.ne next
    'c0 03 5f d6', //  ret
  ],
};

const arm64 = process.arch === 'arm64';
const SYS_STATX = arm64 ? 291 : 332;
const SYS_PREAD64 = arm64 ? 67 : 17;
const SYS_PWRITE64 = arm64 ? 68 : 18;
const SYS_PREADV2 = arm64 ? 286 : 327;
const SYS_PWRITEV2 = arm64 ? 287 : 328;

const CALL_SIZE = 64;
const CALL_WORDS = CALL_SIZE / 4;
const RESULT = 14;

type Loop = (calls: number, count: number) => void;

/** The loop as it lies in this process's memory; `null` where there is none to be had. */
let loop: Loop | null | undefined;

function load(): Loop | null {
  const lines = LOOPS[process.arch];
  if (lines === undefined) return null;
  const code = Buffer.from(lines.join('').replaceAll(' ', ''), 'hex');
  const region = Region.anonymous(code.length);
  new Uint8Array(region.view(region.address, code.length)).set(code);
  // A security policy may allow no machine code but that of files.
  if (!region.makeExecutable()) {
    region.release();
    return null;
  }
  return koffi.decode(BigInt(region.address), koffi.proto('void CallListLoop(uintptr_t, uintptr_t)')) as Loop;
}

/**
 * System calls that are made together, one after another: without the way between JavaScript and
 * the kernel for each.
 */
export class CallList {
  /**
   * Bytes up to which a transfer is better made with others: beyond, the way into the kernel is a
   * small part of it.
   */
  static readonly SMALL = 16_384;
  /** Where the calls lie: another thread makes them by that, see {@link make}. */
  readonly address: number;
  readonly #memory: NativeMemory;
  readonly #words: Uint32Array;
  readonly #ints: Int32Array;
  readonly #capacity: number;
  readonly #loop: Loop;
  #count = 0;
  #made = 0;

  private constructor(capacity: number, made: Loop) {
    this.#memory = NativeMemory.allocate(capacity * CALL_SIZE);
    this.address = this.#memory.address;
    this.#words = this.#memory.u32;
    this.#ints = this.#memory.i32;
    this.#capacity = capacity;
    this.#loop = made;
  }

  /**
   * @param capacity calls in the list at most, 1 or more.
   * @returns nothing where the architecture is not known or the system allows no machine code of
   * ours.
   */
  static open(capacity: number): CallList | undefined {
    if (loop === undefined) loop = load();
    return loop === null ? undefined : new CallList(capacity, loop);
  }

  /**
   * Makes calls that another thread of this process has taken from a list.
   * @param address of the list. @param count of calls, 1 or more. @throws Error where {@link open}
   * would give nothing.
   */
  static make(address: number, count: number): void {
    if (loop === undefined) loop = load();
    if (loop === null) throw new Error('the system allows no machine code of ours');
    loop(address, count);
  }

  /** Calls in the list, made or not. */
  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#count === this.#capacity;
  }

  /**
   * Adds fstat(2). There must be room; descriptor and memory must stay until {@link run}.
   * @param target address for `struct stat`.
   */
  fstat(fd: number, target: number): void {
    const at = this.#add(SYS_FSTAT, fd);
    putLong(this.#words, at + 4, target);
  }

  /**
   * Adds statx(2), as {@link fstat}.
   * @param path address of a path.
   * @param target address for `struct statx`.
   */
  statx(fd: number, path: number, flags: number, mask: number, target: number): void {
    const at = this.#add(SYS_STATX, fd);
    const words = this.#words;
    putLong(words, at + 4, path);
    words[at + 6] = flags;
    words[at + 7] = 0;
    words[at + 8] = mask;
    words[at + 9] = 0;
    putLong(words, at + 10, target);
  }

  /** Adds a read, as {@link fstat}: pread(2) or preadv2(2). @param flags of the latter. */
  read(fd: number, pieces: Pieces, offset: number, flags: number): void {
    if (pieces.iovCount === 1 && flags === 0) {
      this.#transfer(SYS_PREAD64, fd, pieces.address, pieces.length, offset, 0);
    } else this.#transfer(SYS_PREADV2, fd, pieces.iov, pieces.iovCount, offset, flags);
  }

  /** Adds a write, as {@link fstat}: pwrite(2) or pwritev2(2). */
  write(fd: number, pieces: Pieces, offset: number): void {
    if (pieces.iovCount === 1) {
      this.#transfer(SYS_PWRITE64, fd, pieces.address, pieces.length, offset, 0);
    } else this.#transfer(SYS_PWRITEV2, fd, pieces.iov, pieces.iovCount, offset, 0);
  }

  /**
   * The calls of vectors take the offset's high half in a further argument, which means nothing
   * where words have 64 bits.
   */
  #transfer(number: number, fd: number, address: number, count: number, offset: number, flags: number): void {
    const at = this.#add(number, fd);
    const words = this.#words;
    putLong(words, at + 4, address);
    words[at + 6] = count;
    words[at + 7] = 0;
    putLong(words, at + 8, offset);
    words[at + 10] = 0;
    words[at + 11] = 0;
    words[at + 12] = flags;
  }

  /** Begins a call. @returns its first word; arguments after the first begin with word 4 of it. */
  #add(number: number, fd: number): number {
    const at = this.#count++ * CALL_WORDS;
    this.#words[at] = number;
    this.#words[at + 2] = fd;
    return at;
  }

  /** Makes the calls that were added since the last time. */
  run(): void {
    const left = this.#count - this.#made;
    if (left === 0) return;
    this.#loop(this.address + this.#made * CALL_SIZE, left);
    this.#made = this.#count;
  }

  /**
   * Ends adding, for a thread that is to {@link make} all calls; none was made yet.
   * @returns how many there are.
   */
  take(): number {
    this.#made = this.#count;
    return this.#count;
  }

  /** Each call has this result, minus an errno: whoever took them has not made them. */
  fail(result: number): void {
    for (let i = 0; i < this.#count; i++) this.#ints[i * CALL_WORDS + RESULT] = result;
  }

  /** What the i-th call gave once it was made: 0 or more, or minus the errno. */
  result(index: number): number {
    return this.#ints[index * CALL_WORDS + RESULT]!;
  }

  /** Begins an empty list. */
  clear(): void {
    this.#count = 0;
    this.#made = 0;
  }

  /** Gives its memory back. It is not to be used again. */
  close(): void {
    this.#memory.free();
  }
}
