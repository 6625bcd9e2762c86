import { acceleratorOf, type Accelerator, type LastingMemory } from '../backend/accelerator.js';
import {
  nodeBytesOf,
  requireBackend,
  type Backend,
  type BackendHost,
  type CachePolicy,
  type Logger,
  type NodeChange,
} from '../backend/index.js';
import { heapLimit, memoryLimit } from '../backend/limits.js';
import { nodeBudget } from './budgets.js';
import { ListingBudget } from './directory-stream.js';
import type { Slot } from './ids.js';
import type { Journal } from './journal/index.js';
import { HostLocks, LockTable, type LockLimits } from './locks/index.js';
import { NodeTable } from './node-table.js';
import { UnfinishedTransfers } from './unfinished.js';

/** Hears of changes that no guest has made. It must not throw. */
export type ChangeListener = (node: object, change: NodeChange) => void;

/** Limits on the state that guests can make an export keep. */
export interface ExportLimits {
  /**
   * Nodes that all guests together know; beyond it a lookup gives ENFILE. At most 2^30. Absent:
   * what a third of the heap holds, by what the backend keeps for each, 4,194,304 at most.
   */
  readonly nodes: number;
  /** Open files and directories of one guest; beyond it ENFILE. At most 2^30. */
  readonly handles: number;
  /**
   * Nodes that all guests have forgotten and that are still found by their file handles
   * (open_by_handle_at(2), NFS). Each takes up to 1.5 KiB of memory. 0: none, and guests are not
   * told that they may come back with handles (EXPORT_SUPPORT).
   */
  readonly remembered: number;
  /** Locks and waiting lock requests; beyond it ENOLCK. */
  readonly locks: Partial<LockLimits>;
  /** Bytes of memory for the directory listings that all guests have open; beyond it ENOMEM. */
  readonly listings: number;
}

/** Bytes of the heap for a known node, beside the backend's (`nodeBytes`), and for a lock. */
const NODE_BYTES = 128;
const LOCK_BYTES = 256;
const MOST_NODES = 4_194_304;

/** By what the heap and the machine (or cgroup) hold, so that a guest is refused well before. */
export const defaultExportLimits: Omit<ExportLimits, 'nodes'> = {
  handles: 1_048_576,
  remembered: 0,
  locks: { totalLocks: Math.min(1_048_576, Math.floor(heapLimit / 16 / LOCK_BYTES)) },
  listings: Math.min(1 << 30, Math.floor(memoryLimit() / 8)),
};

/** The cache policy, unless the backend or the export's options say otherwise. */
export const defaultCachePolicy: CachePolicy = {
  entryTimeout: 1,
  negativeTimeout: 0,
  attributeTimeout: 1,
  data: 'auto',
  writeback: false,
};

export interface ExportOptions extends BackendHost {
  /** Overrides single parts of the backend's cache policy. */
  readonly cache?: Partial<CachePolicy>;
  readonly limits?: Partial<ExportLimits>;
  /** Each guest manages its locks itself: INIT offers no locks. */
  readonly localLocks?: boolean;
  /**
   * Memory for what the backend has, of so many bytes. Absent where nobody goes on when this
   * process is killed.
   */
  readonly contentsMemory?: (bytes: number) => LastingMemory;
}

/**
 * What the sessions of one export share: the mounted backend, its nodes and locks, cache policy and
 * limits.
 */
export class Export {
  readonly backend: Backend;
  /** The backend's quicker ways; empty where it has none. */
  readonly accelerator: Accelerator;
  readonly log: Logger;
  readonly cache: CachePolicy;
  readonly limits: ExportLimits;
  readonly localLocks: boolean;
  readonly nodes: NodeTable;
  /** The locks of all sessions. Nodes are given by their slots. */
  readonly locks: LockTable<Slot>;
  /** Has guests of other hosts keep to the locks; absent where the backend can't. */
  readonly hostLocks: HostLocks<Slot> | undefined;
  readonly listings: ListingBudget;
  readonly unfinished = new UnfinishedTransfers();
  /** Mirrors what sessions have, where a keeper holds the guests. */
  journal: Journal | undefined = undefined;
  /** Who is told what changes behind the guests' back: host mounts. */
  readonly listeners: Set<ChangeListener>;
  /** Whether what the backend has in memory outlives this process. */
  readonly #hasLastingContents: boolean;
  #lockedNodes = 0;
  #sessions = 0;
  #closed = false;

  private constructor(
    backend: Backend,
    root: object,
    options: ExportOptions,
    hasLastingContents: boolean,
    listeners: Set<ChangeListener>,
  ) {
    this.backend = backend;
    this.listeners = listeners;
    this.#hasLastingContents = hasLastingContents;
    this.accelerator = acceleratorOf(backend) ?? {};
    this.log = options.log;
    this.cache = { ...defaultCachePolicy, ...backend.cache, ...options.cache };
    const nodeBytes = NODE_BYTES + nodeBytesOf(backend);
    const defaultNodes = Math.min(MOST_NODES, Math.floor(heapLimit / 3 / nodeBytes));
    this.limits = { ...defaultExportLimits, nodes: defaultNodes, ...options.limits };
    this.localLocks = options.localLocks === true;
    const report = (err: unknown): void => this.log.error({ err }, 'forgetting a node failed');
    const nodes = new NodeTable(
      backend,
      root,
      this.limits.nodes,
      report,
      this.accelerator.slots,
      this.limits.remembered,
      { budget: nodeBudget, bytes: nodeBytes },
    );
    this.nodes = nodes;
    this.listings = new ListingBudget(this.limits.listings);
    const retain = (slot: Slot): void => {
      this.#lockedNodes += 1;
      nodes.reference(slot);
    };
    const release = (slot: Slot): void => {
      this.#lockedNodes -= 1;
      nodes.release(slot);
    };
    const loosened = (slot: Slot): void => void this.hostLocks?.lower(slot);
    this.locks = new LockTable<Slot>({ limits: this.limits.locks, retain, release, loosened });
    this.hostLocks =
      backend.lock === undefined || this.localLocks
        ? undefined
        : new HostLocks(this.locks, {
            ask: (slot, hold, isWaiting, context) =>
              backend.lock!(nodes.node(slot), hold, isWaiting, context),
            retain,
            release,
            report: (err) =>
              this.log.warn({ err }, 'a lock that other hosts keep to was not given up properly'),
          });
  }

  /**
   * Mounts a backend.
   * @param state what the backend's `save` returned, to be restored.
   * @param left whether what the backend had is in the memory for it, left by a killed process.
   * @throws UsageError for an object that is no backend.
   * @throws RangeError for memory in which a backend has left nothing that can be read.
   * @throws what the backend's `mount` and `restore` throw.
   */
  static async open(
    backend: Backend,
    options: ExportOptions,
    state?: Uint8Array,
    left = false,
  ): Promise<Export> {
    requireBackend(backend);
    const { log, createBuffer, contentsMemory } = options;
    const contents = acceleratorOf(backend)?.contents;
    let isLasting = contents !== undefined && contentsMemory !== undefined;
    if (isLasting) {
      const memory = contentsMemory!(contents!.bytes);
      if (left) contents!.recover(memory);
      else isLasting = contents!.begin(memory);
    }
    if ((options.limits?.remembered ?? 0) > 0) acceleratorOf(backend)?.elsewhere?.begin?.();
    const listeners = new Set<ChangeListener>();
    const changed: ChangeListener = (node, change) => {
      for (const listener of listeners) listener(node, change);
    };
    const root = await backend.mount({ log, createBuffer, changed });
    if (state !== undefined && state.length > 0) await backend.restore?.(state);
    return new Export(backend, root, options, isLasting, listeners);
  }

  /**
   * Whether there is any lock or waiting lock request. Cheap: to be asked before locks are
   * searched.
   */
  get hasLocks(): boolean {
    return this.#lockedNodes > 0;
  }

  /** Whether guests can go on after this process was killed: nothing else is lost with it. */
  get isRecoverable(): boolean {
    const { backend, accelerator } = this;
    if (backend.key === undefined || backend.resolve === undefined) return false;
    if (accelerator.contents !== undefined && !this.#hasLastingContents) return false;
    return backend.save === undefined || accelerator.recover !== undefined;
  }

  /** Whether guests may come back with file handles of nodes that they have forgotten. */
  get findsByHandle(): boolean {
    const { backend, limits } = this;
    return limits.remembered > 0 && backend.key !== undefined && backend.resolve !== undefined;
  }

  /** A number for a new session. No two sessions of the export get the same. */
  nextSession(): number {
    return ++this.#sessions;
  }

  /** Reserves the number of a restored session. */
  reserveSession(id: number): void {
    this.#sessions = Math.max(this.#sessions, id);
  }

  /** Unmounts the backend, once, after all sessions are closed. @throws what `unmount` throws. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.nodes.discharge();
    await this.hostLocks?.settled();
    await this.backend.unmount?.();
  }
}
