import { FileType, FsError, ModeBits, nameLength, NAME_MAX, type Time } from '../../../core/backend/index.js';
import { Bytes } from '../content/bytes.js';
import { contentOf, type Inode } from '../tree/inode.js';
import type { Creator, Tree } from '../tree/tree.js';
import { setXattr } from '../tree/xattrs.js';

/** Type and attributes of a file to add. Absent times are the current time. */
export interface NewFile {
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev?: number;
  readonly target?: string;
  readonly mtime?: Time | undefined;
  readonly atime?: Time | undefined;
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
}

const PAGE_BYTES = 4096;
const ZEROS = Buffer.alloc(PAGE_BYTES);

/**
 * Fills a tree from elsewhere, by paths. Missing directories are created; existing files are
 * replaced. Symbolic links in the tree are never followed, so nothing in an archive leads out of
 * it.
 */
export class TreeBuilder {
  readonly #tree: Tree;
  readonly #times = new Map<Inode, NewFile>();
  /** What was added, where something that was there before may have to go. */
  readonly #added: Set<Inode> | undefined;
  /** Directories that have nothing left of what was before. */
  readonly #emptied = new Set<Inode>();
  /** Number of files and directories added. */
  files = 0;
  /** Bytes of content added. */
  bytes = 0;

  /**
   * @param isLayer what was there before may be removed, and gives way also where it is a directory
   * with content.
   */
  constructor(tree: Tree, isLayer = false) {
    this.#tree = tree;
    this.#added = isLayer ? new Set() : undefined;
  }

  /**
   * Removes what was at a path before the first addition. Of a directory that was added since, or
   * at the root or after a slash, this removes the content. Nothing happens where nothing is.
   */
  removeBefore(path: string): void {
    const steps = stepsOf(path);
    const keeps = path === '' || path.endsWith('/');
    const name = steps.pop();
    let parent = this.#tree.root;
    for (const step of steps) {
      const next = parent.entries === undefined ? undefined : this.#tree.lookup(parent, step);
      if (next === undefined) return;
      parent = next;
    }
    if (name === undefined) return this.#emptyBefore(parent);
    const inode = parent.entries === undefined ? undefined : this.#tree.lookup(parent, name);
    if (inode === undefined) return;
    if (keeps || this.#added?.has(inode) === true) this.#emptyBefore(inode);
    else this.#removeAll(parent, name, inode);
  }

  /** Removes of a directory's content what was not added. */
  #emptyBefore(directory: Inode): void {
    if (this.#emptied.has(directory)) return;
    this.#emptied.add(directory);
    for (const name of Array.from(directory.entries?.keys() ?? [])) {
      const inode = this.#tree.lookup(directory, name)!;
      if (this.#added?.has(inode) === true) this.#emptyBefore(inode);
      else this.#removeAll(directory, name, inode);
    }
  }

  #removeAll(parent: Inode, name: string, inode: Inode): void {
    if (inode.entries === undefined) {
      this.#tree.unlink(parent, name);
      return;
    }
    for (const child of Array.from(inode.entries.keys()))
      this.#removeAll(inode, child, this.#tree.lookup(inode, child)!);
    this.#tree.rmdir(parent, name);
  }

  /**
   * Adds a file, directory, link or device.
   * @throws FsError; EINVAL for a path that leaves the tree.
   */
  add(path: string, file: NewFile): Inode {
    const steps = stepsOf(path);
    const name = steps.pop();
    const inode = name === undefined ? this.#tree.root : this.#place(this.#directory(steps), name, file);
    this.#setAttributes(inode, file);
    this.#added?.add(inode);
    this.files += 1;
    return inode;
  }

  /** Adds another name of an existing file. @throws ENOENT */
  link(path: string, existing: string): void {
    const steps = stepsOf(existing);
    const name = steps.pop() ?? '';
    const inode = this.#tree.lookup(this.#directory(steps), name);
    if (inode === undefined) throw FsError.of('ENOENT');
    const places = stepsOf(path);
    const last = places.pop();
    if (last === undefined) throw FsError.of('EINVAL');
    const parent = this.#directory(places);
    const old = this.#tree.lookup(parent, last);
    if (old === inode) return;
    if (old !== undefined && this.#added !== undefined) this.#removeAll(parent, last, old);
    else if (old !== undefined) this.#tree.unlink(parent, last);
    this.#tree.link(inode, parent, last);
    this.files += 1;
  }

  /** Writes content. If `sparse`, whole pages of zeros become holes. @throws ENOSPC */
  write(inode: Inode, offset: number, content: Uint8Array, sparse = false): void {
    const { arena, space } = this.#tree;
    const file = contentOf(inode);
    this.bytes += content.length;
    for (let at = 0; at < content.length;) {
      let end = content.length;
      if (sparse) {
        const isHole = isZeroPage(content, at, offset);
        end = nextPage(at, offset, content.length);
        while (end < content.length && isZeroPage(content, end, offset) === isHole) {
          end = nextPage(end, offset, content.length);
        }
        if (isHole) {
          at = end;
          continue;
        }
      }
      const part = content.subarray(at, end);
      if (file.write(new Bytes(part), offset + at, arena, space) < part.length) throw FsError.of('ENOSPC');
      at = end;
    }
  }

  /** Sets a file's length. */
  resize(inode: Inode, size: number): void {
    contentOf(inode).size = size;
  }

  /** Must be called at the end: sets the times that adding files has changed. */
  finish(): void {
    for (const [inode, { mtime, atime }] of this.#times) {
      if (inode.nlink === 0) continue;
      const changes = {
        ...(mtime === undefined ? {} : { mtime }),
        ...(atime === undefined ? {} : { atime }),
      };
      this.#tree.change(inode, changes, false);
    }
  }

  /** Makes a directory that something was added to before it was itself. */
  #make(parent: Inode, name: string, file: NewFile): Inode {
    const made = this.#place(parent, name, file);
    this.#added?.add(made);
    this.#emptied.add(made);
    return made;
  }

  #place(parent: Inode, name: string, { mode, uid, gid, rdev = 0, target }: NewFile): Inode {
    if (nameLength(name) > NAME_MAX) throw FsError.of('ENAMETOOLONG');
    const type = mode & FileType.MASK;
    const old = this.#tree.lookup(parent, name);
    if (old !== undefined) {
      if (old.entries !== undefined && type === FileType.DIRECTORY) return old;
      if (this.#added !== undefined) this.#removeAll(parent, name, old);
      else if (old.entries === undefined) this.#tree.unlink(parent, name);
      else this.#tree.rmdir(parent, name);
    }
    const creator: Creator = { uid, gid, umask: 0, groups: [], securityContext: undefined };
    if (type === FileType.SYMLINK) return this.#tree.symlink(parent, name, target ?? '', creator);
    return this.#tree.create(parent, name, mode, rdev, creator);
  }

  #setAttributes(inode: Inode, file: NewFile): void {
    inode.uid = file.uid;
    inode.gid = file.gid;
    if (inode.target === undefined) {
      inode.mode = (inode.mode & FileType.MASK) | (file.mode & ModeBits.PERMISSIONS);
    }
    for (const [name, value] of file.xattrs ?? []) this.#setXattr(inode, name, value);
    if (file.mtime !== undefined || file.atime !== undefined) this.#times.set(inode, file);
  }

  /** Sets an xattr. One in a namespace that this file system does not have is left out. */
  #setXattr(inode: Inode, name: string, value: Uint8Array): void {
    try {
      setXattr(inode, name, value, 0, false, this.#tree.space);
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'EOPNOTSUPP') throw error;
    }
  }

  #directory(steps: readonly string[]): Inode {
    let at = this.#tree.root;
    for (const step of steps) {
      const mode = FileType.DIRECTORY | 0o755;
      const found = this.#tree.lookup(at, step);
      if (found !== undefined && found.entries === undefined) throw FsError.of('ENOTDIR');
      at = found ?? this.#make(at, step, { mode, uid: 0, gid: 0 });
    }
    return at;
  }
}

/** @throws EINVAL for a path that goes up. */
function stepsOf(path: string): string[] {
  const steps = path.split('/').filter((step) => step !== '' && step !== '.');
  if (steps.includes('..') || path.includes('\0')) throw FsError.of('EINVAL');
  return steps;
}

/** End of the page of the file that holds byte `at` of a piece that lies at `offset`. */
function nextPage(at: number, offset: number, length: number): number {
  return Math.min(length, at + PAGE_BYTES - ((offset + at) % PAGE_BYTES));
}

function isZeroPage(content: Uint8Array, at: number, offset: number): boolean {
  const end = nextPage(at, offset, content.length);
  return Buffer.compare(content.subarray(at, end), ZEROS.subarray(0, end - at)) === 0;
}
