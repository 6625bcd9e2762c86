import {
  type AttributeChanges,
  type Awaitable,
  type Backend,
  type BackendHost,
  type CachePolicy,
  counter,
  DAEMON,
  type Entry,
  FileType,
  FsError,
  type Metric,
  type NodeChange,
  OpenFlags,
  run,
  type Steps,
  UsageError,
  wait,
  wrap,
} from '../../backend/index.js';
import { NodesInUse } from '../nodes-in-use.js';
import { EventQueue, Recent } from './events.js';

/** What {@link watched} does. */
export interface WatchedOptions {
  /** Directories that are watched at a time, those looked up last. Default: 8192. */
  readonly directories?: number | undefined;
  /**
   * How long guests may keep names and attributes at most, in seconds, 0 or more. Default: 1.
   */
  readonly validity?: number | undefined;
}

/** The file in the root that the guest's agent reads. No listing has it. */
const CONTROL = '.virtiofs-kit-events';

/** The agent touches a file so long after its event, in milliseconds. */
const POKE_MS = 10_000;

/** Events of what guests did themselves come so long after it, in milliseconds. */
const OWN_MS = 150;

/** Changes are told together so long after the first, in milliseconds. */
const BATCH_MS = 5;

/** Changes that are told together at most, and the characters of their paths. */
const MOST_PENDING = 4096;
const MOST_PENDING_CHARACTERS = 2 ** 20;

/** PATH_MAX of Linux, in characters: no program can name what has a longer path. */
const MOST_PATH = 4096;

/** What is kept of a node, with its name, in bytes. */
const NODE_BYTES = 640;

/** Readers of the control file at a time. */
const READERS = 64;

/** Where a node is, as it was looked up last. */
interface Place {
  parent: object | undefined;
  name: string;
  unwatch: (() => void) | undefined;
}

/** An open file: the inner backend's own, or a reader of the control file. */
type File<F> = F | EventQueue;

/**
 * The same file system, whose changes from outside reach programs in guests that wait for them
 * (inotify), if the guest runs the agent: a script that reads a hidden file in the root,
 * `.virtiofs-kit-events`, and touches what has changed through the guest's own kernel. The touch is
 * recognised and changes nothing. Names and attributes are kept by guests for a second at most.
 *
 * What guests do themselves is not told. A change from outside is lost where a guest changed the
 * same file in the 150 ms before.
 * @throws UsageError for a limit out of range, and where `inner` is no backend.
 */
export function watched<N extends object, F>(
  inner: Backend<N, F>,
  { directories = 8192, validity = 1 }: WatchedOptions = {},
): Backend<N, F> {
  if (!Number.isInteger(directories) || directories < 0)
    throw new UsageError(`watched: directories ${directories}: not a whole number from 0`);
  if (!(validity >= 0)) throw new UsageError(`watched: validity ${validity}: must be 0 or more seconds`);
  const readers = new Set<EventQueue>();
  /** Directories that are watched, least recently looked up first. */
  const watching = new Set<Place>();
  const pokes = new Recent(POKE_MS);
  const own = new Recent(OWN_MS);
  /** Requests under way that change what is at a path. */
  const changing = new Map<string, number>();
  let dropped = 0;
  let told = 0;
  let absorbed = 0;
  /** Changes that are told soon, by path. */
  const pending = new Map<string, { readonly node: object; readonly change: NodeChange }>();
  let pendingCharacters = 0;
  let timer: NodeJS.Timeout | undefined;
  let root: N | undefined;
  const control = {} as N;
  const nodes = new NodesInUse<N, Place>((node, place) => {
    stop(place);
    inner.forget?.(node);
  });

  function stop(place: Place): void {
    watching.delete(place);
    place.unwatch?.();
    place.unwatch = undefined;
  }

  /** The path of a node, from the root; undefined where it is not known. */
  function pathOf(node: object): string | undefined {
    const names: string[] = [];
    let characters = 0;
    for (let at = node; at !== root;) {
      const place = nodes.get(at as N);
      characters += (place?.name.length ?? 0) + 1;
      if (place?.parent === undefined || characters > MOST_PATH) return undefined;
      names.push(place.name);
      at = place.parent;
    }
    return names.toReversed().join('/');
  }

  function below(directory: object, name: string): string | undefined {
    const path = pathOf(directory);
    if (path === undefined) return undefined;
    return path === '' ? name : `${path}/${name}`;
  }

  /** Takes a node that a call has given. */
  function take({ node, attributes }: Entry<N>, parent: N | undefined, name: string): void {
    const place = nodes.use(node, () => ({ parent, name, unwatch: undefined }));
    if (parent !== undefined) {
      place.parent = parent;
      place.name = name;
    }
    if ((attributes.mode & FileType.MASK) === FileType.DIRECTORY) watch(node, place);
  }

  function watch(node: N, place: Place): void {
    if (watching.delete(place)) {
      watching.add(place);
      return;
    }
    const unwatch = inner.watch?.(node);
    if (unwatch === undefined) return;
    place.unwatch = unwatch;
    watching.add(place);
    const [oldest] = watching;
    if (watching.size > directories) stop(oldest!);
  }

  /** Keeps a change from outside for {@link flush}. Changes of one path that come soon are one. */
  function keep(host: BackendHost, node: object, change: NodeChange): void {
    const path = change.name === undefined ? pathOf(node) : below(node, change.name);
    if (path === undefined || own.has(path) || changing.has(path)) return;
    if (pending.size >= MOST_PENDING || pendingCharacters > MOST_PENDING_CHARACTERS) {
      dropped += 1;
      return;
    }
    if (!pending.has(path)) pendingCharacters += path.length;
    const before = pending.get(path)?.change.kind;
    // What was made and then filled is told as made.
    const kind = before === 'made' && change.kind !== 'removed' ? before : change.kind;
    pending.set(path, { node, change: { ...change, kind } });
    timer ??= setTimeout(() => flush(host), BATCH_MS);
  }

  /** Tells of the changes that were kept. */
  function flush(host: BackendHost): void {
    timer = undefined;
    for (const [path, { node, change }] of pending) {
      tell(path, change.kind);
      host.changed?.(node, change);
      const { name, kind } = change;
      if (name !== undefined && (kind === 'content' || kind === 'attributes'))
        tellOfNode(host, node, name, kind);
    }
    pending.clear();
    pendingCharacters = 0;
  }

  /** The host's kernel drops what it has of the node that a name stands for. */
  function tellOfNode(host: BackendHost, node: object, name: string, kind: NodeChange['kind']): void {
    const looking = nodes.giving(
      () => inner.lookup(node as N, name, DAEMON),
      (found) => found && void nodes.hold(found.node, () => ({ parent: node, name, unwatch: undefined })),
    );
    const telling = function* (): Steps<void> {
      const found = yield* looking;
      if (found === undefined) return;
      host.changed?.(found.node, { kind });
      nodes.letGo(found.node);
    };
    // A name that has gone meanwhile is told of by itself.
    Promise.resolve()
      .then(() => run(telling()))
      .catch(() => undefined);
  }

  /** Tells the agents of a change. */
  function tell(path: string, kind: NodeChange['kind']): void {
    if (path.includes('\n')) return;
    // A removed name cannot be touched any more; its directory can.
    const touched = kind === 'removed' ? path.slice(0, Math.max(0, path.lastIndexOf('/'))) : path;
    told += 1;
    if (readers.size > 0) pokes.add(touched);
    for (const reader of readers) {
      const before = reader.dropped;
      reader.push(`${kind} ${touched === '' ? '.' : touched}`);
      dropped += reader.dropped - before;
    }
  }

  /** Carries out what a guest changes at some paths, of which nothing is told. */
  function* changes<R>(paths: readonly (string | undefined)[], go: () => Awaitable<R>): Steps<R> {
    const known = paths.filter((path) => path !== undefined);
    for (const path of known) changing.set(path, (changing.get(path) ?? 0) + 1);
    try {
      return yield* wait(go());
    } finally {
      for (const path of known) {
        const left = changing.get(path)! - 1;
        if (left === 0) changing.delete(path);
        else changing.set(path, left);
        own.add(path);
      }
    }
  }

  function making<E extends Entry<N>>(parent: N, name: string, make: () => Awaitable<E>): Awaitable<E> {
    return run(
      changes([below(parent, name), pathOf(parent)], () =>
        run(nodes.giving(make, (made) => take(made, parent, name))),
      ),
    );
  }

  function open(flags: number): { readonly file: F; readonly directIo: true; readonly nonSeekable: true } {
    if ((flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY) throw FsError.of('EACCES');
    if (readers.size >= READERS) throw FsError.of('EBUSY');
    const reader = new EventQueue();
    readers.add(reader);
    return { file: reader as File<F> as F, directIo: true, nonSeekable: true };
  }

  const figures = (): readonly Metric[] => [
    counter('watch_events', 'Changes from outside of which guests were told.', told),
    counter('watch_dropped_events', 'Changes that came faster than an agent took them.', dropped),
    counter('watch_touches', 'Touches of the agents, which changed nothing.', absorbed),
  ];
  const capped = (policy: Partial<CachePolicy> = {}): Partial<CachePolicy> => ({
    ...policy,
    entryTimeout: Math.min(policy.entryTimeout ?? 1, validity),
    negativeTimeout: Math.min(policy.negativeTimeout ?? 0, validity),
    attributeTimeout: Math.min(policy.attributeTimeout ?? 1, validity),
  });

  return wrap<N, F>(
    inner,
    {
      mount: (next, host) =>
        run(
          (function* () {
            const changed: BackendHost['changed'] = (node, change) => {
              keep(host, node, change);
            };
            root = yield* wait(next({ ...host, changed }));
            take({ node: root, attributes: { mode: FileType.DIRECTORY } }, undefined, '');
            return root;
          })(),
        ),
      unmount(next) {
        clearTimeout(timer);
        for (const place of watching) stop(place);
        return next();
      },
      metrics: (next) => [...next(), ...figures()],
      key: (next, node) => (node === control ? CONTROL : next(node)),
      resolve: (next, key) => {
        if (key === CONTROL) return control;
        return run(
          nodes.giving(
            () => next(key),
            (node) => take({ node, attributes: { mode: 0 } }, undefined, ''),
          ),
        );
      },
      forget(_next, node) {
        if (node !== control) nodes.forget(node);
      },
      lookup(next, parent, name, context) {
        if (parent === root && name === CONTROL) return { node: control, attributes: CONTROL_ATTRIBUTES };
        return run(
          nodes.giving(
            () => next(parent, name, context),
            (found) => found && take(found, parent, name),
          ),
        );
      },
      parent: (next, directory, context) =>
        run(
          nodes.giving(
            () => next(directory, context),
            (node) => take({ node, attributes: { mode: FileType.DIRECTORY } }, undefined, ''),
          ),
        ),
      getattr: (next, node, file, context) =>
        node === control ? CONTROL_ATTRIBUTES : next(node, file, context),
      setattr(next, node, what, file, context) {
        if (node === control) throw FsError.of('EPERM');
        const path = pathOf(node);
        if (path !== undefined && isTouch(what) && pokes.take(path)) {
          absorbed += 1;
          return inner.getattr(node, file, context);
        }
        return run(changes([path], () => next(node, what, file, context)));
      },
      mknod: (next, parent, name, mode, rdev, context) =>
        making(parent, name, () => next(parent, name, mode, rdev, context)),
      mkdir: (next, parent, name, mode, context) =>
        making(parent, name, () => next(parent, name, mode, context)),
      symlink: (next, parent, name, target, context) =>
        making(parent, name, () => next(parent, name, target, context)),
      link: (next, node, parent, name, context) => {
        if (node === control) throw FsError.of('EPERM');
        return making(parent, name, () => next(node, parent, name, context));
      },
      create(next, parent, name, mode, flags, context) {
        if (parent === root && name === CONTROL) throw FsError.of('EEXIST');
        return making(parent, name, () => next(parent, name, mode, flags, context));
      },
      tmpfile: (next, parent, mode, flags, context) =>
        run(
          nodes.giving(
            () => next(parent, mode, flags, context),
            (made) => take(made, undefined, ''),
          ),
        ),
      unlink: (next, parent, name, context) => {
        if (parent === root && name === CONTROL) throw FsError.of('EPERM');
        return run(changes([below(parent, name), pathOf(parent)], () => next(parent, name, context)));
      },
      rmdir: (next, parent, name, context) =>
        run(changes([below(parent, name), pathOf(parent)], () => next(parent, name, context))),
      rename(next, parent, name, newParent, newName, flags, context) {
        if (parent === root && name === CONTROL) throw FsError.of('EPERM');
        if (newParent === root && newName === CONTROL) throw FsError.of('EPERM');
        const paths = [below(parent, name), below(newParent, newName), pathOf(parent), pathOf(newParent)];
        return run(changes(paths, () => next(parent, name, newParent, newName, flags, context)));
      },
      open: (next, node, flags, context) => (node === control ? open(flags) : next(node, flags, context)),
      read(next, node, file, buffer, offset, context) {
        if (node !== control) return next(node, file, buffer, offset, context);
        return (file as File<F> as EventQueue).read(buffer, context);
      },
      write: (next, node, file, buffer, offset, flags, context) =>
        run(changes([pathOf(node)], () => next(node, file, buffer, offset, flags, context))),
      fallocate: (next, node, file, mode, offset, length, context) =>
        run(changes([pathOf(node)], () => next(node, file, mode, offset, length, context))),
      copyFileRange: (next, node, file, offset, toNode, toFile, toOffset, length, context) =>
        run(
          changes([pathOf(toNode)], () =>
            next(node, file, offset, toNode, toFile, toOffset, length, context),
          ),
        ),
      lseek: (next, ...args) => next(...args),
      flush: (next, node, file, context) => (node === control ? undefined : next(node, file, context)),
      release(next, node, file) {
        if (node !== control) return next(node, file);
        readers.delete(file as File<F> as EventQueue);
      },
      fsync: (next, node, file, dataOnly, context) =>
        node === control ? undefined : next(node, file, dataOnly, context),
      statfs: (next, node, context) => next(node === control ? root! : node, context),
      getxattr: (next, node, name, context) => (node === control ? undefined : next(node, name, context)),
      listxattr: (next, node, context) => (node === control ? [] : next(node, context)),
      setxattr(next, node, name, value, flags, killSgid, context) {
        if (node === control) throw FsError.of('EPERM');
        return run(changes([pathOf(node)], () => next(node, name, value, flags, killSgid, context)));
      },
      removexattr(next, node, name, context) {
        if (node === control) throw FsError.of('EPERM');
        return run(changes([pathOf(node)], () => next(node, name, context)));
      },
    },
    {
      add: {
        metrics: figures,
        open: (node, flags) => (node === control ? open(flags) : { file: undefined as F }),
        release: (_node, file) => void readers.delete(file as File<F> as EventQueue),
        read: (node, file, buffer, _offset, context) => {
          if (node !== control) throw FsError.of('EINVAL');
          return (file as File<F> as EventQueue).read(buffer, context);
        },
      },
      cache: capped,
      nodeBytes: NODE_BYTES,
    },
  );
}

const CONTROL_ATTRIBUTES = { mode: FileType.REGULAR | 0o400 } as const;

/** What `touch -m` asks for: a new time of the content's last change alone. */
function isTouch({ mtime, ...rest }: AttributeChanges): boolean {
  return mtime === 'now' && Object.keys(rest).length === 0;
}
