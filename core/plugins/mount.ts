import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type Logger, UsageError } from '../backend/index.js';
import { Counters, isReadOnly, Session } from '../fuse/index.js';
import { processFigures } from '../monitoring/figures.js';
import type { DaemonFigures } from '../monitoring/index.js';
import { statusOf } from '../monitoring/status.js';
import type { DaemonStatus } from '../monitoring/status-json.js';
import { HostMount, MountError } from '../mount/index.js';
import type { Export } from '../state/index.js';
import { isAtOrBelow } from '../system/index.js';
import { Tracing } from '../trace/tracing.js';
import { needsOf } from './backend-needs.js';
import { type BackendSource, kindOf } from './backend-source.js';
import { Events } from './events.js';
import { detailsOf, figuresOf, type FigureSource, type SessionSource } from './figures.js';
import { lostLogLines } from './logger.js';
import { noticesOf, pruneWhenCrowded } from './mount-notices.js';
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
  /**
   * Whether the kernel reads and writes files of the host itself, where the backend has such files
   * (FUSE_PASSTHROUGH; Linux 6.9, CAP_SYS_ADMIN). Nobody here sees these reads and writes then: not
   * in figures, not in the access log. Default: false.
   */
  readonly kernelIo?: boolean | undefined;
}

/** What is beside a mount. */
interface MountParts {
  readonly source: FigureSource;
  readonly sessions: readonly Session[];
  readonly tracing: Tracing;
  readonly log: Logger;
  readonly events: Events;
}

/** An export that this host has mounted through `/dev/fuse`, without a virtual machine. */
export class MountedExport {
  readonly #mount: HostMount;
  readonly #export: Export;
  readonly #sessions: readonly Session[];
  readonly #source: FigureSource;
  readonly #log: Logger;
  readonly #started = Date.now() / 1000;
  /** Tells of each request that this host makes of it. */
  readonly tracing: Tracing;
  /** Tells what happens, except `connected`: `mounted.events.on('fault', ({ error }) => …)`. */
  readonly events: Events;
  #closing: Promise<void> | undefined;

  private constructor(mount: HostMount, { source, sessions, tracing, log, events }: MountParts) {
    this.events = events;
    this.#mount = mount;
    this.#export = source.export;
    this.#source = source;
    this.#sessions = sessions;
    this.tracing = tracing;
    this.#log = log;
  }

  /** @throws UsageError for a mistake in the options. Nothing stays mounted then. */
  static async open(options: HostMountOptions): Promise<MountedExport> {
    const { directory, backend, readOnly = false, locks = 'shared', allowOther, log } = options;
    const { cache = {}, limits = {}, watch = false, kernelIo = false } = options;
    await refuseOwnPaths(options);
    const one = await openExport(backend, { readOnly, locks, cache, limits, watch }, options);
    const kind = kindOf(backend);
    const counters = new Counters();
    const tracing = new Tracing();
    const sessions: Session[] = [];
    const events = new Events(log);
    const event = { tag: directory, socket: directory };
    try {
      const mount = await HostMount.open({
        directory,
        source: `virtiofs-kit:${kind}`,
        log,
        readOnly: readOnly || isReadOnly(one.backend),
        ...(allowOther === undefined ? {} : { allowOther }),
        // Here is no ring that waiting requests could fill: the lock table's total is the limit.
        openSession: (files) => {
          const session = new Session(one, {
            maxWaiters: Number.POSITIVE_INFINITY,
            log: limited(log),
            counters,
            hostFiles: kernelIo ? files : undefined,
            observed: tracing.add(directory),
            onMounted: () => events.tell('mounted', event),
            onFault: (error, message) => events.tell('fault', { ...event, error, message }),
          });
          sessions.push(session);
          return session;
        },
      });
      if (watch)
        one.listeners.add((node, change) => {
          for (const notice of noticesOf(one, node, change)) mount.notify(notice);
        });
      pruneWhenCrowded(one, sessions, (message) => mount.notify(message));
      const source = { tag: mount.directory, socket: mount.directory, backend: kind, export: one, counters };
      const gone = (): void => events.tell('disconnected', event);
      void mount.ended.then(gone, gone);
      return new MountedExport(mount, { source, sessions, tracing, log, events });
    } catch (error) {
      await one.close();
      throw error instanceof MountError ? new UsageError(error.message, { cause: error }) : error;
    }
  }

  /** The directory on which it is mounted, without symbolic links. */
  get directory(): string {
    return this.#mount.directory;
  }

  /** What there is to see now, as of a daemon's export. Never rejects. */
  async figures(): Promise<DaemonFigures> {
    const exports = [await figuresOf(this.#asServer, this.#source, this.#log)];
    return { started: this.#started, process: processFigures(), exports };
  }

  /** The same, with each lock that is waited for. Never rejects. */
  async status(): Promise<DaemonStatus> {
    const details = await detailsOf(this.#asServer, this.#source, this.#log);
    return statusOf({ started: this.#started, lostLogLines: lostLogLines() }, [details]);
  }

  get #asServer(): SessionSource {
    return { sessions: this.#sessions };
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
