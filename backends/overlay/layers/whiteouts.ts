import {
  DAEMON,
  type Awaitable,
  type Backend,
  type Entry,
  FileType,
  FsError,
  nameBytes,
  decodeName,
  run,
  type Steps,
  andThen,
  wait,
} from '../../../core/backend/index.js';
import type { Layer } from './layer.js';

/** What a layer has at a name: an entry (its node is held), a whiteout, or nothing. */
export type Found = Entry<object> | 'whiteout' | undefined;

/** The name that a directory entry hides, if the entry is a whiteout; otherwise undefined. */
export type WhiteoutOf = (name: string, type: number) => Awaitable<string | undefined>;

/**
 * How a layer records what only a union needs: that a name is removed (whiteout), that a directory
 * hides the directories below it (opaque), where the lowers of a renamed directory are (redirect).
 */
export interface Marks {
  /**
   * Whether a whiteout has the very name that it hides. A new file must then replace it; otherwise
   * file and whiteout may exist side by side, and the file wins.
   */
  readonly inPlace: boolean;
  /** Whether a name exists for marks only. Guests never see, find or create such names. */
  reserves(name: string): boolean;
  /** The name under which a guest's extended attribute is stored. */
  escape(name: string): string;
  /** The guest's name of a stored attribute; nothing for a mark. */
  unescape(name: string): string | undefined;
  find(layer: Layer, directory: object, name: string): Awaitable<Found>;
  /** For listings: gives a function that says which name an entry hides, if it is a whiteout. */
  whiteouts(layer: Layer, directory: object): Awaitable<WhiteoutOf>;
  isOpaque(layer: Layer, directory: object): Awaitable<boolean>;
  /** Whether nodes of a type (S_IFMT bits) can have marks. */
  holds(type: number): boolean;
  /** Reads a mark of a node: `redirect`, `origin`, `nlink`, `impure`. */
  get(layer: Layer, node: object, mark: string): Awaitable<string | undefined>;
  set(layer: Layer, node: object, mark: string, value: string): Awaitable<void>;
  /** Removes a mark that exists. */
  unset(layer: Layer, node: object, mark: string): Awaitable<void>;
  /**
   * Whether a directory may contain files that were copied up, whose content may still be in a
   * lower.
   */
  isImpure(layer: Layer, directory: object): Awaitable<boolean>;
  /**
   * Whether a file has only the metadata, and its content is in a layer below.
   * @throws EIO if the mark is not understood.
   */
  isMetacopy(layer: Layer, file: object): Awaitable<boolean>;
  setOpaque(layer: Layer, directory: object): Awaitable<void>;
  /**
   * Adds a whiteout that hides a name. If whiteouts are `inPlace`, the name must be free in this
   * layer.
   */
  addWhiteout(layer: Layer, directory: object, name: string): Awaitable<void>;
  /** Removes a whiteout that exists. */
  removeWhiteout(layer: Layer, directory: object, name: string): Awaitable<void>;
}

/**
 * The format of Linux overlayfs: `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque
 * directories".
 */
export class OverlayfsMarks implements Marks {
  readonly inPlace = true;
  readonly #prefix: string;

  readonly #namespace: 'trusted' | 'user';

  /**
   * @param namespace of the extended attributes: `trusted`, or `user` as with the mount option
   * `userxattr`.
   */
  constructor(namespace: 'trusted' | 'user') {
    this.#namespace = namespace;
    this.#prefix = `${namespace}.overlay.`;
  }

  holds(type: number): boolean {
    return this.#namespace === 'trusted' || type === FileType.DIRECTORY || type === FileType.REGULAR;
  }

  reserves(): boolean {
    return false;
  }

  /**
   * A guest's own `overlay.` attribute is stored one level deeper, as overlayfs does for nested
   * overlays.
   */
  escape(name: string): string {
    return name.startsWith(this.#prefix) ? `${this.#prefix}overlay.${name.slice(this.#prefix.length)}` : name;
  }

  /** The guest's name of a stored attribute; nothing for a mark. */
  unescape(name: string): string | undefined {
    if (!name.startsWith(this.#prefix)) return name;
    const rest = name.slice(this.#prefix.length);
    return rest.startsWith('overlay.') ? this.#prefix + rest.slice('overlay.'.length) : undefined;
  }

  find(layer: Layer, directory: object, name: string): Awaitable<Found> {
    return andThen(layer.lookup(directory, name), (entry) => {
      if (entry === undefined) return undefined;
      const { mode, rdev = 0, size = 0 } = entry.attributes;
      const type = mode & FileType.MASK;
      if (type === FileType.CHARACTER && rdev === 0) {
        layer.drop(entry.node);
        return 'whiteout';
      }
      if (type !== FileType.REGULAR || size !== 0 || layer.number === 0) return entry;
      const found = { node: entry.node, attributes: { ...entry.attributes } };
      return andThen(run(this.#isEmptyWhiteout(layer, directory, found.node)), (hides) => {
        if (!hides) return found;
        layer.drop(found.node);
        return 'whiteout';
      });
    });
  }

  /**
   * Whether an empty file is a whiteout: it has the mark, and its directory says that it may
   * contain such files (Linux 6.8).
   */
  *#isEmptyWhiteout(layer: Layer, directory: object, node: object): Steps<boolean> {
    if ((yield* wait(this.get(layer, node, 'whiteout'))) === undefined) return false;
    return (yield* wait(this.get(layer, directory, 'opaque'))) === 'x';
  }

  whiteouts(layer: Layer, directory: object): Awaitable<WhiteoutOf> {
    return andThen(layer.number === 0 ? undefined : this.get(layer, directory, 'opaque'), (opaque) => {
      return (name, type) =>
        type === FileType.CHARACTER || type === 0 || (type === FileType.REGULAR && opaque === 'x')
          ? this.#isWhiteout(layer, directory, name)
          : undefined;
    });
  }

  #isWhiteout(layer: Layer, directory: object, name: string): Awaitable<string | undefined> {
    return andThen(this.find(layer, directory, name), (found) => {
      if (found === 'whiteout') return name;
      if (found !== undefined) layer.drop(found.node);
      return undefined;
    });
  }

  isOpaque(layer: Layer, directory: object): Awaitable<boolean> {
    return andThen(this.get(layer, directory, 'opaque'), (text) => text === 'y');
  }

  get(layer: Layer, node: object, mark: string): Awaitable<string | undefined> {
    const value = this.#value(layer, node, mark);
    return value instanceof Promise ? value.then(markText) : markText(value);
  }

  #value(layer: Layer, node: object, mark: string): Awaitable<Uint8Array | undefined> {
    if (layer.backend.getxattr === undefined) return undefined;
    try {
      const value = layer.backend.getxattr(node, this.#prefix + mark, DAEMON);
      return value instanceof Promise ? value.catch(noAttributes) : value;
    } catch (error) {
      return noAttributes(error);
    }
  }

  set(layer: Layer, node: object, mark: string, value: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.setxattr === undefined) throw FsError.of('EOPNOTSUPP');
    return backend.setxattr(node, this.#prefix + mark, nameBytes(value), 0, false, DAEMON);
  }

  unset(layer: Layer, node: object, mark: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.removexattr === undefined) throw FsError.of('EOPNOTSUPP');
    return backend.removexattr(node, this.#prefix + mark, DAEMON);
  }

  isImpure(layer: Layer, directory: object): Awaitable<boolean> {
    return andThen(this.get(layer, directory, 'impure'), (text) => text === 'y');
  }

  isMetacopy(layer: Layer, file: object): Awaitable<boolean> {
    return andThen(this.#value(layer, file, 'metacopy'), (value) => {
      if (value !== undefined && !isMetacopyValue(value)) throw FsError.of('EIO');
      return value !== undefined;
    });
  }

  setOpaque(layer: Layer, directory: object): Awaitable<void> {
    return this.set(layer, directory, 'opaque', 'y');
  }

  addWhiteout(layer: Layer, directory: object, name: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.mknod === undefined) throw FsError.of('EOPNOTSUPP');
    return andThen(backend.mknod(directory, name, FileType.CHARACTER, 0, DAEMON), (entry) => {
      layer.keep(entry);
      layer.drop(entry.node);
    });
  }

  removeWhiteout(layer: Layer, directory: object, name: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.unlink === undefined) throw FsError.of('EOPNOTSUPP');
    return backend.unlink(directory, name, DAEMON);
  }
}

function markText(value: Uint8Array | undefined): string | undefined {
  return value && decodeName(value);
}

/**
 * The value of `overlay.metacopy` is empty, or `struct ovl_metacopy`: version 0, its own length,
 * flags, the digest's algorithm (0: none), the digest (Linux `fs/overlayfs/overlayfs.h`). The
 * digest is for fs-verity and is not checked, as with the mount option `verity=off`.
 */
function isMetacopyValue(value: Uint8Array): boolean {
  return value.length === 0 || (value.length >= 4 && value[0] === 0 && value[1] === value.length);
}

/**
 * A part of a layer may be on a file system without extended attributes. Nothing there has marks.
 */
function noAttributes(error: unknown): undefined {
  if (!(error instanceof FsError) || error.code !== 'EOPNOTSUPP') throw error;
}

const WHITEOUT = '.wh.';
const META = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';

/**
 * Reserved names, for layers without device nodes or extended attributes: `.wh.NAME` hides NAME and
 * `.wh..wh..opq` makes its directory opaque (OCI image specification, "layer.md", whiteouts). A
 * redirect is a symbolic link `.wh..wh.redirect` in the directory. Marks of files (`origin`,
 * `nlink`, `metacopy`) have no place here and are not kept.
 */
export class NameMarks implements Marks {
  readonly inPlace = false;

  reserves(name: string): boolean {
    return name.startsWith(WHITEOUT);
  }

  holds(type: number): boolean {
    return type === FileType.DIRECTORY;
  }

  escape(name: string): string {
    return name;
  }

  unescape(name: string): string {
    return name;
  }

  find(layer: Layer, directory: object, name: string): Awaitable<Found> {
    return andThen(layer.lookup(directory, name), (entry) => {
      if (entry !== undefined) return entry;
      return andThen(this.#exists(layer, directory, WHITEOUT + name), (hidden) =>
        hidden ? 'whiteout' : undefined,
      );
    });
  }

  #exists(layer: Layer, directory: object, name: string): Awaitable<boolean> {
    return andThen(layer.lookup(directory, name), (entry) => {
      if (entry !== undefined) layer.drop(entry.node);
      return entry !== undefined;
    });
  }

  whiteouts(): WhiteoutOf {
    return (name) =>
      name.startsWith(WHITEOUT) && !name.startsWith(META) ? name.slice(WHITEOUT.length) : undefined;
  }

  isOpaque(layer: Layer, directory: object): Awaitable<boolean> {
    return this.#exists(layer, directory, OPAQUE);
  }

  get(layer: Layer, node: object, mark: string): Awaitable<string | undefined> {
    return run(this.#get(layer, node, mark));
  }

  *#get(layer: Layer, node: object, mark: string): Steps<string | undefined> {
    const entry = yield* wait(layer.lookup(node, META + mark));
    if (entry === undefined) return undefined;
    try {
      if ((entry.attributes.mode & FileType.MASK) !== FileType.SYMLINK) return undefined;
      return layer.backend.readlink === undefined
        ? undefined
        : yield* wait(layer.backend.readlink(entry.node, DAEMON));
    } finally {
      layer.drop(entry.node);
    }
  }

  set(layer: Layer, node: object, mark: string, value: string): Awaitable<void> {
    return run(this.#set(layer, node, mark, value));
  }

  *#set(layer: Layer, node: object, mark: string, value: string): Steps<void> {
    const { backend } = layer;
    if (backend.symlink === undefined || backend.unlink === undefined) throw FsError.of('EXDEV');
    const before = yield* wait(this.get(layer, node, mark));
    if (before === value) return;
    if (before !== undefined) yield* wait(backend.unlink(node, META + mark, DAEMON));
    const entry = yield* wait(backend.symlink(node, META + mark, value, DAEMON));
    layer.keep(entry);
    layer.drop(entry.node);
  }

  unset(layer: Layer, node: object, mark: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.unlink === undefined) throw FsError.of('EOPNOTSUPP');
    return backend.unlink(node, META + mark, DAEMON);
  }

  isImpure(layer: Layer, directory: object): Awaitable<boolean> {
    return layer.number === 0 && andThen(this.get(layer, directory, 'impure'), (text) => text === 'y');
  }

  isMetacopy(): boolean {
    return false;
  }

  setOpaque(layer: Layer, directory: object): Awaitable<void> {
    return makeEmpty(layer, directory, OPAQUE);
  }

  addWhiteout(layer: Layer, directory: object, name: string): Awaitable<void> {
    return makeEmpty(layer, directory, WHITEOUT + name);
  }

  removeWhiteout(layer: Layer, directory: object, name: string): Awaitable<void> {
    const { backend } = layer;
    if (backend.unlink === undefined) throw FsError.of('EOPNOTSUPP');
    return backend.unlink(directory, WHITEOUT + name, DAEMON);
  }
}

function makeEmpty(layer: Layer, directory: object, name: string): Awaitable<void> {
  return run(makeEmptySteps(layer, directory, name));
}

function* makeEmptySteps(layer: Layer, directory: object, name: string): Steps<void> {
  const there = yield* wait(layer.lookup(directory, name));
  if (there !== undefined) {
    layer.drop(there.node);
    return;
  }
  const { backend } = layer;
  if (backend.mknod !== undefined) {
    const entry = yield* wait(backend.mknod(directory, name, FileType.REGULAR, 0, DAEMON));
    layer.keep(entry);
    layer.drop(entry.node);
  } else if (backend.create !== undefined) {
    const created = yield* wait(backend.create(directory, name, 0, 0o301, DAEMON));
    layer.keep(created);
    if (backend.release !== undefined) yield* wait(backend.release(created.node, created.file));
    layer.drop(created.node);
  } else throw FsError.of('EROFS');
}

/**
 * Chooses the marks that a backend's methods can hold: overlayfs's own if it has devices and
 * xattrs, otherwise reserved names. A lower that cannot be written here may have been written
 * elsewhere, so reading xattrs is enough.
 */
export function marksFor(backend: Backend, namespace: 'trusted' | 'user', isUpper: boolean): Marks {
  const writable = isUpper || backend.setxattr !== undefined;
  const capable = writable
    ? backend.mknod !== undefined && backend.setxattr !== undefined && backend.rename !== undefined
    : backend.getxattr !== undefined;
  return capable ? new OverlayfsMarks(namespace) : new NameMarks();
}
