import type { Fd } from '../descriptors/fd.js';
import koffi from 'koffi';
import { SYS_FSTAT } from '../calls/files.js';
import { NativeMemory, putLong } from '../memory/native-memory.js';
import type { Pieces } from '../calls/vectored-io.js';
import { Region } from '../memory/region.js';

/**
 * Machine code, by architecture, that makes a list of system calls one after another. The assembly
 * stands beside the bytes. The C library has no such function, and a foreign call for each system
 * call would cost as much as the kernel's part of a short one.
 *
 * The first argument is the address of the calls. Each has 64 bytes: the number of the system call,
 * six arguments, and room for its result. The second argument counts the calls, at least one.
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
const SYS_NAME_TO_HANDLE_AT = arm64 ? 264 : 303;
const SYS_SENDTO = arm64 ? 206 : 44;
const SYS_IO_SUBMIT = arm64 ? 2 : 209;
const SYS_EPOLL_PWAIT = arm64 ? 22 : 281;
const SYS_PREAD64 = arm64 ? 67 : 17;
const SYS_PWRITE64 = arm64 ? 68 : 18;
const SYS_PREADV2 = arm64 ? 286 : 327;
const SYS_PWRITEV2 = arm64 ? 287 : 328;

const CALL_SIZE = 64;
const CALL_WORDS = CALL_SIZE / 4;
const RESULT = 14;

type Loop = (calls: number, count: number) => void;

/** The loop in this process's memory: `undefined` before it is loaded, `null` if it can't be. */
let loop: Loop | null | undefined;

function load(): Loop | null {
  const lines = LOOPS[process.arch];
  if (lines === undefined) return null;
  const code = Buffer.from(lines.join('').replaceAll(' ', ''), 'hex');
  const region = Region.anonymous(code.length);
  new Uint8Array(region.view(region.address, code.length)).set(code);
  // A security policy may forbid the execution of memory that no file backs.
  if (!region.makeExecutable()) {
    region.release();
    return null;
  }
  // Without a name: a plugin that has this module loads it beside the joined program's.
  return koffi.decode(BigInt(region.address), koffi.proto('void', ['uintptr_t', 'uintptr_t'])) as Loop;
}

/**
 * A list of system calls that one foreign call makes, one after another. JavaScript is left once
 * for the list, not once for each call.
 */
export class CallList {
  /**
   * The most bytes of a transfer that gains by being made together with others. In a larger one,
   * the foreign call is a small part of the cost.
   */
  static readonly SMALL_BYTES = 16_384;
  /** Address of the calls. Another thread needs it to {@link make} them. */
  readonly address: number;
  readonly #memory: NativeMemory;
  readonly #words: Uint32Array;
  readonly #ints: Int32Array;
  readonly #capacity: number;
  readonly #loop: Loop;
  #count = 0;
  #made = 0;

  private constructor(capacity: number, code: Loop) {
    this.#memory = NativeMemory.allocate(capacity * CALL_SIZE);
    this.address = this.#memory.address;
    this.#words = this.#memory.u32;
    this.#ints = this.#memory.i32;
    this.#capacity = capacity;
    this.#loop = code;
  }

  /**
   * @param capacity the most calls in the list, 1 or more.
   * @returns undefined if there is no code for this architecture, or if the system does not let
   * this process execute it.
   */
  static open(capacity: number): CallList | undefined {
    CallList.prepare();
    return loop === null || loop === undefined ? undefined : new CallList(capacity, loop);
  }

  /** Makes this thread's machine code, which is made at first use otherwise. */
  static prepare(): void {
    if (loop === undefined) loop = load();
  }

  /**
   * Makes the calls of a list that belongs to another thread of this process.
   * @param address the list's {@link address}.
   * @param count how many calls to make, 1 or more.
   * @throws Error where {@link open} returns undefined.
   */
  static make(address: number, count: number): void {
    CallList.prepare();
    if (loop === null || loop === undefined)
      throw new Error('the system does not let this process execute its own machine code');
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
   * Adds fstat(2). The list must not be full. The descriptor must stay open, and the memory valid,
   * until the call was made.
   * @param target address for `struct stat`.
   */
  fstat(fd: Fd, target: number): void {
    const at = this.#add(SYS_FSTAT, fd);
    putLong(this.#words, at + 4, target);
  }

  /**
   * Adds statx(2). What {@link fstat} asks for holds here, too.
   * @param path address of a NUL-terminated path.
   * @param target address for `struct statx`.
   */
  statx(fd: Fd, path: number, flags: number, mask: number, target: number): void {
    const at = this.#add(SYS_STATX, fd);
    const words = this.#words;
    putLong(words, at + 4, path);
    words[at + 6] = flags;
    words[at + 7] = 0;
    words[at + 8] = mask;
    words[at + 9] = 0;
    putLong(words, at + 10, target);
  }

  /**
   * Adds name_to_handle_at(2), without flags. What {@link fstat} asks for holds here, too.
   * @param path address of a NUL-terminated path.
   * @param handle address of a `struct file_handle` that tells its room.
   * @param mountId address of an i32.
   */
  nameToHandle(fd: Fd, path: number, handle: number, mountId: number): void {
    const at = this.#add(SYS_NAME_TO_HANDLE_AT, fd);
    const words = this.#words;
    putLong(words, at + 4, path);
    putLong(words, at + 6, handle);
    putLong(words, at + 8, mountId);
    words[at + 10] = 0;
    words[at + 11] = 0;
  }

  /** Adds send(2). @param source address of the data, which stay until the call was made. */
  send(fd: Fd, source: number, count: number, flags: number): void {
    const at = this.#add(SYS_SENDTO, fd);
    const words = this.#words;
    putLong(words, at + 4, source);
    putLong(words, at + 6, count);
    putLong(words, at + 8, flags);
    putLong(words, at + 10, 0);
    putLong(words, at + 12, 0);
  }

  /**
   * Adds io_submit(2).
   * @param context of asynchronous I/O, as io_setup(2) gave it.
   * @param list address of the addresses of `struct iocb`.
   */
  ioSubmit(context: number, count: number, list: number): void {
    const at = this.#add(SYS_IO_SUBMIT, context);
    const words = this.#words;
    putLong(words, at + 2, context);
    putLong(words, at + 4, count);
    putLong(words, at + 6, list);
  }

  /**
   * Adds epoll_wait(2).
   * @param events address for as many `struct epoll_event` as `most`.
   * @param timeout milliseconds; -1 for none.
   */
  epollWait(epoll: Fd, events: number, most: number, timeout: number): void {
    const at = this.#add(SYS_EPOLL_PWAIT, epoll);
    const words = this.#words;
    putLong(words, at + 4, events);
    putLong(words, at + 6, most);
    words[at + 8] = timeout;
    words[at + 9] = 0;
    putLong(words, at + 10, 0);
    putLong(words, at + 12, 0);
  }

  /**
   * Adds a read: pread(2), or preadv2(2) for several pieces or with flags. What {@link fstat} asks
   * for holds here, too.
   * @param flags of preadv2(2).
   */
  read(fd: Fd, pieces: Pieces, offset: number, flags: number): void {
    if (pieces.iovCount === 1 && flags === 0) {
      this.#transfer(SYS_PREAD64, fd, pieces.address, pieces.length, offset, 0);
    } else this.#transfer(SYS_PREADV2, fd, pieces.iov, pieces.iovCount, offset, flags);
  }

  /**
   * Adds a write: pwrite(2), or pwritev2(2) for several pieces. What {@link fstat} asks for holds
   * here, too.
   */
  write(fd: Fd, pieces: Pieces, offset: number): void {
    if (pieces.iovCount === 1) {
      this.#transfer(SYS_PWRITE64, fd, pieces.address, pieces.length, offset, 0);
    } else this.#transfer(SYS_PWRITEV2, fd, pieces.iov, pieces.iovCount, offset, 0);
  }

  /**
   * Adds a read or write. preadv2(2) and pwritev2(2) take the high half of the offset as one more
   * argument, which the kernel ignores where words have 64 bits.
   */
  #transfer(number: number, fd: Fd, address: number, count: number, offset: number, flags: number): void {
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

  /** Begins a call. @returns the index of its first word. Its second argument is at word 4. */
  #add(number: number, fd: number): number {
    const at = this.#count++ * CALL_WORDS;
    this.#words[at] = number;
    this.#words[at + 2] = fd;
    this.#words[at + 3] = 0;
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
   * Counts all calls as made, because another thread will {@link make} them. {@link run} must not
   * have made any of them.
   * @returns how many there are.
   */
  take(): number {
    this.#made = this.#count;
    return this.#count;
  }

  /** Gives each call this result, minus an errno: the thread that took the list has ended. */
  fail(result: number): void {
    for (let i = 0; i < this.#count; i++) this.#ints[i * CALL_WORDS + RESULT] = result;
  }

  /** The result of a call that was made: 0 or more, or minus the errno. @param index from 0 on. */
  result(index: number): number {
    return this.#ints[index * CALL_WORDS + RESULT]!;
  }

  /** Empties the list. */
  clear(): void {
    this.#count = 0;
    this.#made = 0;
  }

  /** Frees the list's memory. The list must not be used afterwards. */
  close(): void {
    this.#memory.free();
  }
}
