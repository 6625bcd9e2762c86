import type { Backend, BackendHost, CachePolicy, Logger } from '../backend/index.js';
import { ListingBudget } from './directory-stream.js';
import { LockTable, type LockLimits } from './locks/index.js';
import { NodeTable } from './node-table.js';

/** Bounds on what guests can make an export hold. */
export interface ExportLimits {
  /** Nodes known to all guests together; beyond, a lookup gives ENFILE. At most 2^30. */
  readonly nodes: number;
  /** Open files and directories of one guest; beyond, ENFILE. At most 2^30. */
  readonly handles: number;
  /** Locks and waiting lock requests; beyond, ENOLCK. */
  readonly locks: Partial<LockLimits>;
  /** Bytes of the directory listings that all guests have open; beyond, ENOMEM. */
  readonly listings: number;
}

export const defaultExportLimits: ExportLimits = {
  nodes: 4_194_304,
  handles: 1_048_576,
  locks: {},
  listings: 1 << 30,
};

/** Cache policy where neither the export's options nor the backend say otherwise. */
export const defaultCachePolicy: CachePolicy = {
  entryTimeout: 1,
  negativeTimeout: 0,
  attributeTimeout: 1,
  data: 'auto',
  writeback: false,
};

export interface ExportOptions extends BackendHost {
  /** Overrides the backend's cache policy, part by part. */
  readonly cache?: Partial<CachePolicy>;
  readonly limits?: Partial<ExportLimits>;
  /** Guests keep their locks to themselves. */
  readonly localLocks?: boolean;
}

/**
 * What the sessions of one export share: the mounted backend, its nodes, its locks, and the rules.
 */
export class Export {
  readonly backend: Backend;
  readonly log: Logger;
  readonly cache: CachePolicy;
  readonly limits: ExportLimits;
  readonly localLocks: boolean;
  readonly nodes: NodeTable;
  /** Locks, by node slot. */
  readonly locks: LockTable<number>;
  readonly listings: ListingBudget;
  #lockedNodes = 0;
  #sessions = 0;
  #closed = false;

  private constructor(backend: Backend, root: object, options: ExportOptions) {
    this.backend = backend;
    this.log = options.log;
    this.cache = { ...defaultCachePolicy, ...backend.cache, ...options.cache };
    this.limits = { ...defaultExportLimits, ...options.limits };
    this.localLocks = options.localLocks === true;
    const nodes = new NodeTable(backend, root, this.limits.nodes);
    this.nodes = nodes;
    this.listings = new ListingBudget(this.limits.listings);
    this.locks = new LockTable<number>({
      limits: this.limits.locks,
      retain: (slot) => {
        this.#lockedNodes += 1;
        nodes.reference(slot);
      },
      release: (slot) => {
        this.#lockedNodes -= 1;
        nodes.release(slot);
      },
    });
  }

  /**
   * Mounts a backend.
   * @param state what its `save` gave, to be taken up again.
   * @throws what `mount` and `restore` throw.
   */
  static async open(backend: Backend, options: ExportOptions, state?: Uint8Array): Promise<Export> {
    const { log, createBuffer } = options;
    const root = await backend.mount({ log, createBuffer });
    if (state !== undefined && state.length > 0) await backend.restore?.(state);
    return new Export(backend, root, options);
  }

  /** Whether there is any lock or waiting lock request: the answer is mostly no, and cheap. */
  get hasLocks(): boolean {
    return this.#lockedNodes > 0;
  }

  /** A number for a new session, for ever different. */
  nextSession(): number {
    return ++this.#sessions;
  }

  /** A session of this number was restored. */
  reserveSession(id: number): void {
    this.#sessions = Math.max(this.#sessions, id);
  }

  /** Unmounts the backend, once, after all sessions are closed. @throws what `unmount` throws. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.backend.unmount?.();
  }
}
