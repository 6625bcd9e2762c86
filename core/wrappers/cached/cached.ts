import {
  type Attributes,
  type Awaitable,
  type Backend,
  type BackendHost,
  type Context,
  type DirectoryEntry,
  type Entry,
  gauge,
  type GuestBuffer,
  type NodeChange,
  nodeBytesOf,
  OpenFlags,
  run,
  type Steps,
  UsageError,
  wait,
  wrap,
} from '../../backend/index.js';
import { eachInTurns } from '../../backend/in-turns.js';
import { heapLimit } from '../../backend/limits.js';
import { Buffers } from '../buffers.js';
import { NodesInUse } from '../nodes-in-use.js';
import { Budget } from './budget.js';
import { type Clock, Known } from './known.js';

/** What {@link cached} keeps, and how long. Times in seconds, 0 or more, or `Infinity`. */
export interface CachedOptions {
  /** All that is kept, about, in bytes. Default: 64 MiB, or an eighth of the heap if less. */
  readonly bytes?: number | undefined;
  /** How long a name stands for its file, and a listing for its directory. Default: 10. */
  readonly names?: number | undefined;
  /** How long a missing name is taken as missing. Default: 1. */
  readonly missing?: number | undefined;
  /** How long attributes count, and with them content that has not changed. Default: 10. */
  readonly attributes?: number | undefined;
  /** Bytes in which content is read and kept, 4096 to 2^20. Default: 131,072. */
  readonly blockBytes?: number | undefined;
}

const DEFAULT_BYTES = Math.min(64 * 2 ** 20, Math.floor(heapLimit / 8));

/** Buffers that are kept for the next reads. */
const BUFFERS = 16;

/** What is known of a node that guests use, in bytes: more than its budget counts. */
const NODE_BYTES = 1024;

/** How often a change counts as one of each directory in which it happens: before and after. */
const TIMES_CHANGED = 2;

/** A listing may take this part of all that is kept, at about so many bytes an entry. */
const LISTING_SHARE = 4;
const LISTED_BYTES = 256;

/**
 * The same file system with names, listings, attributes and content kept in memory, for backends
 * that are slow to answer. All guests share what is kept, and it stays when they have gone.
 *
 * Changes that go through the wrapper are seen at once. Others are seen when the times are over;
 * content then stays only if size, mtime and ctime are as they were. Content is asked for in whole
 * blocks, and never kept for files that are opened with `directIo`.
 * @throws UsageError for a limit out of range, and where `inner` is no backend.
 */
export function cached<N extends object, F>(
  inner: Backend<N, F>,
  {
    bytes = DEFAULT_BYTES,
    names = 10,
    missing = 1,
    attributes = 10,
    blockBytes = 131_072,
  }: CachedOptions = {},
): Backend<N, F> {
  if (!(bytes >= 0)) throw new UsageError(`cached: bytes ${bytes}: must be 0 or more`);
  for (const [name, seconds] of Object.entries({ names, missing, attributes }))
    if (!(seconds >= 0)) throw new UsageError(`cached: ${name} ${seconds}: must be 0 or more seconds`);
  if (!Number.isInteger(blockBytes) || blockBytes < 4096 || blockBytes > 2 ** 20)
    throw new UsageError(`cached: blockBytes ${blockBytes}: must be from 4096 to 1048576`);

  let isMounted = true;
  const budget = new Budget(bytes);
  const clock: Clock = { period: 0 };
  const nodes = new NodesInUse<N, Known<N>>((node, known) => {
    const stood = known.end();
    inner.forget?.(node);
    // A directory may have had many names, and what they stood for may be directories.
    const unkeep = (i: number): void => {
      if (isMounted) stood[i]!.unkeep();
    };
    if (stood.length > 0) void eachInTurns(0, stood.length, unkeep, 0);
  });
  const buffers = new Buffers(blockBytes, BUFFERS);
  const [namesMs, missingMs, attributesMs] = [names * 1000, missing * 1000, attributes * 1000];

  /** Takes a node that a call has given, for the engine. */
  function take(node: N): Known<N> {
    return nodes.use(node, () => new Known(node, clock, budget));
  }

  /**
   * Keeps a name, and the node that it stands for beyond its use by guests: a name of it is here,
   * so that whoever takes that away lets go of the node, too.
   */
  function keepNamed(directory: Known<N>, name: string, known: Known<N>): void {
    if (namesMs <= 0) return;
    const { node } = known;
    directory.setName(name, known, namesMs);
    if (known.kept === undefined) nodes.hold(node, () => known);
    known.keep(nodeBytesOf(inner), () => nodes.letGo(node));
  }

  /** Others have changed something. */
  function outside(host: BackendHost, node: object, what: NodeChange): void {
    const known = nodes.get(node as N);
    known?.changed();
    if (what.name !== undefined) {
      known?.name(what.name)?.known?.changed();
      known?.forgetName(what.name);
    }
    host.changed?.(node, what);
  }

  function changed(node: N): void {
    nodes.get(node)?.changed();
  }

  /** Carries out what changes nodes, before and after which nothing that is known counts. */
  function* change<R>(touched: readonly N[], go: () => Awaitable<R>): Steps<R> {
    for (const node of touched) changed(node);
    try {
      return yield* wait(go());
    } finally {
      for (const node of touched) changed(node);
    }
  }

  /** Carries out what makes a name. */
  function* creation<E extends Entry<N>>(parent: N, name: string, make: () => Awaitable<E>): Steps<E> {
    const directory = nodes.get(parent);
    directory?.forgetName(name);
    const generation = directory?.generation ?? 0;
    const making = () => run(change([parent], make));
    return yield* nodes.giving(making, (made) => {
      const known = take(made.node);
      known.changed();
      known.learn(made.attributes, attributesMs, known.generation);
      // Others may have taken the name away again, unless only this has changed the directory.
      if (directory?.generation === generation + TIMES_CHANGED) keepNamed(directory, name, known);
    });
  }

  /**
   * Carries out what takes names away, or has them stand for others.
   * @param lost the name of these whose node may have no other afterwards.
   */
  function* renaming<R>(
    changes: readonly (readonly [N, string])[],
    [lostIn, lost]: readonly [N, string],
    context: Context,
    go: () => Awaitable<R>,
  ): Steps<R> {
    const asked = yield* lookedUp(lostIn, lost, context);
    try {
      return yield* renamed(changes, asked, go);
    } finally {
      if (asked !== undefined) nodes.letGo(asked.node);
    }
  }

  /** Looks up for the cache whose name one is, if that is not known. The caller lets go of it. */
  function* lookedUp(parent: N, name: string, context: Context): Steps<Known<N> | undefined> {
    if (nodes.get(parent)?.name(name) !== undefined) return undefined;
    let known: Known<N> | undefined;
    const asking = nodes.giving(
      () => inner.lookup(parent, name, context),
      (entry) => {
        if (entry === undefined) return;
        const { node } = entry;
        known = nodes.hold(node, () => new Known(node, clock, budget));
      },
    );
    try {
      yield* asking;
    } catch {
      // The change itself says what is wrong.
    }
    return known;
  }

  function* renamed<R>(
    changes: readonly (readonly [N, string])[],
    asked: Known<N> | undefined,
    go: () => Awaitable<R>,
  ): Steps<R> {
    const stood = changes.flatMap(([parent, name]) => {
      const found = nodes.get(parent)?.name(name);
      // Whose name this is was not kept, and its attributes change.
      if (found === undefined) clock.period += 1;
      return found?.known ?? [];
    });
    if (asked !== undefined) stood.push(asked);
    const forget = (): void => {
      for (const [parent, name] of changes) nodes.get(parent)?.forgetName(name);
      for (const known of stood) known.changed();
    };
    forget();
    try {
      return yield* change(
        changes.map(([parent]) => parent),
        go,
      );
    } finally {
      forget();
      // What may have lost its last name must not be kept from going.
      for (const known of stood) known.unkeep();
    }
  }

  /** The attributes that count now. */
  function* current(node: N, file: F | undefined, context: Context): Steps<Attributes> {
    const known = nodes.get(node);
    const kept = known?.attributes();
    if (kept !== undefined) return kept;
    const generation = known?.generation ?? 0;
    const found = yield* wait(inner.getattr(node, file, context));
    known?.learn(found, attributesMs, generation);
    return found;
  }

  function* fetch(known: Known<N>, file: F, index: number, context: Context): Steps<Uint8Array> {
    const { generation } = known;
    const buffer = buffers.take();
    try {
      const count = yield* wait(inner.read!(known.node, file, buffer, index * blockBytes, context));
      const content = buffer.bytes.slice(0, count);
      if (generation === known.generation) known.setBlock(index, content);
      return content;
    } finally {
      buffers.give(buffer);
    }
  }

  /** Reads by blocks, those that are missing at the same time. */
  function* readBlocks(
    known: Known<N>,
    file: F,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Steps<number> {
    const { size = 0 } = yield* current(known.node, file, context);
    const end = Math.min(offset + buffer.length, size);
    const first = Math.floor(offset / blockBytes);
    const blocks: Awaitable<Uint8Array>[] = [];
    for (let index = first; index * blockBytes < end; index++)
      blocks.push(known.block(index) ?? run(fetch(known, file, index, context)));
    // All are waited for, also if one fails: they use the open file.
    const results = blocks.some((block) => block instanceof Promise)
      ? yield* wait(Promise.allSettled(blocks))
      : undefined;
    let at = offset;
    for (const [i, block] of blocks.entries()) {
      const result = results?.[i];
      if (result?.status === 'rejected') throw result.reason;
      const content = result === undefined ? (block as Uint8Array) : result.value;
      const start = at - (first + i) * blockBytes;
      const stop = Math.min(content.length, end - (first + i) * blockBytes);
      if (stop > start) buffer.put(at - offset, content, start, stop);
      at += Math.max(0, stop - start);
      if (stop < blockBytes) break;
    }
    return at - offset;
  }

  function opened(node: N, { directIo = false }: { readonly directIo?: boolean }, flags: number): void {
    const known = nodes.get(node);
    if (known === undefined) return;
    if (directIo) known.isDirect = true;
    if (directIo || (flags & OpenFlags.TRUNC) !== 0) known.changed();
  }

  let root: N | undefined;
  return wrap<N, F>(
    inner,
    {
      mount: (next, host) =>
        run(
          (function* () {
            buffers.host = host;
            root = yield* wait(next({ ...host, changed: (node, what) => outside(host, node, what) }));
            nodes.use(root, () => new Known(root!, clock, budget));
            isMounted = true;
            return root;
          })(),
        ),
      unmount: (next) => {
        buffers.close();
        isMounted = false;
        return next();
      },
      restore: (next, state) => run(change(root === undefined ? [] : [root], () => next(state))),
      forget: (_next, node) => nodes.forget(node),
      resolve: (next, key) => run(nodes.giving(() => next(key), take)),
      parent: (next, directory, context) => run(nodes.giving(() => next(directory, context), take)),
      lookup(next, parent, name, context) {
        const directory = nodes.get(parent);
        const found = directory?.name(name);
        if (found !== undefined && performance.now() < found.untilMs) {
          const { known } = found;
          if (known === undefined) return undefined;
          const kept = nodes.get(known.node) === known ? known.attributes() : undefined;
          if (kept !== undefined) return { node: take(known.node).node, attributes: kept };
        }
        const generation = directory?.generation;
        // Of a node that is not known yet none of the attributes can be old.
        const before = found?.known?.generation;
        return run(
          nodes.giving(
            () => next(parent, name, context),
            (entry) => {
              const isUnchanged = directory !== undefined && directory.generation === generation;
              if (entry === undefined) {
                if (isUnchanged) directory.setName(name, undefined, missingMs);
                return;
              }
              const isNew = nodes.get(entry.node) === undefined;
              const known = take(entry.node);
              if (isNew || (known === found?.known && known.generation === before))
                known.learn(entry.attributes, attributesMs, known.generation);
              if (isUnchanged) keepNamed(directory, name, known);
            },
          ),
        );
      },
      getattr: (_next, node, file, context) => run(current(node, file, context)),
      setattr: (next, node, changes, file, context) =>
        run(change([node], () => next(node, changes, file, context))),
      mknod: (next, parent, name, mode, rdev, context) =>
        run(creation(parent, name, () => next(parent, name, mode, rdev, context))),
      mkdir: (next, parent, name, mode, context) =>
        run(creation(parent, name, () => next(parent, name, mode, context))),
      symlink: (next, parent, name, target, context) =>
        run(creation(parent, name, () => next(parent, name, target, context))),
      link: (next, node, parent, name, context) =>
        run(creation(parent, name, () => next(node, parent, name, context))),
      create: (next, parent, name, mode, flags, context) =>
        run(
          (function* () {
            const make = () => next(parent, name, mode, flags, context);
            const made = yield* creation(parent, name, make);
            if (made.directIo === true) opened(made.node, made, flags);
            return made;
          })(),
        ),
      tmpfile: (next, parent, mode, flags, context) =>
        run(
          nodes.giving(
            () => next(parent, mode, flags, context),
            // It is gone when it is closed, unless it gets a name.
            (made) => void nodes.use(made.node, () => new Known(made.node, clock, budget)),
          ),
        ),
      unlink: (next, parent, name, context) =>
        run(renaming([[parent, name]], [parent, name], context, () => next(parent, name, context))),
      rmdir: (next, parent, name, context) =>
        run(renaming([[parent, name]], [parent, name], context, () => next(parent, name, context))),
      rename: (next, parent, name, newParent, newName, flags, context) =>
        run(
          renaming(
            [
              [parent, name],
              [newParent, newName],
            ],
            [newParent, newName],
            context,
            () => next(parent, name, newParent, newName, flags, context),
          ),
        ),
      open: (next, node, flags, context) =>
        run(
          (function* () {
            const file = yield* wait(next(node, flags, context));
            opened(node, file, flags);
            return file;
          })(),
        ),
      read(next, node, file, buffer, offset, context) {
        const known = nodes.get(node);
        if (known === undefined || known.isDirect) return next(node, file, buffer, offset, context);
        return run(readBlocks(known, file, buffer, offset, context));
      },
      write: (next, node, file, buffer, offset, flags, context) =>
        run(change([node], () => next(node, file, buffer, offset, flags, context))),
      fallocate: (next, node, file, mode, offset, length, context) =>
        run(change([node], () => next(node, file, mode, offset, length, context))),
      copyFileRange: (next, node, file, offset, toNode, toFile, toOffset, length, context) =>
        run(change([toNode], () => next(node, file, offset, toNode, toFile, toOffset, length, context))),
      lseek: (next, ...args) => next(...args),
      setxattr: (next, node, name, value, flags, killSgid, context) =>
        run(change([node], () => next(node, name, value, flags, killSgid, context))),
      removexattr: (next, node, name, context) => run(change([node], () => next(node, name, context))),
      readdir(next, node, context) {
        const known = nodes.get(node);
        const kept = known?.listing();
        if (kept !== undefined || known === undefined) return kept ?? next(node, context);
        const { generation } = known;
        const keep = (entries: readonly DirectoryEntry[]): void => {
          if (generation === known.generation && namesMs > 0) known.setListing(entries, namesMs);
        };
        const most = bytes / LISTING_SHARE / LISTED_BYTES;
        return run(
          (function* () {
            const listing = yield* wait(next(node, context));
            return Symbol.asyncIterator in listing
              ? keepingAsync(listing, most, keep)
              : keeping(listing, most, keep);
          })(),
        );
      },
      metrics: (next) => [...next(), gauge('cache_bytes', 'What the cache keeps, about.', budget.bytes)],
    },
    {
      nodeBytes: NODE_BYTES,
      add: { metrics: () => [gauge('cache_bytes', 'What the cache keeps, about.', budget.bytes)] },
    },
  );
}

/** Passes a listing on, and keeps it once it has ended, unless it is too long. */
function* keeping(
  listing: Iterable<DirectoryEntry>,
  most: number,
  keep: (entries: readonly DirectoryEntry[]) => void,
): Generator<DirectoryEntry> {
  const entries: DirectoryEntry[] = [];
  for (const entry of listing) {
    if (entries.length <= most) entries.push({ ...entry });
    yield entry;
  }
  if (entries.length <= most) keep(entries);
}

async function* keepingAsync(
  listing: AsyncIterable<DirectoryEntry>,
  most: number,
  keep: (entries: readonly DirectoryEntry[]) => void,
): AsyncGenerator<DirectoryEntry> {
  const entries: DirectoryEntry[] = [];
  for await (const entry of listing) {
    if (entries.length <= most) entries.push({ ...entry });
    yield entry;
  }
  if (entries.length <= most) keep(entries);
}
