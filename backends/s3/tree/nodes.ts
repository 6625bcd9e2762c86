import { engineSlot } from '../../../core/backend/accelerator.js';
import type { Time } from '../../../core/backend/index.js';
import type { Posix, RemoteObject } from '../objects/attributes.js';
import { Mutex } from '../client/concurrency.js';
import type { Staged } from '../journal/staged.js';

/**
 * The bucket's last answer about a name. `at`: milliseconds of `performance.now()`. `sequence`:
 * order among all answers.
 */
export type Known =
  | { readonly kind: 'absent'; readonly at: number; readonly sequence: number }
  | {
      readonly kind: 'directory';
      /**
       * Whether there is an object `name/`; undefined if a listing of the parent is all that is
       * known.
       */
      readonly marker: boolean | undefined;
      readonly posix: Posix | undefined;
      readonly at: number;
      readonly sequence: number;
    }
  | {
      readonly kind: 'file';
      readonly object: RemoteObject;
      /** Undefined if the file is known from a listing only. */
      readonly posix: Posix | undefined;
      /** When `posix` was requested or written, in seconds of our clock. */
      readonly attributesAtSeconds?: number | undefined;
      /**
       * When the bucket last said that no key lies below the name, which would make it a directory;
       * as `at`.
       */
      readonly aloneAt?: number | undefined;
      readonly at: number;
      readonly sequence: number;
    };

/** A file, a symbolic link or a special file: anything that is one object. */
export class FileNode {
  [engineSlot] = -1;
  readonly kind = 'file';
  /** Durable key. */
  id: string;
  parent: Directory | undefined;
  name: string;
  /** The path that it is about to get. */
  moving: string | undefined;
  /** It is about to lose its name, and has it as long as there is something at this path. */
  leaving: string | undefined;
  /** As {@link Directory.isAssumed}. */
  isAssumed = false;
  posix: Posix;
  /**
   * The version that open handles are pinned to. Our own uploads change it; another writer's change
   * replaces it.
   */
  version: Version;
  /** Changes that the bucket does not have yet. */
  staged: Staged | undefined;
  /** Number of open handles. */
  opens = 0;
  /** The version that the first of them was opened in. */
  pinned: Version | undefined;
  /** When `version` and `posix` were last confirmed. */
  checked: number;
  /** Serialises uploads, unlink and rename, which change the object or its name. */
  readonly changes = new Mutex();
  /** The upload in progress. */
  uploading: Promise<void> | undefined;
  /** The creation of `staged` in progress. */
  staging: Promise<void> | undefined;
  /** Key below our own folder with the content of an unlinked open file. */
  hidden: string | undefined;
  /** The object at the file's own key while `hidden` has the content. */
  original: RemoteObject | undefined;
  /** Intent that removes that key after a crash. */
  hiddenIntent: string | undefined;
  /** Old key that a rename left to be deleted; the journal must not end before. */
  pendingDelete: string | undefined;
  removed = false;
  /** Its last name and its last open handle have gone, and what it had in the journal with them. */
  isDropped = false;
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
   * ETag of the object at the file's own key. A journal's condition tells it: after a rename over
   * another file, that file's object is still there until the upload.
   */
  get etag(): string | undefined {
    const condition = this.staged?.condition;
    if (condition !== undefined) return condition === 'absent' ? undefined : condition.etag;
    return (this.original ?? this.version.object)?.etag;
  }
}

/** An object and its successors by our own uploads. Undefined while the bucket has none. */
export interface Version {
  object: RemoteObject | undefined;
  /** What was written to it is kept aside, since it came under a lease that was lost. */
  isLost?: boolean;
}

export type Node = Directory | FileNode;

/** A listing of a directory under way. */
export interface Listing {
  /** Pages that it has at most. */
  readonly most: number;
  /** Whether the directory's names are complete, once it is over. */
  readonly over: Promise<boolean>;
  /** Resolves to false as soon as it is known to have more than a page. */
  readonly isLong: Promise<false>;
}

/** A directory, and what is known of its names. */
export class Directory {
  [engineSlot] = -1;
  readonly kind = 'directory';
  /** Durable key. */
  id: string;
  parent: Directory | undefined;
  name: string;
  /** The path that it is about to get. */
  moving: string | undefined;
  /** It is about to lose its name, and has it as long as there is something at this path. */
  leaving: string | undefined;
  /** Nothing but its place is known, from a process before: see `Tree.assume`. */
  isAssumed = false;
  posix: Posix;
  /** Time of our last change of its names, which the bucket does not record. */
  touched: Time | undefined;
  /** Whether there is an object for it; undefined if not known. */
  marker: boolean | undefined;
  /** When `posix` was last confirmed. */
  checked: number;
  /** Nodes that the engine knows, or that have changes the bucket does not have. */
  readonly children = new Map<string, Node>();
  /** Names and the bucket's last answers about them. */
  readonly names = new Map<string, Known>();
  /** How many were learned one by one since the names were last counted. */
  learned = 0;
  /** Time of the listing that made `names` complete; undefined if it is not complete. */
  listed: number | undefined;
  /** Pages of the last listing; a guess before the first one. */
  pages = 4;
  /** Requests for single names since the last listing. */
  misses = 0;
  listing: Listing | undefined;
  /** Name of the child directory that was read last. */
  walked: string | undefined;
  /** Whether the child read before it precedes it in the listing. */
  inOrder = false;
  /** Whether attributes of its files were requested ahead. */
  attributed = false;
  order: { readonly listed: number; readonly next: ReadonlyMap<string, string> } | undefined;
  /** Serialises changes of names. */
  readonly changes = new Mutex();
  /** Requests for attributes in progress, by name. */
  readonly asking = new Map<string, Promise<void>>();
  /** Whether the engine has no reference. */
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

/**
 * Whether a node has changes that the bucket does not have; for a directory, whether any node below
 * it has.
 */
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

let lastSequence = 0;

/**
 * The next sequence number. Requests take one when they start, so that an old answer never replaces
 * a newer one.
 */
export function nextSequence(): number {
  return ++lastSequence;
}

/** Records what is known of a name. */
export function learn(directory: Directory, name: string, known: Known): void {
  if (!directory.names.has(name)) directory.learned += 1;
  directory.names.set(name, known);
}

/** Forgets a name: the next look-up asks the bucket. */
export function unlearn(directory: Directory, name: string): void {
  directory.names.delete(name);
  directory.listed = undefined;
}

/** Records that we have removed a name. */
export function learnAbsent(directory: Directory, name: string): void {
  learn(directory, name, { kind: 'absent', at: performance.now(), sequence: nextSequence() });
}

/** Records an object that was just written or seen. */
export function learnFile(
  directory: Directory,
  name: string,
  object: RemoteObject,
  posix: Posix | undefined,
): void {
  const attributesAtSeconds = Date.now() / 1000;
  learn(directory, name, {
    kind: 'file',
    object,
    posix,
    attributesAtSeconds,
    at: performance.now(),
    sequence: nextSequence(),
  });
}

/** Records a directory that was just created or seen. */
export function learnDirectory(
  directory: Directory,
  name: string,
  marker: boolean | undefined,
  posix: Posix | undefined,
): void {
  learn(directory, name, {
    kind: 'directory',
    marker,
    posix,
    at: performance.now(),
    sequence: nextSequence(),
  });
}

/**
 * Whether two descriptions are of the same version. The time of our own writes is not known until a
 * listing or HEAD tells.
 */
export function sameVersion(a: RemoteObject, b: RemoteObject): boolean {
  if (a.etag !== b.etag || a.size !== b.size) return false;
  return a.modified === b.modified || Number.isNaN(a.modified) || Number.isNaN(b.modified);
}

/** Seconds of tolerance in comparing times: those in listings are whole seconds. */
const BLUR_SECONDS = 2;

/**
 * Whether attributes are still valid for an object in a listing. A change of attributes alone keeps
 * content and ETag, and within a second the time too. Attributes that were requested soon after the
 * last change are therefore not trusted. Those that we wrote are, unless something changed later.
 */
export function stillHolds(known: Known & { kind: 'file' }, listed: RemoteObject): boolean {
  const { object, attributesAtSeconds = Number.NEGATIVE_INFINITY } = known;
  if (!sameVersion(object, listed)) return false;
  return Number.isNaN(object.modified)
    ? listed.modified < attributesAtSeconds + BLUR_SECONDS
    : listed.modified < attributesAtSeconds - BLUR_SECONDS;
}
