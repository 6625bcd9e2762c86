import { accelerate, acceleratorOf, type Accelerator } from './accelerator.js';
import type { Backend, CachePolicy, Semantics } from './backend.js';
import { backendMethods, type BackendMethod, requireBackend } from './methods.js';

/** What a backend that does not say it is taken to keep for a node, in bytes. */
const USUAL_NODE_BYTES = 256;

/** Bytes of the heap that a backend keeps for a node that guests know. */
export function nodeBytesOf<N extends object, F>({ nodeBytes = USUAL_NODE_BYTES }: Backend<N, F>): number {
  return nodeBytes;
}

/** A wrapper's version of a method: the arguments are those of the method, after `next`. */
export type Override<Method> = Method extends (...args: infer Arguments) => infer Result
  ? (next: Method, ...args: Arguments) => Result
  : never;

/**
 * What a wrapper does differently. `next` is the inner backend's own method, to be called with
 * whichever arguments, never or many times.
 */
export type Overrides<N extends object, F> = {
  readonly [Name in BackendMethod]?: Override<NonNullable<Backend<N, F>[Name]>>;
};

/** What a wrapped backend has beside the inner one's methods. */
export interface WrapOptions<N extends object, F> {
  /** Methods that the wrapped backend does not offer. */
  readonly without?: readonly BackendMethod[];
  /** Methods that it offers where the inner one lacks them. */
  readonly add?: Pick<Partial<Backend<N, F>>, BackendMethod>;
  /** The cache policy, made of the inner one's. Default: the inner one's. */
  readonly cache?: (inner: Partial<CachePolicy> | undefined) => Partial<CachePolicy> | undefined;
  /** The semantics, made of the inner one's. Default: the inner one's. */
  readonly semantics?: (inner: Semantics | undefined) => Semantics | undefined;
  /**
   * Bytes of the heap that the wrapper itself keeps for a node, as {@link Backend.nodeBytes}. They
   * are added to the inner backend's. Default: 0.
   */
  readonly nodeBytes?: number;
}

/** Methods besides `read` that tell of a file's content. */
const TELL_CONTENT = ['copyFileRange', 'lseek', 'ioctl'] as const;

/** Methods besides `write` that change a file's content where it is. */
const CHANGE_CONTENT = ['copyFileRange', 'fallocate', 'ioctl'] as const;

/** Methods whose requests accelerators carry out. */
const ACCELERATED = ['read', 'write', 'lookup', 'getattr'] as const;

/** Methods that hand out nodes. */
const GIVE_NODES = [
  'mount',
  'resolve',
  'lookup',
  'parent',
  'mknod',
  'mkdir',
  'symlink',
  'link',
  'create',
  'tmpfile',
] as const;

/**
 * The same file system with some methods done differently.
 *
 * The wrapped backend offers the methods that the inner one has at this moment, except those in
 * `without`, and those in `add`. An override for a method that the inner one lacks is left out, so
 * that a wrapper needs no knowledge of what it wraps. Every method that is not overridden is the
 * inner one's, called on the inner object: objects with private fields work. When the inner backend
 * calls its own methods, these are not the wrapper's.
 *
 * Nothing goes past what is overridden:
 *
 * - A wrapper that overrides `read` offers no `copyFileRange`, `lseek` and `ioctl`, and one that
 *   overrides `write` no `copyFileRange`, `fallocate` and `ioctl`, unless it overrides these as
 *   well (to let one pass: `copyFileRange: (next, ...args) => next(...args)`). The same holds where
 *   `without` has `read` or `write`. Guests do without: they copy by READ and WRITE, and take a
 *   file for one piece of data.
 * - The inner backend's accelerator (`virtiofs-kit/accelerator`) is kept only where none of `read`,
 *   `write`, `lookup` and `getattr` is overridden, and without the parts for methods that are not
 *   offered.
 *
 * A wrapper that changes the content or its length has more to override. `setattr`, `open` and
 * `create` cut files (`size`, and TRUNC among the flags). `lookup`, `getattr`, `setattr`, `link`
 * and all creations answer with attributes.
 *
 * Nodes and open files are the inner backend's own objects, and go to `next` as they came.
 * @throws UsageError where `inner` is no backend.
 */
export function wrap<N extends object, F>(
  inner: Backend<N, F>,
  overrides: Overrides<N, F>,
  options: WrapOptions<N, F> = {},
): Backend<N, F> {
  requireBackend(inner);
  const { without = [], add = {}, cache, semantics, nodeBytes = 0 } = options;
  const removed = new Set<BackendMethod>(without);
  const isReplaced = (name: BackendMethod): boolean =>
    !removed.has(name) &&
    (inner[name] === undefined ? add[name] !== undefined : overrides[name] !== undefined);
  const isChanged = (name: BackendMethod): boolean => removed.has(name) || isReplaced(name);
  const bypasses = [
    ...(isChanged('read') ? TELL_CONTENT : []),
    ...(isChanged('write') ? CHANGE_CONTENT : []),
  ];
  for (const name of bypasses) if (!isReplaced(name)) removed.add(name);

  const methods: [BackendMethod, unknown][] = [];
  for (const name of backendMethods) {
    const method = removed.has(name) ? undefined : methodOf(inner, overrides, add, name);
    if (method !== undefined) methods.push([name, method]);
  }
  const backend = {
    ...Object.fromEntries(methods),
    get cache() {
      return cache === undefined ? inner.cache : cache(inner.cache);
    },
    get semantics() {
      return semantics === undefined ? inner.semantics : semantics(inner.semantics);
    },
    get nodeBytes() {
      return nodeBytesOf(inner) + nodeBytes;
    },
  } as Backend<N, F>;
  const accelerator = acceleratorOf(inner);
  if (accelerator !== undefined) accelerate(backend, keep(accelerator, isReplaced, isChanged));
  return backend;
}

/** The wrapped backend's method of a name. `bind` hands arguments on without garbage. */
function methodOf<N extends object, F>(
  inner: Backend<N, F>,
  overrides: Overrides<N, F>,
  add: Partial<Backend<N, F>>,
  name: BackendMethod,
): unknown {
  const method: ((...args: never[]) => unknown) | undefined = inner[name];
  if (method === undefined) return add[name];
  const next: unknown = method.bind(inner);
  const override = overrides[name] as ((next: unknown, ...args: never[]) => unknown) | undefined;
  return override === undefined ? next : override.bind(undefined, next);
}

/** What an accelerator's `transfer` stands for. */
const TRANSFERS = ['resolve', 'save', 'restore'] as const satisfies readonly BackendMethod[];

/** The parts of an accelerator that cannot pass by what a wrapper changes. */
function keep<N extends object, F>(
  inner: Accelerator<N, F>,
  isReplaced: (name: BackendMethod) => boolean,
  isChanged: (name: BackendMethod) => boolean,
): Accelerator<N, F> {
  const kept: { -readonly [Part in keyof Accelerator<N, F>]: Accelerator<N, F>[Part] } = {};
  // Its files take descriptors, whatever is changed.
  if (inner.descriptors !== undefined) kept.descriptors = inner.descriptors;
  if (inner.slots === true) kept.slots = !GIVE_NODES.some(isReplaced);
  // Others may copy from its open files what `read` would give, and into them by `copyFileRange`.
  if (!isChanged('read') && !isReplaced('write') && !isReplaced('copyFileRange')) {
    kept.copyDomain = inner.copyDomain;
  }
  if (!isReplaced('resolve') && inner.recover !== undefined) {
    kept.recover = inner.recover.bind(inner);
    if (inner.descriptor !== undefined) kept.descriptor = inner.descriptor.bind(inner);
    if (inner.trace !== undefined) kept.trace = inner.trace.bind(inner);
    kept.tracesHelp = inner.tracesHelp;
    if (inner.watchTraces !== undefined) kept.watchTraces = inner.watchTraces.bind(inner);
    if (inner.retrace !== undefined) kept.retrace = inner.retrace.bind(inner);
    if (inner.recovered !== undefined) kept.recovered = inner.recovered.bind(inner);
    if (inner.leave !== undefined) kept.leave = inner.leave.bind(inner);
    kept.contents = inner.contents;
  }
  kept.unkept = inner.unkept;
  if (!isReplaced('resolve') && inner.migration !== undefined) kept.migration = inner.migration;
  if (!isReplaced('resolve')) kept.elsewhere = inner.elsewhere;
  if (inner.transfer !== undefined && !TRANSFERS.some(isReplaced)) kept.transfer = inner.transfer;
  // These four may be called before `submit`, and may then do nothing that is not the inner one's.
  if (ACCELERATED.some(isReplaced)) return kept;
  if (inner.size !== undefined) kept.size = inner.size.bind(inner);
  const { submit, backing } = inner;
  if (submit !== undefined) {
    if (!isChanged('read') && inner.gatherRead !== undefined) kept.gatherRead = inner.gatherRead.bind(inner);
    if (!isChanged('write') && inner.gatherWrite !== undefined) {
      kept.gatherWrite = inner.gatherWrite.bind(inner);
    }
    if (inner.gatherLookup !== undefined) kept.gatherLookup = inner.gatherLookup.bind(inner);
    if (inner.gatherGetattr !== undefined) kept.gatherGetattr = inner.gatherGetattr.bind(inner);
    kept.submit = submit.bind(inner);
    if (inner.completions !== undefined) kept.completions = inner.completions;
  }
  // Another daemon makes open files of descriptors, which would pass by an `open` that says no.
  if (!isReplaced('open')) {
    if (inner.held !== undefined) kept.held = inner.held.bind(inner);
    if (inner.adoptNode !== undefined) kept.adoptNode = inner.adoptNode.bind(inner);
    if (inner.adoptFile !== undefined) kept.adoptFile = inner.adoptFile.bind(inner);
  }
  if (backing !== undefined && !isChanged('read')) {
    kept.backing = isChanged('write')
      ? (node, file) => {
          const found = backing.call(inner, node, file);
          return found === undefined ? undefined : { ...found, writes: false };
        }
      : backing.bind(inner);
  }
  return kept;
}

/**
 * What is done around every call of a method.
 * @param method its name.
 * @param next makes the call; its result is that of the method, a value or a promise.
 * @param args the arguments, as the contract has them.
 * @returns the result, or a promise of it.
 */
export type Around = (method: BackendMethod, next: () => unknown, args: readonly unknown[]) => unknown;

/** Methods that are no requests, and must answer at once. */
const AT_ONCE: ReadonlySet<BackendMethod> = new Set<BackendMethod>(['key', 'forget', 'metrics', 'watch']);

/**
 * The same file system with something done around every call: for logs, figures, delays and faults.
 * All methods of the inner backend stay, and every request comes by. `key`, `forget`, `watch` and
 * `metrics`, which must answer at once, are left alone.
 * @throws UsageError where `inner` is no backend.
 */
export function wrapEach<N extends object, F>(inner: Backend<N, F>, around: Around): Backend<N, F> {
  const names = backendMethods.filter((name) => !AT_ONCE.has(name));
  const overrides = Object.fromEntries(
    names.map((name) => [
      name,
      (next: (...args: unknown[]) => unknown, ...args: unknown[]) => around(name, () => next(...args), args),
    ]),
  ) as unknown as Overrides<N, F>;
  return wrap(inner, overrides);
}
