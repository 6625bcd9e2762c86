import { createHash } from 'node:crypto';
import {
  DAEMON,
  type Awaitable,
  FileType,
  FsError,
  RenameFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { hasNoEntry, listAll } from './entries.js';
import type { Layer } from './layer.js';
import { Turns } from './turns.js';

/**
 * The work area's directory when no `workPath` is given: in the upper's root, hidden from guests.
 */
export const DEFAULT_WORK = '.virtiofs-kit-work';

const TEMPORARIES = 'work';
const INDEX = 'index';

/** Attempts to claim a directory, and the milliseconds between them. */
const CLAIM_ATTEMPTS = 10;
const CLAIM_RETRY_MS = 100;

/** Called at each step after which a crash must do no harm. Crash tests stop the daemon there. */
export type FaultPoint = (step: string) => void;

/** Where a work area is in the upper's backend. */
interface WorkPaths {
  /** Of the upper's root. */
  readonly upper: readonly string[];
  /** Of the work area; undefined: hidden in the upper's root. */
  readonly work: readonly string[] | undefined;
}

/** The directories of a work area, held. */
interface Directories {
  readonly root: object;
  readonly temporaries: object;
  readonly index: object;
  readonly isNew: boolean;
}

/**
 * A directory in the upper's backend where changes are prepared before one rename makes them
 * visible. It also has the index: hard links by which the names of a lower file find the file that
 * it was copied up to.
 */
export class WorkArea {
  readonly layer: Layer;
  readonly reached: FaultPoint;
  readonly #paths: WorkPaths;
  #directories: Directories;
  #next = 0;

  private constructor(layer: Layer, paths: WorkPaths, directories: Directories, reached: FaultPoint) {
    this.layer = layer;
    this.#paths = paths;
    this.#directories = directories;
    this.reached = reached;
  }

  /**
   * Opens the work area and removes what an earlier daemon left in it. Claims it for this mount if
   * the backend can.
   * @param upperPath of the upper's root in the backend; created if it does not exist
   * @param workPath of the work area; absent: hidden in the upper's root
   * @throws FsError EBUSY if another mount uses either of them.
   */
  static open(
    layer: Layer,
    upperPath: readonly string[],
    workPath: readonly string[] | undefined,
    reached: FaultPoint,
  ): Awaitable<WorkArea> {
    return run(WorkArea.#open(layer, { upper: upperPath, work: workPath }, reached));
  }

  static *#open(layer: Layer, paths: WorkPaths, reached: FaultPoint): Steps<WorkArea> {
    const area = new WorkArea(layer, paths, yield* openDirectories(layer, paths, true), reached);
    yield* area.#empty(area.directory);
    return area;
  }

  /**
   * Finds its directories anew, after the backend's `restore`: one that keeps its content in memory
   * has replaced them. They are claimed already.
   */
  *reopen(): Steps<void> {
    const { root, temporaries, index } = this.#directories;
    this.#directories = yield* openDirectories(this.layer, this.#paths, false);
    for (const directory of [root, temporaries, index]) this.layer.drop(directory);
    yield* this.#empty(this.directory);
  }

  /** The directory that holds the upper's part of the union's root. */
  get root(): object {
    return this.#directories.root;
  }

  /** Whether the work area was just created: the upper has not been used before. */
  get isNew(): boolean {
    return this.#directories.isNew;
  }

  /** The directory of the index. */
  get index(): object {
    return this.#directories.index;
  }

  /** The directory of temporaries. */
  get directory(): object {
    return this.#directories.temporaries;
  }

  isHidden(name: string): boolean {
    return this.#paths.work === undefined && name === DEFAULT_WORK;
  }

  /** A new name for a temporary. */
  temporary(): string {
    this.#next += 1;
    return `#${this.#next.toString(16)}`;
  }

  /**
   * The upper file that a hard-linked lower file was copied up to, held; undefined if there is
   * none.
   */
  findIndexed(identity: string): Awaitable<object | undefined> {
    return run(this.#findIndexed(identity));
  }

  *#findIndexed(identity: string): Steps<object | undefined> {
    const entry = yield* wait(this.layer.lookup(this.#directories.index, indexName(identity)));
    return entry?.node;
  }

  /** Whether any file with several names in a lower was copied up. */
  *hasIndexed(): Steps<boolean> {
    return !(yield* hasNoEntry(this.layer, this.#directories.index));
  }

  /** Adds an upper file to the index. */
  *addIndexed(identity: string, upperNode: object): Steps<void> {
    const { backend } = this.layer;
    if (backend.link === undefined) return;
    try {
      const entry = yield* wait(
        backend.link(upperNode, this.#directories.index, indexName(identity), DAEMON),
      );
      this.layer.keep(entry);
      this.layer.drop(entry.node);
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'EEXIST') throw error;
    }
  }

  *removeIndexed(identity: string): Steps<void> {
    try {
      yield* wait(this.layer.backend.unlink?.(this.#directories.index, indexName(identity), DAEMON));
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'ENOENT') throw error;
    }
  }

  /** Makes a temporary directory and holds it while `use` runs. */
  *make<R>(name: string, mode: number, use: (node: object) => Steps<R>): Steps<R> {
    const { backend } = this.layer;
    if (backend.mkdir === undefined) throw FsError.of('EROFS');
    const { node } = this.layer.keep(yield* wait(backend.mkdir(this.directory, name, mode, DAEMON)));
    try {
      return yield* use(node);
    } finally {
      this.layer.drop(node);
    }
  }

  /**
   * Removes a directory with what is left in it (whiteouts, marks). One rename into the work area
   * takes it out of the tree; a crash after that only leaves a temporary.
   */
  *discard(parent: object, name: string): Steps<void> {
    const temporary = this.temporary();
    yield* wait(this.rename(parent, name, this.directory, temporary, 0));
    this.reached('discard-moved');
    yield* this.remove(temporary);
  }

  /** Removes a temporary, with its content if it is a directory. */
  *remove(name: string): Steps<void> {
    yield* this.#removeTree(this.directory, name);
  }

  *#empty(directory: object, turns = new Turns()): Steps<void> {
    for (const { name } of yield* listAll(this.layer, directory))
      yield* this.#removeTree(directory, name, turns);
  }

  *#removeTree(parent: object, name: string, turns = new Turns()): Steps<void> {
    const { backend } = this.layer;
    if (turns.isOver) yield* wait(turns.next());
    const entry = yield* wait(this.layer.lookup(parent, name));
    if (entry === undefined) return;
    const isDirectory = (entry.attributes.mode & FileType.MASK) === FileType.DIRECTORY;
    try {
      if (isDirectory) yield* this.#empty(entry.node, turns);
    } finally {
      this.layer.drop(entry.node);
    }
    if (isDirectory) yield* wait(backend.rmdir?.(parent, name, DAEMON));
    else yield* wait(backend.unlink?.(parent, name, DAEMON));
  }

  /** Whether the upper's root is empty. */
  *isEmpty(): Steps<boolean> {
    return (yield* listAll(this.layer, this.root)).every(({ name }) => this.isHidden(name));
  }

  /** Empties the upper's root and the index, after a commit. */
  *emptyUpper(): Steps<void> {
    const turns = new Turns();
    for (const { name } of yield* listAll(this.layer, this.root)) {
      if (!this.isHidden(name)) yield* this.#removeTree(this.root, name, turns);
    }
    yield* this.#empty(this.#directories.index, turns);
  }

  /** Removes the work area if it is hidden in the upper's root. It cannot be used afterwards. */
  *destroy(): Steps<void> {
    if (this.#paths.work === undefined) yield* this.#removeTree(this.root, DEFAULT_WORK);
  }

  /** Renames within the upper. */
  rename(parent: object, name: string, newParent: object, newName: string, flags: number): Awaitable<void> {
    const { backend } = this.layer;
    if (backend.rename === undefined) throw FsError.of('EROFS');
    return backend.rename(parent, name, newParent, newName, flags, DAEMON);
  }

  /** Exchanges two names of the upper atomically. */
  exchange(parent: object, name: string, newParent: object, newName: string): Awaitable<void> {
    return this.rename(parent, name, newParent, newName, RenameFlags.EXCHANGE);
  }
}

/** Finds or makes a work area's directories. */
function* openDirectories(
  layer: Layer,
  { upper, work: workPath }: WorkPaths,
  isToBeClaimed: boolean,
): Steps<Directories> {
  const { node: root } = yield* makePath(layer, layer.root, upper, 0o755);
  if (isToBeClaimed) yield* claim(layer, root);
  const base = workPath === undefined ? root : layer.root;
  const { node: work, isNew } = yield* makePath(layer, base, workPath ?? [DEFAULT_WORK], 0o700);
  if (isToBeClaimed && work !== root) yield* claim(layer, work);
  const { node: temporaries } = yield* makePath(layer, work, [TEMPORARIES], 0o700);
  const { node: index } = yield* makePath(layer, work, [INDEX], 0o700);
  layer.drop(work);
  return { root, temporaries, index, isNew };
}

/**
 * Claims a directory for this mount. It is tried for a while, since the former daemon may still be
 * ending.
 */
function* claim({ backend }: Layer, directory: object): Steps<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return yield* wait(backend.claim?.(directory));
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'EBUSY' || attempt === CLAIM_ATTEMPTS) throw error;
    }
    yield* wait(new Promise<void>((resolve) => setTimeout(resolve, CLAIM_RETRY_MS)));
  }
}

/** Finds or creates a path of directories and holds its end. */
function* makePath(
  layer: Layer,
  start: object,
  path: readonly string[],
  mode: number,
): Steps<{ node: object; isNew: boolean }> {
  const { backend } = layer;
  let node = start;
  let isNew = false;
  layer.hold(node);
  for (const name of path) {
    let entry = yield* wait(layer.lookup(node, name));
    isNew = entry === undefined;
    if (entry === undefined) {
      if (backend.mkdir === undefined) throw FsError.of('EROFS');
      entry = layer.keep(yield* wait(backend.mkdir(node, name, mode, DAEMON)));
    } else if ((entry.attributes.mode & FileType.MASK) !== FileType.DIRECTORY) {
      throw FsError.of('ENOTDIR');
    }
    layer.drop(node);
    ({ node } = entry);
  }
  return { node, isNew };
}

function indexName(identity: string): string {
  return createHash('sha256').update(identity).digest('hex');
}
