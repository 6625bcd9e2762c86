import { type Attributes, type DirectoryEntry, FsError, type FsStatistics } from '../backend/index.js';

/** Attributes of what a path stands for. */
export interface PathAttributes extends Attributes {
  /**
   * The same text for the same file, by whatever path, and for no other file that is there at the
   * time. Absent: each path is a file of its own.
   */
  readonly identity?: string | undefined;
}

/** An open file. It lives on when its path is removed, if the file system can do that. */
export interface PathFile {
  /** Reads at a position. Less than `into.length`: the end of the file. */
  read?(into: Buffer, position: number): Promise<number>;
  /** Writes at a position, or at the end if the file was opened with APPEND. */
  write?(bytes: Buffer, position: number): Promise<number>;
  /** Absent: the path is asked, and a file whose path was removed has no attributes. */
  stat?(): Promise<PathAttributes>;
  /** Absent: the path's {@link PathFileSystem.truncate} is called. */
  truncate?(size: number): Promise<void>;
  /** Absent: what was written is durable. */
  sync?(dataOnly: boolean): Promise<void>;
  /** A descriptor of it was closed. The last moment to give an error to close(2). */
  flush?(): Promise<void>;
  close(): Promise<void>;
}

/**
 * A file system that knows files by their paths. A path begins with a slash; `/` is the root.
 * Symbolic links are not followed. Each method rejects with an `FsError`; what it lacks, guests
 * cannot do.
 */
export interface PathFileSystem {
  stat(path: string): Promise<PathAttributes>;
  /** Absent: directories cannot be listed. */
  list?(path: string): Promise<readonly DirectoryEntry[]>;
  /**
   * @param flags {@link OpenFlags}. With CREAT a file is made where there is none, with EXCL only
   * then.
   * @param mode permission bits of a file that is made.
   */
  open?(path: string, flags: number, mode: number): Promise<PathFile>;
  readlink?(path: string): Promise<string>;
  symlink?(target: string, path: string): Promise<void>;
  link?(path: string, newPath: string): Promise<void>;
  mkdir?(path: string, mode: number): Promise<void>;
  /** @param mode with type bits. Absent: regular files only, by {@link open}. */
  mknod?(path: string, mode: number, rdev: number): Promise<void>;
  unlink?(path: string): Promise<void>;
  rmdir?(path: string): Promise<void>;
  /** Replaces what is at `newPath`, as rename(2). */
  rename?(path: string, newPath: string): Promise<void>;
  chmod?(path: string, mode: number): Promise<void>;
  chown?(path: string, uid: number, gid: number): Promise<void>;
  /** Seconds since the epoch. */
  utimes?(path: string, atime: number, mtime: number): Promise<void>;
  truncate?(path: string, size: number): Promise<void>;
  statfs?(path: string): Promise<FsStatistics>;
  getxattr?(path: string, name: string): Promise<Uint8Array | undefined>;
  listxattr?(path: string): Promise<readonly string[]>;
  setxattr?(path: string, name: string, value: Uint8Array, flags: number): Promise<void>;
  removexattr?(path: string, name: string): Promise<void>;
}

/** What was asked for; undefined where there is no such file. */
export function unlessMissing<T>(asked: Promise<T>): Promise<T | undefined> {
  return asked.catch((error: unknown) => {
    if (error === FsError.of('ENOENT')) return undefined;
    throw error;
  });
}
