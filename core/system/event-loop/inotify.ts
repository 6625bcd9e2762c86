import { libc, result, SystemError } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import type { Fd } from '../descriptors/fd.js';
import { NativeMemory } from '../memory/native-memory.js';
import { type Watch, watch } from './watch.js';

/** `IN_*`, Linux `include/uapi/linux/inotify.h`. */
const MODIFY = 0x2;
const ATTRIB = 0x4;
const MOVED_FROM = 0x40;
const MOVED_TO = 0x80;
const CREATE = 0x100;
const DELETE = 0x200;
const ONLYDIR = 0x0100_0000;
const EXCL_UNLINK = 0x0400_0000;

const WATCHED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | ONLYDIR | EXCL_UNLINK;

/** `IN_NONBLOCK | IN_CLOEXEC`. */
const FLAGS = 0o4000 | 0o2000000;

/** Offsets of `struct inotify_event`. */
const MASK = 4;
const NAME_LENGTH = 12;
const NAME = 16;

/** What is read in one turn of the event loop: hundreds of events. */
const BUFFER_BYTES = 16_384;

const init = libc<(flags: number) => Fd>('inotify_init1', 'int', ['int']);
const add = libc<(fd: Fd, path: string, mask: number) => number>('inotify_add_watch', 'int', [
  'int',
  'str',
  'uint',
]);
const remove = libc<(fd: Fd, watch: number) => number>('inotify_rm_watch', 'int', ['int', 'int']);

/** What happened to a name in a directory. */
export type InotifyKind = 'made' | 'removed' | 'content' | 'attributes';

/** Changes in directories, by inotify(7). Events that the kernel has no room for are lost. */
export class Inotify {
  readonly #fd: Fd;
  readonly #memory: NativeMemory;
  readonly #watch: Watch;
  readonly #happened: (watch: number, kind: InotifyKind, name: Uint8Array) => void;
  #isClosed = false;

  /**
   * @param happened is told of each change, with the name's bytes, which stay until it returns;
   * none for the directory itself.
   * @throws SystemError if the user has no more instances (fs.inotify.max_user_instances).
   */
  constructor(happened: (watch: number, kind: InotifyKind, name: Uint8Array) => void) {
    this.#happened = happened;
    this.#fd = result(init(FLAGS)) as Fd;
    if (this.#fd < 0) throw new SystemError('inotify_init1', -this.#fd);
    this.#memory = NativeMemory.allocate(BUFFER_BYTES);
    this.#watch = watch(this.#fd, () => this.#read());
  }

  /**
   * Watches a directory, by an open descriptor of it, which may be closed then.
   * @returns a number for the watch, the same for the same directory; or minus the errno: ENOSPC
   * where the user has no more watches.
   */
  add(directory: Fd): number {
    return result(add(this.#fd, `/proc/self/fd/${directory}`, WATCHED));
  }

  remove(number: number): void {
    if (!this.#isClosed) remove(this.#fd, number);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watch.close();
    native.close(this.#fd);
    this.#memory.free();
  }

  #read(): void {
    const { u8, i32, u32, address } = this.#memory;
    const length = result(native.read(this.#fd, address, BUFFER_BYTES));
    for (let at = 0; at < length && !this.#isClosed;) {
      const nameLength = u32[(at + NAME_LENGTH) >> 2]!;
      const name = u8.subarray(at + NAME, at + NAME + nameLength);
      const end = name.indexOf(0);
      const kind = kindOf(u32[(at + MASK) >> 2]!);
      if (kind !== undefined) this.#happened(i32[at >> 2]!, kind, end < 0 ? name : name.subarray(0, end));
      at += NAME + nameLength;
    }
  }
}

function kindOf(mask: number): InotifyKind | undefined {
  if ((mask & (CREATE | MOVED_TO)) !== 0) return 'made';
  if ((mask & (DELETE | MOVED_FROM)) !== 0) return 'removed';
  if ((mask & MODIFY) !== 0) return 'content';
  return (mask & ATTRIB) === 0 ? undefined : 'attributes';
}
