import { accelerate, acceleratorOf, type Backing } from '../../core/backend/accelerator.js';
import {
  DAEMON,
  type Backend,
  type BackendHost,
  type CachePolicy,
  counter,
  gauge,
  FsError,
  type Health,
  ModeBits,
  nodeBytesOf,
  type NodeKey,
  run,
  type Semantics,
  type Steps,
  UsageError,
  wait,
  type Awaitable,
} from '../../core/backend/index.js';
import { attributeOperations } from './operations/attributes.js';
import { giveOwner } from './changes/like-another.js';
import { fileOperations } from './operations/files.js';
import { Layer } from './layers/layer.js';
import { type Marks, marksFor, NameMarks, OverlayfsMarks } from './layers/whiteouts.js';
import { saveLayer } from './offline/layer-archive.js';
import { nameOperations } from './operations/names.js';
import type { OverlayFile, OverlayNode } from './tree/node.js';
import { probeMarks } from './layers/probe.js';
import {
  decodeState,
  encodeState,
  type FindInLayer,
  type Places,
  placesOf,
  resolveNode,
} from './saved-state.js';
import { transfer } from './transfer.js';
import { recovery } from './recovery.js';
import { ShownAttributes } from './tree/shown-attributes.js';
import { Union, type Upper } from './tree/union.js';
import { WorkArea } from './layers/work-area.js';
import type { OverlaySettings } from './settings.js';

/** An overlay in service. */
export interface OverlayBackend extends Backend<OverlayNode, OverlayFile> {
  /** The tree, once mounted. */
  readonly union: Union;
  /**
   * Writes what the upper changed as a layer of a container image: a tar archive, gzipped if its
   * name ends in `gz`. The overlay must be mounted, with an upper.
   */
  saveLayer(file: string): Promise<void>;
}

/** What a node of the union takes, with its name, in bytes. */
const NODE_BYTES = 768;

/** Methods that the overlay has only if its upper has them. */
const FROM_UPPER = [
  'setattr',
  'mknod',
  'mkdir',
  'symlink',
  'link',
  'unlink',
  'rmdir',
  'rename',
  'create',
  'tmpfile',
  'write',
  'fsync',
  'fsyncdir',
  'syncfs',
  'setxattr',
  'removexattr',
  'fallocate',
  'copyFileRange',
] as const satisfies readonly (keyof Backend)[];

/** Methods that the overlay has if any layer has them. */
const FROM_ANY = [
  'readlink',
  'statfs',
  'getxattr',
  'listxattr',
  'lseek',
  'ioctl',
] as const satisfies readonly (keyof Backend)[];

/** Methods that an overlay has only if its identities are durable. */
const FROM_KEYS = ['key', 'resolve', 'save', 'restore'] as const satisfies readonly (keyof Backend)[];

/**
 * An overlay of one upper, if any, over one or more lowers. Reads go to the topmost layer that has
 * the file. The first change copies the file up.
 */
export function overlay(settings: OverlaySettings): OverlayBackend {
  const { upper, lowers } = settings;
  const layers = upper === undefined ? lowers : [upper, ...lowers];
  let mounted: Union | undefined;
  let places: Places = new Map();
  let find: FindInLayer | undefined;
  const union = (): Union => {
    if (mounted === undefined) throw new Error('the overlay is not mounted');
    return mounted;
  };
  const shown = new ShownAttributes(union);
  const backend: OverlayBackend = {
    cache: combinedCache(layers),
    semantics: semanticsOf(layers),
    // Most files are in one layer.
    nodeBytes: NODE_BYTES + Math.max(...layers.map(nodeBytesOf)),
    get union(): Union {
      return union();
    },
    mount(host: BackendHost): Awaitable<OverlayNode> {
      return run(
        (function* () {
          mounted = yield* mount(settings, host);
          return mounted.root;
        })(),
      );
    },
    saveLayer: (file) => saveLayer(backend, union(), file),
    unmount: () => run(unmount(layers)),
    save: () => run(encodeState(union(), layers)),
    restore(state: Uint8Array): Awaitable<void> {
      return run(
        (function* () {
          places = placesOf(yield* decodeState(state, layers));
          yield* union().layersRestored();
        })(),
      );
    },
    health: () => run(healthOf(layers)),
    metrics: () => [
      counter('copy_ups', 'Files and directories copied up.', union().copyUps),
      gauge('known_nodes', 'Files and directories that it keeps in memory.', union().knownNodes),
    ],
    key: (node: OverlayNode): string => node.identity,
    resolve: (key: NodeKey): Awaitable<OverlayNode> => run(resolveNode(union(), places, String(key), find)),
    ...nameOperations(union, shown),
    ...attributeOperations(union, shown),
    ...fileOperations(union),
  };
  const missing = [
    ...FROM_UPPER.filter((name) => upper?.[name] === undefined),
    ...FROM_ANY.filter((name) => layers.every((layer) => layer[name] === undefined)),
    ...(upper !== undefined && upper.key === undefined ? FROM_KEYS : []),
  ];
  // The engine takes the methods that are present as the capabilities: those that no layer supports
  // are removed.
  for (const name of missing) delete backend[name];
  const descriptors = layers.some((layer) => acceleratorOf(layer)?.descriptors === true);
  const moved = transfer(union, upper, lowers, (arrival) => {
    places = placesOf(arrival?.nodes ?? []);
    find = arrival?.find;
  });
  return accelerate(backend, {
    slots: true,
    descriptors,
    transfer: moved,
    backing: (_node, file) => backingOf(file, upper !== undefined),
    ...recovery(union, layers),
  });
}

/**
 * The file of this host behind an open file, where its content stays in its layer. What lies below
 * an upper may be copied up while it is open: whoever had its descriptor would go on reading what
 * was there, which Linux's overlayfs does for mappings alone.
 */
function backingOf(file: OverlayFile | undefined, hasUpper: boolean): Backing | undefined {
  if (file === undefined || (hasUpper && file.layer.number !== 0)) return undefined;
  const { layer, node, file: open } = file;
  const backing = acceleratorOf(layer.backend)?.backing?.(node, open);
  // Attributes are the overlay's own, such as the link count of a file that has names below.
  return backing === undefined ? undefined : { ...backing, attributes: false, identity: undefined };
}

function* mount(settings: OverlaySettings, host: BackendHost): Steps<Union> {
  const { upper, lowers, redirectDir, xattrs } = settings;
  const lowerLayers: Layer[] = [];
  for (const [at, backend] of lowers.entries()) {
    const root = yield* wait(backend.mount(host));
    lowerLayers.push(new Layer(lowers.length - at, backend, root, marksOf(settings, backend, false)));
  }
  let top: Upper | undefined;
  if (upper !== undefined) {
    const root = yield* wait(upper.mount(host));
    const layer = new Layer(0, upper, root, marksOf(settings, upper, true));
    const work = yield* openWork(settings, layer);
    layer.marks = yield* probeMarks(layer, work, settings, host.log);
    if (work.isNew && (yield* work.isEmpty())) yield* takeOwnerOf(layer, work.root, lowerLayers[0]!);
    top = { layer, marks: layer.marks, work };
  }
  const metacopy = settings.metacopy && redirectDir && xattrs === 'trusted';
  const union = new Union(host, top, lowerLayers, { redirectDir, metacopy });
  if (top !== undefined) yield* union.readRoot();
  return union;
}

function marksOf({ marks, xattrs }: OverlaySettings, backend: Backend, isUpper: boolean): Marks {
  if (marks === 'overlayfs') return new OverlayfsMarks(xattrs);
  if (marks === 'names') return new NameMarks();
  return marksFor(backend, xattrs, isUpper);
}

/**
 * When an upper is used for the first time and is empty, its root takes the owner and permissions
 * of the topmost lower's root.
 */
function* takeOwnerOf(upper: Layer, root: object, lower: Layer): Steps<void> {
  const attributes = { ...(yield* wait(lower.backend.getattr(lower.root, undefined, DAEMON))) };
  if (!(yield* giveOwner(upper, root, attributes))) return;
  const mode = attributes.mode & ModeBits.PERMISSIONS;
  yield* wait(upper.backend.setattr?.(root, { mode }, undefined, DAEMON));
}

/** @throws UsageError if the work area cannot be made or emptied, or another mount uses it. */
function* openWork({ upperPath, workPath, reached }: OverlaySettings, layer: Layer): Steps<WorkArea> {
  try {
    return yield* wait(WorkArea.open(layer, upperPath, workPath, reached ?? (() => {})));
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    if (error.code === 'EBUSY') {
      throw new UsageError(
        'overlay: the upper or its work area is in use by another mount: end that, or give this one an --upper-path and a --work-path of its own',
        { cause: error },
      );
    }
    throw new UsageError(`overlay: the upper's work area cannot be made or emptied (${error.code})`, {
      cause: error,
    });
  }
}

function* unmount(layers: readonly Backend[]): Steps<void> {
  for (const layer of layers) yield* wait(layer.unmount?.());
}

function* healthOf(layers: readonly Backend[]): Steps<Health> {
  for (const layer of layers) {
    const health = yield* wait(layer.health?.());
    if (health?.ok === false) return health;
  }
  return { ok: true };
}

/**
 * The cache policy of the union. Attributes and data may come from any layer, so each timeout is
 * the shortest that a layer asks for.
 */
function combinedCache(layers: readonly Backend[]): Partial<CachePolicy> {
  const policies = layers.flatMap(({ cache }) => (cache === undefined ? [] : [cache]));
  const least = (name: 'entryTimeout' | 'negativeTimeout' | 'attributeTimeout'): Partial<CachePolicy> => {
    const given = policies.flatMap((policy) => policy[name] ?? []);
    return given.length === 0 ? {} : { [name]: Math.min(...given) };
  };
  const data = new Set(policies.flatMap((policy) => policy.data ?? []));
  const worst = (['never', 'auto', 'always'] as const).find((policy) => data.has(policy));
  return {
    ...least('entryTimeout'),
    ...least('negativeTimeout'),
    ...least('attributeTimeout'),
    ...(worst === undefined ? {} : { data: worst }),
    ...(layers[0]?.cache?.writeback === undefined ? {} : { writeback: layers[0].cache.writeback }),
  };
}

/**
 * The upper's semantics, since everything they govern happens there. But submounts may be in any
 * layer.
 */
function semanticsOf(layers: readonly Backend[]): Semantics {
  const submounts = layers.some(({ semantics }) => semantics?.submounts === true);
  return { ...layers[0]!.semantics, ...(submounts ? { submounts } : {}) };
}
