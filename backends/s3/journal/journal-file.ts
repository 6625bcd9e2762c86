import {
  close,
  closeSync,
  fdatasync,
  fstat,
  ftruncate,
  openSync,
  read,
  unlinkSync,
  writeSync,
  writev,
  writevSync,
} from 'node:fs';
import { unlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import { Users } from '../client/deadline.js';

/**
 * Writes up to this size, and removals of files up to that, are done at once: they end in the page
 * cache within microseconds, and a hop to a thread and back costs ten times as much. What is larger
 * goes to a thread, as does all that may wait for the disk.
 */
const AT_ONCE = 64 * 1024;

const readAsync = promisify(read);
const writevAsync = promisify(writev);
const truncateAsync = promisify(ftruncate);
const syncAsync = promisify(fdatasync);
const statAsync = promisify(fstat);
const closeAsync = promisify(close);

/** A file of this process's own, by position. Closing it waits for what is under way. */
export class JournalFile {
  /** Where it is: who renames it says so here. */
  path: string;
  readonly #fd: number;
  readonly #users = new Users();
  #closed: Promise<void> | undefined;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /** @throws the system's error: EEXIST where there is one. */
  static create(path: string): JournalFile {
    return new JournalFile(path, openSync(path, 'wx+', 0o600));
  }

  static open(path: string, readOnly: boolean): JournalFile {
    return new JournalFile(path, openSync(path, readOnly ? 'r' : 'r+'));
  }

  async #use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw new Error(`${this.path}: closed`);
    return this.#users.run(work);
  }

  /** Whether so many bytes can be written by {@link writeAtOnce}. */
  static isSmall(length: number): boolean {
    return length <= AT_ONCE;
  }

  /** Writes all of it before it returns. */
  writeAtOnce(buffers: readonly Uint8Array[], position: number, length: number): void {
    if (this.#closed !== undefined) throw new Error(`${this.path}: closed`);
    const written = writevSync(this.#fd, buffers, position);
    if (written === length) return;
    const rest = Buffer.concat(buffers).subarray(written);
    for (let done = 0; done < rest.length;) {
      done += writeSync(this.#fd, rest, done, rest.length - done, position + written + done);
    }
  }

  /** Writes all of it. */
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

  /** @throws Error where the file ends before. */
  async read(position: number, target: Uint8Array): Promise<void> {
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

  /** Returns when the data is on the disk. */
  async sync(): Promise<void> {
    await this.#use(() => syncAsync(this.#fd));
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close(undefined);
    return this.#closed;
  }

  /** Closes it, and takes its name away. @param size bytes that are in it. */
  remove(size: number): Promise<void> {
    this.#closed ??= this.#close(size);
    return this.#closed;
  }

  async #close(removed: number | undefined): Promise<void> {
    await this.#users.gone();
    if (removed !== undefined && removed <= AT_ONCE) {
      closeSync(this.#fd);
      unlinkSync(this.path);
      return;
    }
    await closeAsync(this.#fd);
    if (removed !== undefined) await unlink(this.path);
  }
}
