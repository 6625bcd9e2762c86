import {
  close,
  closeSync,
  fdatasync,
  fstat,
  ftruncate,
  openSync,
  read,
  readSync,
  unlinkSync,
  writeSync,
  writev,
  writevSync,
} from 'node:fs';
import { unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { DAEMON } from '../../../core/backend/index.js';
import { type Caller, turns } from '../../../core/backend/pool-turns.js';
import { Users } from '../client/concurrency.js';

/**
 * Writes of at most this many bytes, reads of what this process has written, and removals of files
 * up to this size, are made at once. They end in the page cache within microseconds; a hop to a
 * thread costs ten times as much. Larger ones, and everything that may wait for the disk, go to a
 * thread.
 */
const INLINE_MAX_BYTES = 64 * 1024;

const readAsync = promisify(read);
const writevAsync = promisify(writev);
const truncateAsync = promisify(ftruncate);
const syncAsync = promisify(fdatasync);
const statAsync = promisify(fstat);
const closeAsync = promisify(close);

/**
 * A file that only this process uses, accessed by position. Closing waits for calls in progress.
 */
export class JournalFile {
  /** The file's path. Whoever renames the file must set it. */
  path: string;
  readonly #fd: number;
  /** Whether this process has written all that it has. */
  readonly #isOwn: boolean;
  readonly #users = new Users();
  /** The mount: its journals lie in folders of its folder. */
  readonly #caller: Caller;
  #closed: Promise<void> | undefined;

  private constructor(path: string, fd: number, isOwn: boolean) {
    this.path = path;
    this.#isOwn = isOwn;
    this.#fd = fd;
    this.#caller = { guest: dirname(dirname(path)), signal: DAEMON.signal };
  }

  /** @throws the system's error: EEXIST if the file exists. */
  static create(path: string): JournalFile {
    return new JournalFile(path, openSync(path, 'wx+', 0o600), true);
  }

  static open(path: string, readOnly: boolean): JournalFile {
    return new JournalFile(path, openSync(path, readOnly ? 'r' : 'r+'), false);
  }

  async #use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw new Error(`${this.path}: closed`);
    return this.#users.run(() => turns.run(this.#caller, 'short', work));
  }

  /** Whether {@link writeAtOnce} is meant for so many bytes. */
  static isSmall(length: number): boolean {
    return length <= INLINE_MAX_BYTES;
  }

  /** Writes everything before it returns. */
  writeAtOnce(buffers: readonly Uint8Array[], position: number, length: number): void {
    if (this.#closed !== undefined) throw new Error(`${this.path}: closed`);
    const written = writevSync(this.#fd, buffers, position);
    if (written === length) return;
    const rest = Buffer.concat(buffers).subarray(written);
    for (let done = 0; done < rest.length;) {
      done += writeSync(this.#fd, rest, done, rest.length - done, position + written + done);
    }
  }

  /** Writes everything on a thread. */
  async write(buffers: readonly Uint8Array[], position: number, length: number): Promise<void> {
    await this.#use(async () => {
      const { bytesWritten } = await writevAsync(this.#fd, buffers, position);
      if (bytesWritten === length) return;
      let rest = Buffer.concat(buffers).subarray(bytesWritten);
      for (let at = position + bytesWritten; rest.length > 0;) {
        const { bytesWritten: more } = await writevAsync(this.#fd, [rest], at);
        rest = rest.subarray(more);
        at += more;
      }
    });
  }

  /** @throws Error if the file ends too early. */
  async read(position: number, target: Uint8Array): Promise<void> {
    if (this.#isOwn && JournalFile.isSmall(target.length) && this.#closed === undefined) {
      if (readSync(this.#fd, target, 0, target.length, position) === target.length) return;
    }
    await this.#use(async () => {
      for (let done = 0; done < target.length;) {
        const { bytesRead } = await readAsync(this.#fd, target, done, target.length - done, position + done);
        if (bytesRead === 0) throw new Error(`${this.path}: ends before ${position + target.length}`);
        done += bytesRead;
      }
    });
  }

  async size(): Promise<number> {
    return (await this.#use(() => statAsync(this.#fd))).size;
  }

  async truncate(size: number): Promise<void> {
    await this.#use(() => truncateAsync(this.#fd, size));
  }

  /** Resolves when the data is on the disk. */
  async sync(): Promise<void> {
    await this.#use(() => syncAsync(this.#fd));
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close(undefined);
    return this.#closed;
  }

  /** Closes and deletes the file. @param size bytes in it. */
  remove(size: number): Promise<void> {
    this.#closed ??= this.#close(size);
    return this.#closed;
  }

  async #close(removed: number | undefined): Promise<void> {
    await this.#users.gone();
    if (removed !== undefined && removed <= INLINE_MAX_BYTES) {
      closeSync(this.#fd);
      unlinkSync(this.path);
      return;
    }
    // Closing a removed file gives back what it had on the disk, which may take a while.
    await turns.run(this.#caller, 'short', async () => {
      if (removed !== undefined) await unlink(this.path);
      await closeAsync(this.#fd);
    });
  }
}
