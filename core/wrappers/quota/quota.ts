import {
  andThen,
  type Awaitable,
  type Backend,
  type Context,
  DAEMON,
  type Entry,
  FallocateMode,
  FsError,
  nameLength,
  OpenFlags,
  RenameFlags,
  run,
  type Steps,
  UsageError,
  wait,
  wrap,
} from '../../backend/index.js';
import { Turns } from '../turns.js';
import { Usage } from './usage.js';

/** How much a file system under {@link quota} may hold. */
export interface QuotaOptions {
  /** Sum of the sizes of all files, holes included. 0 to 2^53-1. Default: no limit. */
  readonly bytes?: number | undefined;
  /**
   * Files, directories, links and all else that has a name, except the root. A hard link counts
   * once more. 0 to 2^53-1. Default: no limit.
   */
  readonly inodes?: number | undefined;
  /** Names and values of the extended attributes of one node, in bytes. Default: 65,792. */
  readonly xattrBytes?: number | undefined;
}

/** What is kept of a node, and of one whose extended attributes were set, in bytes. */
const NODE_BYTES = 512;

const UNLIMITED = Number.MAX_SAFE_INTEGER;

/** One attribute of the largest size that Linux allows, and its name. */
const XATTR_BYTES = 65_536 + 256;

/**
 * The same file system with a limit on what it holds: beyond it, ENOSPC. `statfs` shows the limit.
 * What is there is counted at `mount` and `restore`, which list the whole tree. Changes that do not
 * go through the wrapper are not seen.
 *
 * A file is charged for its size, whether or not it has holes, until its last name is gone and
 * nobody uses it. Nothing is set aside beyond a file's end (EOPNOTSUPP). Beside `bytes` a node
 * takes its name, a link's target, and its extended attributes: they are limited by `inodes` and
 * `xattrBytes`. Over a backend that answers later, changes of names go one after the other.
 * @throws UsageError for a limit that is none, and where `inner` is no backend or lists nothing.
 */
export function quota<N extends object, F>(
  inner: Backend<N, F>,
  { bytes = UNLIMITED, inodes = UNLIMITED, xattrBytes = XATTR_BYTES }: QuotaOptions,
): Backend<N, F> {
  for (const [name, limit] of Object.entries({ bytes, inodes, xattrBytes })) {
    if (!Number.isSafeInteger(limit) || limit < 0)
      throw new UsageError(`quota: ${name} ${limit}: not a whole number from 0 to 2^53-1`);
  }
  const usage = new Usage(inner, { bytes, inodes });
  const { nodes } = usage;
  const turns = new Turns();
  /** Of each node's extended attributes. */
  const attributeTurns = new WeakMap<N, Turns>();
  let root: N;

  function* creation<E extends Entry<N>>(make: () => Awaitable<E>): Steps<E> {
    usage.reserve(0, 1);
    try {
      return yield* nodes.giving(make, (entry) => void usage.use(entry));
    } catch (error) {
      usage.reserve(0, -1);
      throw error;
    }
  }

  /** What gives a node that the engine uses from then on, without its attributes. */
  function* finding(find: () => Awaitable<N>, context = DAEMON): Steps<N> {
    const entry = function* (): Steps<Entry<N>> {
      const node = yield* wait(find());
      return { node, attributes: yield* wait(inner.getattr(node, undefined, context)) };
    };
    const { node } = yield* nodes.giving(
      () => run(entry()),
      (found) => void usage.use(found),
    );
    return node;
  }

  /** What removes a name, if it is there: its node is asked for before. */
  function* removal(parent: N, name: string, context: Context, remove: () => Awaitable<void>): Steps<void> {
    const victim = yield* usage.find(parent, name, context);
    try {
      yield* wait(remove());
      if (victim !== undefined) usage.lostName(victim);
    } finally {
      if (victim !== undefined) nodes.letGo(victim.node);
    }
  }

  return wrap<N, F>(
    inner,
    {
      mount(next, host) {
        if (inner.readdir === undefined) throw new UsageError('quota: the backend lists no directory');
        return (async () => {
          root = await next(host);
          await usage.count(root);
          return root;
        })();
      },
      async restore(next, state) {
        await next(state);
        await usage.count(root);
      },
      forget: (_next, node) => nodes.forget(node),
      resolve: (next, key) => run(finding(() => next(key), undefined)),
      parent: (next, directory, context) => run(finding(() => next(directory, context), context)),
      lookup: (next, parent, name, context) =>
        run(
          nodes.giving(
            () => next(parent, name, context),
            (entry) => entry && void usage.use(entry),
          ),
        ),
      mknod: (next, ...args) => turns.run(() => creation(() => next(...args))),
      mkdir: (next, ...args) => turns.run(() => creation(() => next(...args))),
      symlink: (next, ...args) => turns.run(() => creation(() => next(...args))),
      tmpfile: (next, parent, mode, flags, context) =>
        turns.run(function* () {
          const made = yield* creation(() => next(parent, mode, flags, context));
          const charged = usage.use(made);
          charged.isOrphan = true;
          charged.appends ||= (flags & OpenFlags.APPEND) !== 0;
          return made;
        }),
      create: (next, parent, name, mode, flags, context) =>
        turns.run(function* () {
          const make = () => next(parent, name, mode, flags, context);
          const found = yield* usage.find(parent, name, context);
          try {
            const made =
              found === undefined
                ? yield* creation(make)
                : yield* usage.change(
                    found.node,
                    undefined,
                    context,
                    () => 0,
                    () => andThen(run(nodes.giving(make, (entry) => void usage.use(entry))), copyEntry),
                    (flags & OpenFlags.TRUNC) !== 0,
                  );
            usage.use(made).appends ||= (flags & OpenFlags.APPEND) !== 0;
            return made;
          } finally {
            if (found !== undefined) nodes.letGo(found.node);
          }
        }),
      link: (next, node, parent, name, context) =>
        turns.run(function* () {
          const charged = nodes.get(node);
          const cost = charged?.isOrphan === true ? 0 : 1;
          usage.reserve(0, cost);
          try {
            const entry = yield* wait(next(node, parent, name, context));
            if (charged !== undefined) charged.isOrphan = false;
            return entry;
          } catch (error) {
            usage.reserve(0, -cost);
            throw error;
          }
        }),
      unlink: (next, parent, name, context) =>
        turns.run(() => removal(parent, name, context, () => next(parent, name, context))),
      rmdir: (next, parent, name, context) =>
        turns.run(() => removal(parent, name, context, () => next(parent, name, context))),
      rename: (next, parent, name, newParent, newName, flags, context) =>
        turns.run(function* () {
          const go = () => next(parent, name, newParent, newName, flags, context);
          // A whiteout would be one more node.
          if ((flags & RenameFlags.WHITEOUT) !== 0) throw FsError.of('EINVAL');
          if ((flags & RenameFlags.EXCHANGE) !== 0) return yield* wait(go());
          const source = yield* usage.find(parent, name, context);
          try {
            const target = yield* usage.find(newParent, newName, context);
            if (target !== undefined) nodes.letGo(target.node);
            // Of two names of one file none goes.
            if (target === undefined || target.node === source?.node) return yield* wait(go());
            return yield* removal(newParent, newName, context, go);
          } finally {
            if (source !== undefined) nodes.letGo(source.node);
          }
        }),
      open: (next, node, flags, context) => {
        const charged = nodes.get(node);
        if (charged !== undefined && (flags & OpenFlags.APPEND) !== 0) charged.appends = true;
        const go = () => next(node, flags, context);
        if ((flags & OpenFlags.TRUNC) === 0) return go();
        return run(usage.change(node, undefined, context, () => 0, go, true));
      },
      setattr(next, node, changes, file, context) {
        const { size } = changes;
        const go = () => next(node, changes, file, context);
        if (size === undefined) return go();
        // What is returned may be one object, which measuring would refill.
        const kept = () => andThen(go(), (attributes) => ({ ...attributes }));
        return run(usage.change(node, file, context, () => size, kept, true));
      },
      write: (next, node, file, buffer, offset, flags, context) =>
        run(
          usage.change(
            node,
            file,
            context,
            (size) =>
              nodes.get(node)?.appends === true
                ? Math.max(size, offset) + buffer.length
                : offset + buffer.length,
            () => next(node, file, buffer, offset, flags, context),
          ),
        ),
      fallocate(next, node, file, mode, offset, length, context) {
        const { KEEP_SIZE, PUNCH_HOLE, INSERT_RANGE, COLLAPSE_RANGE } = FallocateMode;
        const keepsSize = (mode & KEEP_SIZE) !== 0;
        const end = (size: number): number => {
          if (keepsSize && (mode & PUNCH_HOLE) === 0 && offset + length > size)
            throw FsError.of('EOPNOTSUPP');
          if ((mode & INSERT_RANGE) !== 0) return size + length;
          return keepsSize || (mode & COLLAPSE_RANGE) !== 0 ? 0 : offset + length;
        };
        const go = () => next(node, file, mode, offset, length, context);
        return run(usage.change(node, file, context, end, go, (mode & COLLAPSE_RANGE) !== 0));
      },
      copyFileRange: (next, node, file, offset, toNode, toFile, toOffset, length, context) =>
        run(
          usage.change(
            toNode,
            toFile,
            context,
            () => toOffset + length,
            () => next(node, file, offset, toNode, toFile, toOffset, length, context),
          ),
        ),
      setxattr: (next, node, name, value, flags, killSgid, context) =>
        turnsOf(attributeTurns, node).run(function* () {
          const others = yield* xattrBytesOf(inner, node, name, context);
          if (others + nameLength(name) + value.length > xattrBytes) throw FsError.of('ENOSPC');
          return yield* wait(next(node, name, value, flags, killSgid, context));
        }),
      statfs: (next, node, context) =>
        andThen(next(node, context), (statistics) => usage.statistics(statistics)),
    },
    { nodeBytes: NODE_BYTES, add: { statfs: () => usage.statistics({}) } },
  );
}

function turnsOf<N extends object>(all: WeakMap<N, Turns>, node: N): Turns {
  let turns = all.get(node);
  if (turns === undefined) all.set(node, (turns = new Turns()));
  return turns;
}

/** The attributes may be one object that the backend refills. */
function copyEntry<E extends Entry<object>>(entry: E): E {
  return { ...entry, attributes: { ...entry.attributes } };
}

/** Names and values of a node's extended attributes, without one of them. */
function* xattrBytesOf<N extends object, F>(
  inner: Backend<N, F>,
  node: N,
  except: string,
  context: Context,
): Steps<number> {
  const names = inner.listxattr === undefined ? [] : yield* wait(inner.listxattr(node, context));
  let bytes = 0;
  for (const name of names) {
    if (name === except) continue;
    const value = inner.getxattr === undefined ? undefined : yield* wait(inner.getxattr(node, name, context));
    bytes += nameLength(name) + (value?.length ?? 0);
  }
  return bytes;
}
