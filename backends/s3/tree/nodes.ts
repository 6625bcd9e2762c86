import { engineSlot } from '../../../core/backend/accelerator.js';
import type { Time } from '../../../core/backend/index.js';
import type { Posix, RemoteObject } from '../objects/attributes.js';
import { Mutex } from '../client/deadline.js';
import type { Staged } from '../journal/staged.js';

/**
 * What the bucket said of a name. `at`: milliseconds of `performance.now()`; `order`: rank among
 * all news.
 */
export type Known =
  | { readonly kind: 'absent'; readonly at: number; readonly order: number }
  | {
      readonly kind: 'directory';
      /** There is an object `name/`; not known from a listing of the parent. */
      readonly marker: boolean | undefined;
      readonly posix: Posix | undefined;
      readonly at: number;
      readonly order: number;
    }
  | {
      readonly kind: 'file';
      readonly object: RemoteObject;
      /** Absent where only a listing told of the file. */
      readonly posix: Posix | undefined;
      /** When `posix` was asked for or written, seconds of our clock. */
      readonly told?: number | undefined;
      readonly at: number;
      readonly order: number;
    };

/** A file, a symbolic link or a special file: what is one object. */
export class FileNode {
  [engineSlot] = -1;
  readonly kind = 'file';
  /** Durable key. */
  readonly id: string;
  parent: Directory | undefined;
  name: string;
  posix: Posix;
  /**
   * What open handles are pinned to: our own uploads change it, another writer's change replaces
   * it.
   */
  version: Version;
  /** What the bucket doesn't have yet. */
  staged: Staged | undefined;
  /** Handles. */
  opens = 0;
  /** When `version` and `posix` were last confirmed. */
  checked: number;
  /** Serialises what changes the object or its name: uploads, unlink, rename. */
  readonly changes = new Mutex();
  /** The upload under way. */
  uploading: Promise<void> | undefined;
  /** Creation of `staged` under way. */
  staging: Promise<void> | undefined;
  /** Key of our own that holds the content while the unlinked file is open. */
  hidden: string | undefined;
  /** What is at the file's own key, while `hidden` has the content. */
  original: RemoteObject | undefined;
  /** Record of that key, for a crash. */
  hiddenIntent: string | undefined;
  /** Old key that a rename left to be deleted, before the journal may end. */
  ghost: string | undefined;
  removed = false;
  forgotten = false;

  constructor(id: string, parent: Directory, name: string, posix: Posix, object: RemoteObject | undefined) {
    this.id = id;
    this.parent = parent;
    this.name = name;
    this.posix = posix;
    this.version = { object };
    this.checked = performance.now();
  }

  get size(): number {
    return this.staged?.size ?? this.version.object?.size ?? 0;
  }

  /**
   * ETag of what is at the file's own key. While there is a journal its condition tells: a file
   * that was renamed over another and is not uploaded yet has the other's object there.
   */
  get etag(): string | undefined {
    const condition = this.staged?.condition;
    if (condition !== undefined) return condition === 'absent' ? undefined : condition.etag;
    return (this.original ?? this.version.object)?.etag;
  }
}

/** A lineage of an object: its current version. Nothing where the bucket has none. */
export interface Version {
  object: RemoteObject | undefined;
}

export type Node = Directory | FileNode;

/** A directory, and what is known of its names. */
export class Directory {
  [engineSlot] = -1;
  readonly kind = 'directory';
  /** Durable key. */
  readonly id: string;
  parent: Directory | undefined;
  name: string;
  posix: Posix;
  /** When we changed its names last: the bucket does not keep that. */
  touched: Time | undefined;
  /** There is an object for it, or not, or we don't know. */
  marker: boolean | undefined;
  /** When `posix` was last confirmed. */
  checked: number;
  /** Nodes that the engine knows, or that have data the bucket doesn't have. */
  readonly children = new Map<string, Node>();
  /** Names and what the bucket said of them. */
  readonly names = new Map<string, Known>();
  /** Time of the listing that `names` is all of. */
  listed: number | undefined;
  /** Requests that a listing takes: as the last one took; a guess before the first. */
  pages = 4;
  /** Requests for single names since the last listing. */
  misses = 0;
  listing: Promise<boolean> | undefined;
  /**
   * Directory in it that was read last, and the order of its directories as the listing of that
   * time had it.
   */
  walked: string | undefined;
  /** The one that was read before it stands before it. */
  inOrder = false;
  /** Attributes of files in it were asked for ahead. */
  attributed = false;
  order: { readonly listed: number; readonly next: ReadonlyMap<string, string> } | undefined;
  /** Serialises changes of names. */
  readonly changes = new Mutex();
  /** Requests for attributes that are under way, by name. */
  readonly asking = new Map<string, Promise<void>>();
  /** The engine has no reference. */
  forgotten = false;
  removed = false;

  constructor(id: string, parent: Directory | undefined, name: string, posix: Posix) {
    this.id = id;
    this.parent = parent;
    this.name = name;
    this.posix = posix;
    this.checked = performance.now();
  }
}

/** Whether a node has data that the bucket does not have, or a directory has some below it. */
export function isDirty(node: Node): boolean {
  if (node.kind === 'file') {
    return node.staged !== undefined || node.staging !== undefined || node.uploading !== undefined;
  }
  for (const child of node.children.values()) if (isDirty(child)) return true;
  return false;
}

/** Path below the root: names joined by slashes, '' for the root. */
export function pathOf(node: Node): string {
  if (node.parent === undefined) return '';
  return childPath(node.parent, node.name);
}

/** Path of a name in a directory. */
export function childPath(directory: Directory, name: string): string {
  const path = pathOf(directory);
  return path === '' ? name : `${path}/${name}`;
}

let order = 0;

/**
 * The rank of news that come now; news of a request that was begun at rank r are older than all of
 * higher rank.
 */
export function nextOrder(): number {
  return ++order;
}

/** Says what is known of a name from now on. */
export function learn(directory: Directory, name: string, known: Known): void {
  directory.names.set(name, known);
}

/** Forgets what was said of a name: the next who asks for it asks the bucket. */
export function unlearn(directory: Directory, name: string): void {
  directory.names.delete(name);
  directory.listed = undefined;
}

/** A name that is gone by our own doing. */
export function learnAbsent(directory: Directory, name: string): void {
  learn(directory, name, { kind: 'absent', at: performance.now(), order: nextOrder() });
}

/** An object that we have just written or seen. */
export function learnFile(
  directory: Directory,
  name: string,
  object: RemoteObject,
  posix: Posix | undefined,
): void {
  const told = Date.now() / 1000;
  learn(directory, name, { kind: 'file', object, posix, told, at: performance.now(), order: nextOrder() });
}

/** A directory that we have just made or seen. */
export function learnDirectory(
  directory: Directory,
  name: string,
  marker: boolean | undefined,
  posix: Posix | undefined,
): void {
  learn(directory, name, { kind: 'directory', marker, posix, at: performance.now(), order: nextOrder() });
}

/**
 * Whether two reports are of one version of an object. The time of what we wrote ourselves is not
 * known until a listing or HEAD tells.
 */
export function sameVersion(a: RemoteObject, b: RemoteObject): boolean {
  if (a.etag !== b.etag || a.size !== b.size) return false;
  return a.modified === b.modified || Number.isNaN(a.modified) || Number.isNaN(b.modified);
}

/**
 * Seconds by which a change may seem to come before or after what it follows: times in listings are
 * whole seconds.
 */
const BLUR = 2;

/**
 * Whether attributes still hold for an object that a listing shows. A change of attributes alone
 * keeps content and ETag, and within one second the time too: those that were asked for so soon
 * after the last change are not believed. Those that we wrote are, if nothing changed later.
 */
export function stillHolds(known: Known & { kind: 'file' }, listed: RemoteObject): boolean {
  const { object, told = Number.NEGATIVE_INFINITY } = known;
  if (!sameVersion(object, listed)) return false;
  return Number.isNaN(object.modified) ? listed.modified < told + BLUR : listed.modified < told - BLUR;
}
