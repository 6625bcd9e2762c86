import { FileType, FsError } from '../../../core/backend/index.js';
import type { NodeKey } from '../../../core/backend/index.js';
import type { RemoteObject } from '../objects/attributes.js';
import { Deadline } from '../client/deadline.js';
import { fromJson, type PosixJson, reviveObject, type Staged, toJson } from '../journal/staged.js';
import type { Intents } from '../journal/intents.js';
import type { Services } from '../service/services.js';
import type { Files } from '../write/files.js';
import { Directory, FileNode, pathOf } from './nodes.js';
import type { Node } from './nodes.js';
import type { Tree } from './tree.js';

/*
 * Where nodes are, for the process that follows one that was killed, so that it need not ask the
 * bucket before it serves. Of a node whose key is its path it is known whether it is a directory.
 * Others have their path, too; during a rename both; an open file the version that it was opened
 * in; and one that was removed while it was open what its content is made of.
 */

/** The parts of a mounted bucket that find nodes again. */
export interface FindingParts {
  readonly services: Services;
  readonly tree: Tree;
  readonly files: Files;
  readonly intents: Intents;
}

/** A file without a name that is open, or a directory without one. */
interface Nameless {
  readonly posix: PosixJson;
  readonly isDirectory: boolean;
  /** The object with its content, as far as that is not in a journal. */
  readonly object: RemoteObject | null;
  /** Id of its journal. */
  readonly journal: string | null;
  /** The key of our own with its content, and the intent that removes it. */
  readonly hidden: readonly [key: string, intent: string] | null;
}

/** What traces say of nodes whose key is their path and which are not open. */
const PLAIN = { file: 'f', directory: 'd' } as const;

/** A trace, in JSON. */
interface Trace {
  /** Absent where it is the key. */
  readonly path?: string;
  /** Absent in traces of earlier versions. */
  readonly kind?: Node['kind'];
  /** The version that the first open handle was opened in. */
  readonly object?: RemoteObject;
  /** It, or a directory above it, is about to be moved. */
  readonly moving?: readonly [from: string, to: string];
  /** It has no name; null for a file that nobody has open. */
  readonly nameless?: Nameless | null;
  /** It has its name all the same if there is something at this path. */
  readonly unless?: string;
}

/** @returns a node's trace, see `Accelerator.trace`. */
export function traceOf(node: Node): string {
  const path = pathOf(node);
  let moving: Trace['moving'];
  for (let above: Node | undefined = node; above !== undefined; above = above.parent)
    if (above.moving !== undefined) moving = [pathOf(above), above.moving];
  const { leaving: unless, removed } = node;
  const hasName = !removed && unless === undefined;
  const isPlain = hasName && moving === undefined;
  const object = isPlain && node.kind === 'file' ? node.pinned?.object : undefined;
  if (isPlain && object === undefined && node.id === path) return PLAIN[node.kind];
  const trace: Trace = {
    ...(node.id === path ? {} : { path }),
    kind: node.kind,
    ...(object === undefined ? {} : { object: withoutMetadata(object) }),
    ...(moving === undefined ? {} : { moving }),
    ...(hasName ? {} : { nameless: namelessOf(node) }),
    ...(unless === undefined ? {} : { unless }),
  };
  return JSON.stringify(trace);
}

/** Objects from HEAD have more than is needed. */
function withoutMetadata({ key, etag, size, modified, storageClass }: RemoteObject): RemoteObject {
  return { key, etag, size, modified, storageClass };
}

function parse(trace: string): Trace {
  if (trace === PLAIN.file) return { kind: 'file' };
  return trace === PLAIN.directory ? { kind: 'directory' } : (JSON.parse(trace) as Trace);
}

/** The path in a trace; undefined where the key is the path. */
export function pathIn(trace: string | undefined): string | undefined {
  return trace === undefined || trace === '' ? undefined : parse(trace).path;
}

/** Where a node is that has a name, by its key and its trace, if that is known. */
export function placeIn(
  key: string,
  trace: string | undefined,
): { kind: Node['kind']; path: string } | undefined {
  const { kind, path = key, moving, nameless }: Trace = trace === undefined ? {} : parse(trace);
  const isKnown = kind !== undefined && moving === undefined && nameless === undefined;
  return isKnown ? { kind, path } : undefined;
}

function namelessOf(node: Node): Nameless | null {
  // Nobody knows what it was.
  if (node.isAssumed) return null;
  const posix = toJson(node.posix);
  // Somebody may be in it.
  if (node.kind === 'directory')
    return { posix, isDirectory: true, object: null, journal: null, hidden: null };
  if (node.opens === 0) return null;
  const { version, staged, hidden, hiddenIntent } = node;
  return {
    posix,
    isDirectory: false,
    object: version.object ?? null,
    journal: staged?.id ?? null,
    hidden: hidden === undefined || hiddenIntent === undefined ? null : [hidden, hiddenIntent],
  };
}

/** What a process that was killed has told of its nodes. */
export class Traces {
  /** Of nodes for which there is more to know than their kind. */
  readonly #traces = new Map<string, Trace>();
  readonly #kinds = new Map<string, Node['kind']>();
  /** Paths of nodes that have names, by key. */
  readonly #paths = new Map<string, string>();
  readonly #nameless = new Map<string, Trace>();
  /** Ids of the journals, and of the intents, of files that are open and may have no name. */
  readonly #openJournals = new Set<string>();
  readonly #openIntents = new Set<string>();
  /** What belongs to files without a name, until they are found. */
  readonly #journals = new Map<string, Staged>();
  readonly #hidden = new Map<string, string>();

  constructor(traces: ReadonlyMap<NodeKey, string>) {
    for (const [key, text] of traces) {
      const trace = parse(text);
      if (text.length > 1) this.#traces.set(String(key), trace);
      if (trace.kind !== undefined) this.#kinds.set(String(key), trace.kind);
    }
    for (const [key, { path = key, moving, nameless }] of this.#traces) {
      if (moving === undefined && nameless === undefined) this.#paths.set(key, path);
      if (nameless == null) continue;
      if (nameless.journal !== null) this.#openJournals.add(nameless.journal);
      if (nameless.hidden !== null) this.#openIntents.add(nameless.hidden[1]);
    }
  }

  /** Whether an intent's key may be the content of a file that is open. It stays then. */
  keepHidden(intent: string, key: string): boolean {
    const isKept = this.#openIntents.has(intent);
    if (isKept) this.#hidden.set(intent, key);
    return isKept;
  }

  /** As {@link keepHidden}, for a journal. */
  keepJournal(staged: Staged): boolean {
    const isKept = this.#openJournals.has(staged.id);
    if (isKept) this.#journals.set(staged.id, staged);
    return isKept;
  }

  /**
   * Finds out which changes of names have happened, once what was interrupted is finished. Gives
   * nodes their keys again.
   * @param moved the renames that were finished just now.
   */
  async settle(mounted: FindingParts, moved: ReadonlyMap<string, string>): Promise<void> {
    const isThere = new Map<string, boolean>();
    const stays = async (path: string): Promise<boolean> => {
      const known = isThere.get(path);
      if (known !== undefined) return known;
      const found = !moved.has(path) && (await exists(mounted, path));
      isThere.set(path, found);
      return found;
    };
    for (const [key, trace] of this.#traces) {
      const { path = key, moving, nameless, unless } = trace;
      if (nameless !== undefined && (unless === undefined || !(await stays(unless)))) {
        this.#nameless.set(key, trace);
        continue;
      }
      const isMoved = moving !== undefined && !(await stays(moving[0]));
      this.#paths.set(key, isMoved ? moving[1] + path.slice(moving[0].length) : path);
    }
    mounted.tree.identify(this.#paths, [...this.#traces.keys()]);
  }

  /** The path of a node by its key, unless that is its path itself. */
  path(key: string): string | undefined {
    return this.#paths.get(key);
  }

  /** Whether a node is a directory or a file, if that is known. */
  kind(key: string): Node['kind'] | undefined {
    return this.#kinds.get(key);
  }

  /**
   * A node with a name, as it was, without asking the bucket.
   * @returns undefined if too little is known of it.
   * @throws ESTALE if something else is in use in its place.
   */
  assume({ services, tree }: FindingParts, key: string): Node | undefined {
    const kind = this.kind(key);
    if (kind === undefined) return undefined;
    const path = this.path(key) ?? key;
    const object = reviveObject(this.#traces.get(key)?.object ?? null);
    // After a rename the object is another one.
    return tree.assume(path, kind, object?.key === services.keys.file(path) ? object : undefined);
  }

  /** The node without a name that has a key. @throws ESTALE for a file that nobody has open. */
  adopt({ tree, files }: FindingParts, key: string): Node | undefined {
    const trace = this.#nameless.get(key);
    if (trace === undefined) return undefined;
    const { nameless, path = key } = trace;
    if (nameless == null) throw FsError.of('ESTALE');
    const object = reviveObject(nameless.object);
    const name = path.slice(path.lastIndexOf('/') + 1);
    if (nameless.isDirectory) {
      const posix = fromJson(nameless.posix);
      const mode = FileType.DIRECTORY | (posix.mode & 0o7777);
      const directory = new Directory(key, tree.root, name, { ...posix, mode });
      directory.removed = true;
      tree.enter(directory);
      return directory;
    }
    const node = new FileNode(key, tree.root, name, fromJson(nameless.posix), object);
    node.removed = true;
    const staged = this.#journals.get(nameless.journal ?? '');
    if (staged !== undefined) {
      this.#journals.delete(staged.id);
      // A journal may not have been told of the key with what the bucket has lost.
      if (object !== undefined && staged.base !== undefined) staged.base = object;
      files.attachJournal(node, staged);
      node.posix = staged.posix;
    }
    if (nameless.hidden !== null) {
      [node.hidden, node.hiddenIntent] = nameless.hidden;
      this.#hidden.delete(nameless.hidden[1]);
    }
    tree.enter(node);
    return node;
  }

  /** Drops what belongs to files that nobody has open any more. */
  async end({ services, intents }: FindingParts): Promise<void> {
    const { bucket, options } = services;
    for (const staged of this.#journals.values()) await staged.retire();
    this.#journals.clear();
    for (const [intent, key] of this.#hidden) {
      await bucket.remove(key, Deadline.after(options.operationTimeout));
      await intents.end(intent);
    }
    this.#hidden.clear();
  }
}

async function exists({ services, tree }: FindingParts, path: string): Promise<boolean> {
  if (tree.at(path)) return true;
  const { bucket, keys, options } = services;
  const deadline = Deadline.after(options.operationTimeout);
  if ((await bucket.head(keys.file(path), deadline)) !== undefined) return true;
  return (await bucket.list(keys.directory(path), '', undefined, 1, deadline)).objects.length > 0;
}
