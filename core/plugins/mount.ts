import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { UsageError } from '../backend/index.js';
import { isReadOnly, Session } from '../fuse/index.js';
import { HostMount, MountError } from '../mount/index.js';
import type { Export } from '../state/index.js';
import { isAtOrBelow } from '../system/index.js';
import { needsOf } from './confine.js';
import { type BackendSource, isBackend } from './backend-source.js';
import { openExport, type ExportSettings, type OpenExportOptions } from './open-export.js';
import { limited } from './rate-limited-log.js';

/** What to mount on this host, and where. */
export interface HostMountOptions extends OpenExportOptions, Partial<ExportSettings> {
  /** A directory that exists. */
  readonly directory: string;
  /** What is mounted: a backend, or the name of a kind of backend with its options. */
  readonly backend: BackendSource;
  /** Whether other users may use the mount too. Default: true for root, else false. */
  readonly allowOther?: boolean | undefined;
}

/** An export that this host has mounted through `/dev/fuse`, without a virtual machine. */
export class MountedExport {
  readonly #mount: HostMount;
  readonly #export: Export;
  #closing: Promise<void> | undefined;

  private constructor(mount: HostMount, one: Export) {
    this.#mount = mount;
    this.#export = one;
  }

  /** @throws UsageError for a mistake in the options. Nothing stays mounted then. */
  static async open(options: HostMountOptions): Promise<MountedExport> {
    const { directory, backend, readOnly = false, locks = 'shared', allowOther, log } = options;
    const { cache = {}, limits = {} } = options;
    await refuseOwnPaths(options);
    const one = await openExport(backend, { readOnly, locks, cache, limits }, options);
    try {
      const mount = await HostMount.open({
        directory,
        source: `virtiofs-kit:${isBackend(backend) ? 'own' : backend.type}`,
        log,
        readOnly: readOnly || isReadOnly(one.backend),
        ...(allowOther === undefined ? {} : { allowOther }),
        // Here is no ring that waiting requests could fill: the lock table's total is the limit.
        openSession: () => new Session(one, { maxWaiters: Number.POSITIVE_INFINITY, log: limited(log) }),
      });
      return new MountedExport(mount, one);
    } catch (error) {
      await one.close();
      throw error instanceof MountError ? new UsageError(error.message, { cause: error }) : error;
    }
  }

  /** The directory on which it is mounted, without symbolic links. */
  get directory(): string {
    return this.#mount.directory;
  }

  /** Resolves when it is unmounted, by {@link close} or by somebody else. */
  get ended(): Promise<void> {
    return this.#mount.ended;
  }

  /** Unmounts it, and the backend. @throws what the backend's `unmount` throws. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#mount.unmount();
    } finally {
      await this.#export.close();
    }
  }
}

/**
 * Refuses to cover what the backend goes on to write by path, such as a cache directory: this
 * process would wait for its own mount. Shared directories are held open from before.
 */
async function refuseOwnPaths({ directory, backend, folder, registry }: HostMountOptions): Promise<void> {
  const needs = await needsOf({ exports: [{ backend }], folder }, registry).catch(() => undefined);
  // What is wrong with the options is told by what makes the backend of them.
  if (needs === undefined || typeof needs === 'string') return;
  const covered = await realpath(directory).catch(() => resolve(directory));
  for (const { path, write, shared } of needs.paths) {
    if (!write || shared === true) continue;
    if (!isAtOrBelow(await realpath(path).catch(() => resolve(path)), covered)) continue;
    throw new UsageError(
      `${directory}: the backend keeps files in ${path}, which the mount would cover; choose another directory`,
    );
  }
}
