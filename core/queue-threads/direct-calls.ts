import type { GuestBuffer } from '../backend/index.js';
import { GATHERED_MOST } from '../fuse/index.js';
import { FsetidSwitch } from '../system/calls/credentials.js';
import { fstat, STATX_NAME, statx } from '../system/calls/files.js';
import { type Fd, CallList, NativeMemory, readInto, writeFrom } from '../system/index.js';

/**
 * Each gathered call has a place of 512 bytes for `struct stat` or `struct statx`, and for a name
 * from byte 256 on. One more place serves calls that are made alone.
 */
const ALONE = GATHERED_MOST;
const NAME = 256;
const PLACE = 512;

/** Makes the system calls of one thread, one by one or many together. */
export class DirectCalls {
  /** The results of `stat` and `statx`, as 32-bit words. */
  readonly stats: Int32Array;
  readonly #memory = NativeMemory.allocate((GATHERED_MOST + 1) * PLACE);
  readonly #list = CallList.open(GATHERED_MOST);
  readonly #fsetid = new FsetidSwitch();

  constructor() {
    this.stats = this.#memory.i32;
  }

  /** Whether calls can be gathered on this machine (see {@link CallList}). */
  get gathers(): boolean {
    return this.#list !== undefined;
  }

  /** @param flags those of preadv2(2). @returns the bytes read, or minus the errno. */
  read(fd: Fd, buffer: GuestBuffer, offset: number, flags: number): number {
    return readInto(fd, buffer, offset, flags);
  }

  /** @returns the bytes written, or minus the errno. */
  write(fd: Fd, buffer: GuestBuffer, offset: number): number {
    return writeFrom(fd, buffer, offset);
  }

  /**
   * fstat(2).
   * @returns index of the first word of `struct stat` in {@link stats}, or minus the errno.
   */
  stat(fd: Fd): number {
    return found(fstat(fd, this.#memory.address + ALONE * PLACE), ALONE);
  }

  /**
   * statx(2) of a name, the bytes of `source` from `start` to `end`.
   * @returns as {@link stat}, of `struct statx`.
   */
  statName(fd: Fd, source: Uint8Array, start: number, end: number): number {
    const place = this.#memory.address + ALONE * PLACE;
    return found(
      statx(fd, this.#putName(ALONE, source, start, end), STATX_NAME.FLAGS, STATX_NAME.MASK, place),
      ALONE,
    );
  }

  /** Says whether writes from here on clear set-user-id and set-group-id bits. */
  clearSetIds(clears: boolean): void {
    this.#fsetid.use(!clears);
  }

  addRead(fd: Fd, buffer: GuestBuffer, offset: number, flags: number): void {
    this.#list!.read(fd, buffer, offset, flags);
  }

  addWrite(fd: Fd, buffer: GuestBuffer, offset: number): void {
    this.#list!.write(fd, buffer, offset);
  }

  addStat(fd: Fd): void {
    this.#list!.fstat(fd, this.#memory.address + this.#list!.count * PLACE);
  }

  addStatName(fd: Fd, source: Uint8Array, start: number, end: number): void {
    const index = this.#list!.count;
    const name = this.#putName(index, source, start, end);
    this.#list!.statx(fd, name, STATX_NAME.FLAGS, STATX_NAME.MASK, this.#memory.address + index * PLACE);
  }

  /** Makes the calls that were added. */
  run(): void {
    this.#list?.run();
  }

  /** The result of a gathered read or write: its bytes, or minus the errno. */
  transferred(index: number): number {
    return this.#list!.result(index);
  }

  /** The result of a gathered stat, as {@link stat} returns it. */
  statted(index: number): number {
    return found(this.#list!.result(index), index);
  }

  clear(): void {
    this.#list?.clear();
  }

  close(): void {
    this.#list?.close();
    this.#memory.free();
  }

  /** @returns the name's address. */
  #putName(place: number, source: Uint8Array, start: number, end: number): number {
    const bytes = this.#memory.u8;
    const at = place * PLACE + NAME;
    for (let i = start; i < end; i++) bytes[at + i - start] = source[i]!;
    bytes[at + end - start] = 0;
    return this.#memory.address + at;
  }
}

function found(code: number, place: number): number {
  return code < 0 ? code : (place * PLACE) >> 2;
}
