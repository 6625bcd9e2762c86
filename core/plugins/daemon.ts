import { constants } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { Errno, UsageError, type Backend, type Logger } from '../backend/index.js';
import {
  Counters,
  ExportPace,
  isReadOnly,
  loadMigratingSession,
  type Observed,
  recoverRequests,
  restoreSession,
  saveMigratingSession,
  saveSession,
  Session,
  type SessionOptions,
} from '../fuse/index.js';
import type {
  Beginning,
  Connection,
  GivenConnection,
  GivenMount,
  HandedOver,
  KeptEngine,
} from '../keeper/index.js';
import { MAX_KEPT_WAITERS, MountServer } from '../mount/index.js';
import {
  saveExport,
  type Export,
  Journal,
  type Left,
  movesAsWhole,
  NO_SLOT,
  replay,
  type Restored,
  type SessionPlace,
} from '../state/index.js';
import { memoryLimit } from '../backend/limits.js';
import { type Fd, OwnedFd } from '../system/index.js';
import { dup } from '../system/calls/files.js';
import type { DaemonFigures } from '../monitoring/index.js';
import { processFigures } from '../monitoring/figures.js';
import { statusOf } from '../monitoring/status.js';
import type { DaemonStatus } from '../monitoring/status-json.js';
import { QueueThreads } from '../queue-threads/index.js';
import { Tracing } from '../trace/tracing.js';
import { type DeviceSession, ListenError, type Migration, VhostUserServer } from '../vhost-user/index.js';
import { Events } from './events.js';
import type { CheckedExport, ServedExport } from './served-export.js';
import { COMMON, exportChanges, placeOf, refuseInUse } from './export-changes.js';
import { inheritedSocket } from './inherited-socket.js';
import { type BackendSource, isBackend, isNamed, kindOf } from './backend-source.js';
import { openExport, reopenExport, takeOverExport, type OpenExportOptions } from './open-export.js';
import {
  contentsMemory,
  makeContentsMemory,
  makeJournalMemory,
  noMemory,
  withJournalMemory,
} from './lasting-memory.js';
import { detailsOf, figuresOf, type FigureSource } from './figures.js';
import { lostLogLines } from './logger.js';
import { noticesOf, pruneWhenCrowded } from './mount-notices.js';
import { limited } from './rate-limited-log.js';
import { suggestion } from './options/suggestion.js';
import type { BackendRegistry } from './registry.js';

/** What a daemon serves. */
export interface DaemonOptions extends Omit<OpenExportOptions, 'optionName'> {
  /** What is served, and where. */
  readonly exports: readonly ServedExport[];
  /** Whether exports are as `checkedExports` gives them. Default false. */
  readonly areChecked?: boolean | undefined;
  /**
   * Backends to which exports refer by name. Exports of one backend share its file system and
   * locks.
   */
  readonly backends?: Readonly<Record<string, BackendSource>> | undefined;
  /** The keeper that accepts front-ends in this daemon's place, and outlives it. */
  readonly keeper?: KeptEngine | undefined;
}

/** What a daemon is to serve from now on. */
export type ChangedOptions = Pick<DaemonOptions, 'exports' | 'areChecked' | 'backends' | 'folder'>;

/** A connection, or a mount, that the keeper gave. */
interface KeptDevice {
  readonly id: number;
  readonly socket: number;
  readonly export: Export;
  readonly device: {
    readonly session: object;
    stopForSuccessor(): Promise<readonly number[]>;
    goOn(): void;
  };
}

/** What serves an export. */
type Server = VhostUserServer | MountServer;

/** An export with its settings, and what its backend was made of. */
type OpenedExport = readonly [CheckedExport, Export, BackendSource];

/** An export of the configuration, as it is served. */
interface ConfiguredExport {
  readonly config: CheckedExport;
  readonly source: BackendSource;
  readonly export: Export;
  readonly server: Server;
}

/** An export as the process before this one has left it. */
interface RestoredExport extends Restored {
  /** If that process was killed. */
  readonly left?: Left | undefined;
}

/**
 * Bytes of states that may be on their way into this process: a quarter of the machine's memory,
 * and no more than one array can have.
 */
const MAX_STATE_BYTES = Math.min(constants.MAX_LENGTH, Math.floor(memoryLimit() / 4));

/** How long a restored session waits for its connection, in milliseconds. */
const UNCLAIMED_MS = 10_000;

/**
 * After so many milliseconds a request of a killed process has come again, or never will: a keeper
 * starts a guest's queues together, and each begins with these requests.
 */
const COME_AGAIN_MS = 60_000;

const LEFT_UNREADABLE = 'what a killed process has left of its guests cannot be read';

/** Serves exports over vhost-user sockets until it is closed. */
export class Daemon {
  readonly #log: Logger;
  readonly #registry: BackendRegistry;
  readonly #exports: Export[] = [];
  readonly #servers: Server[] = [];
  /** Promises of the ends of queue threads, which end after their servers. */
  readonly #ending: Promise<void>[] = [];
  readonly #added = new Map<string, { readonly export: Export; readonly server: Server }>();
  readonly #keeper: KeptEngine | undefined;
  /** The connections that the keeper gave, by their ids. */
  readonly #kept = new Map<number, KeptDevice>();
  /** Restored sessions whose connections have not come yet, by those connections' ids. */
  readonly #restored = new Map<number, { readonly session: Session; readonly socket: number }>();
  /** Ends the use of a session journal's memory. */
  readonly #journals: (() => void)[] = [];
  /** Memory in which backends keep what they have, by export. */
  readonly #contents = new Map<Export, OwnedFd>();
  /** Descriptors that are closed at the end. */
  readonly #descriptors: OwnedFd[] = [];
  /** What each server serves, and counts. */
  readonly #served = new Map<Server, FigureSource>();
  readonly #started = Date.now() / 1000;
  /** Tells of each request that its guests make. */
  readonly tracing: Tracing = new Tracing();
  /** Tells what happens: `daemon.events.on('mounted', ({ tag }) => …)`. */
  readonly events: Events;
  /** Options of the sessions of a server. */
  readonly #sessionOptions: (() => SessionOptions)[] = [];
  /** The exports of the configuration, with what serves them. */
  #configured: ConfiguredExport[] = [];
  /** The last change of what is served, until it is made. */
  #changing: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor({ log, registry, keeper }: DaemonOptions) {
    this.#log = log;
    this.events = new Events(this.#log);
    this.#registry = registry;
    this.#keeper = keeper;
  }

  /**
   * Mounts every backend, then listens on every socket.
   * @throws UsageError for a mistake in the options. Nothing stays open then.
   */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const daemon = new Daemon(options);
    try {
      await daemon.#start(options);
      return daemon;
    } catch (error) {
      await daemon.close();
      throw error;
    }
  }

  /**
   * Resolves when every server has ended, by {@link close} or with `exitOnDisconnect`, or when the
   * keeper has no more use for this process.
   */
  async ended(): Promise<void> {
    if (this.#keeper !== undefined) {
      await this.#keeper.over;
      return;
    }
    for (let ended: readonly Server[] | undefined; ;) {
      await this.#changing;
      const servers = [...this.#servers];
      if (ended !== undefined && servers.every((server) => ended!.includes(server))) return;
      await Promise.all(servers.map((server) => server.ended));
      ended = servers;
    }
  }

  /**
   * Serves another configuration: takes exports away, adds others, and changes what can be changed.
   * Guests of all others notice nothing. Exports that {@link add} has added stay.
   * @returns lines that say what was done.
   * @throws UsageError for what cannot be done; nothing is changed then.
   */
  change(options: ChangedOptions): Promise<readonly string[]> {
    return this.#inTurn(() => this.#change(options));
  }

  /** What changes which exports there are goes one after the other. */
  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#changing.then(step);
    this.#changing = result.catch(() => undefined);
    return result;
  }

  async #change(options: ChangedOptions): Promise<readonly string[]> {
    if (this.#keeper !== undefined) throw new UsageError('a daemon with a keeper is changed by upgrade');
    const wanted = (await checked(options)).map((config) => ({
      config,
      source: sourceOf(config, options.backends ?? {}),
    }));
    const served = this.#configured.map((one) => ({ ...one, connections: one.server.connections }));
    const { added, removed, changed, paced } = exportChanges(served, wanted);
    // What may fail comes first, and is undone.
    const made: ConfiguredExport[] = [];
    const anew: { now: ConfiguredExport; before: CheckedExport }[] = [];
    try {
      for (const one of added) made.push(await this.#serveOneMore(one, made, options));
      for (const { from, to } of changed) {
        // Guests may have come while others were opened.
        refuseInUse(placeOf(from.config), from.server.connections, 'changed');
        anew.push({ now: await this.#serveAnew(from, to.config), before: from.config });
      }
      for (const { config, server } of removed) refuseInUse(placeOf(config), server.connections, 'taken out');
    } catch (error) {
      for (const { now, before } of anew.toReversed())
        await this.#orLogged(before, () => this.#serveAnew(now, before));
      for (const one of made.toReversed())
        await this.#orLogged(one.config, () => this.#endServing(one, made));
      throw error;
    }
    const stay = this.#configured.filter((one) => !removed.some(({ server }) => server === one.server));
    this.#configured = [...stay, ...made];
    for (const one of removed) await this.#orLogged(one.config, () => this.#endServing(one));
    for (const { from, to } of paced) {
      this.#served.get(from.server)?.pace?.set(to.config.rate ?? {});
      this.#configured = this.#configured.map((one) =>
        one.server === from.server ? { ...one, config: to.config } : one,
      );
    }
    return [
      ...removed.map(({ config }) => `${placeOf(config)}: no longer served`),
      ...[...changed, ...paced].map(({ to }) => `${placeOf(to.config)}: changed`),
      ...added.map(({ config }) => `${placeOf(config)}: served`),
    ];
  }

  /** A step of a change that has been decided: what fails in it keeps no other from its end. */
  async #orLogged({ tag }: CheckedExport, step: () => Promise<unknown>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.#log.error({ err: error, tag }, 'an export has not ended, or not begun anew, in order');
    }
  }

  /** Serves an export of a new configuration, on a backend that is open if it has the same name. */
  async #serveOneMore(
    { config, source }: Pick<ConfiguredExport, 'config' | 'source'>,
    made: readonly ConfiguredExport[],
    { folder }: ChangedOptions,
  ): Promise<ConfiguredExport> {
    const { backend } = config;
    const like = isNamed(backend)
      ? [...this.#configured, ...made].find((one) => one.config.backend === backend)
      : undefined;
    if (like !== undefined) mustAgree(config, like.config, `export ${config.tag}`);
    const options = { registry: this.#registry, log: this.#log, folder };
    const one = like?.export ?? (await openExport(source, config, options));
    if (like === undefined) this.#exports.push(one);
    try {
      return { config, source, export: one, server: this.#listen(config, one) };
    } catch (error) {
      if (like === undefined) await this.#closeExport(one);
      throw error;
    }
  }

  /**
   * Opens the socket of an export anew, for other settings.
   * @throws UsageError if they cannot be had. It is served with those from before then.
   */
  async #serveAnew(from: ConfiguredExport, config: CheckedExport): Promise<ConfiguredExport> {
    this.#forgetServer(from.server);
    await from.server.close();
    const listen = (settings: CheckedExport): ConfiguredExport => {
      const now = { ...from, config: settings, server: this.#listen(settings, from.export) };
      this.#configured = this.#configured.map((one) => (one.server === from.server ? now : one));
      return now;
    };
    try {
      return listen(config);
    } catch (error) {
      try {
        listen(from.config);
      } catch (again) {
        this.#log.error(
          { err: again, tag: from.config.tag },
          'no longer served: its socket cannot be opened',
        );
        this.#configured = this.#configured.filter((one) => one.server !== from.server);
        await this.#endServing(from);
      }
      throw error;
    }
  }

  /** @param others exports that may have the same backend, beside those that are configured. */
  async #endServing(
    { server, export: one }: ConfiguredExport,
    others: readonly ConfiguredExport[] = [],
  ): Promise<void> {
    this.#forgetServer(server);
    await server.close();
    const isShared = [...others, ...this.#configured].some(
      (other) => other.export === one && this.#servers.includes(other.server),
    );
    if (!isShared) await this.#closeExport(one);
  }

  #forgetServer(server: Server): void {
    const index = this.#servers.indexOf(server);
    if (index < 0) return;
    this.#servers.splice(index, 1);
    this.#sessionOptions.splice(index, 1);
  }

  async #closeExport(one: Export): Promise<void> {
    this.#exports.splice(this.#exports.indexOf(one), 1);
    await one.close();
  }

  /**
   * Serves one more backend until {@link remove} or {@link close}.
   * @throws UsageError if the socket is taken.
   */
  add(tag: string, socket: string, backend: Backend): Promise<void> {
    return this.#inTurn(() => this.#add(tag, socket, backend));
  }

  async #add(tag: string, socket: string, backend: Backend): Promise<void> {
    if (this.#keeper !== undefined)
      throw new UsageError(`${socket}: a daemon with a keeper has the sockets that it was started with`);
    const { checkedExport } = await import('./checked-exports.js');
    const config = checkedExport({ tag, socket, backend });
    const one = await openExport(backend, config, { registry: this.#registry, log: this.#log });
    try {
      const server = this.#listen(config, one);
      this.#exports.push(one);
      this.#added.set(socket, { export: one, server });
    } catch (error) {
      await one.close();
      throw error;
    }
  }

  /**
   * Stops serving a socket that {@link add} has added.
   * @param inUse whether guests that use it are cut off: whatever they ask for then waits for ever.
   * @returns whether there was one.
   * @throws UsageError while a guest uses it, unless `inUse` is set.
   */
  remove(socket: string, { inUse = false }: { readonly inUse?: boolean } = {}): Promise<boolean> {
    return this.#inTurn(() => this.#remove(socket, inUse));
  }

  async #remove(socket: string, inUse: boolean): Promise<boolean> {
    const added = this.#added.get(socket);
    if (added === undefined) return false;
    const { connections } = added.server;
    if (connections > 0 && !inUse) {
      throw new UsageError(
        `${socket}: ${connections === 1 ? 'a guest uses' : `${connections} guests use`} it, and would hang for ever; end the guest first`,
      );
    }
    this.#added.delete(socket);
    this.#forgetServer(added.server);
    await added.server.close();
    await this.#closeExport(added.export);
    this.#log.info({ socket }, 'no longer serving');
    return true;
  }

  /** Whether what is served on a socket has no way to change anything. */
  isReadOnly(socket: string): boolean {
    return [...this.#served.values()].some(
      (served) => served.socket === socket && isReadOnly(served.export.backend),
    );
  }

  /** What there is to see now. Never rejects: a backend that cannot tell counts as down. */
  async figures(): Promise<DaemonFigures> {
    const exports = await this.#ofEach(figuresOf);
    return { started: this.#started, process: processFigures(), exports };
  }

  /** The same, with each guest and each lock that is waited for. Never rejects. */
  async status(): Promise<DaemonStatus> {
    return statusOf({ started: this.#started, lostLogLines: lostLogLines() }, await this.#ofEach(detailsOf));
  }

  #ofEach<T>(of: (server: Server, served: FigureSource, log: Logger) => Promise<T>): Promise<T[]> {
    const all = [...this.#served];
    return Promise.all(
      all.map(([server, served]) => {
        const { tag, socket } = served;
        const isOnly = all.filter(([, other]) => other.tag === tag).length === 1;
        return of(server, { ...served, tag: isOnly ? tag : `${tag} ${socket}` }, this.#log);
      }),
    );
  }

  /**
   * Finishes requests in flight, ends every session and unmounts every backend.
   * @throws what a backend's `unmount` throws.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #start(options: DaemonOptions): Promise<void> {
    const configs = await checked(options);
    // Guests of the engine before may wait for all that comes after the beginning.
    if (this.#keeper !== undefined) await this.#prepare(configs, options);
    const beginning = await this.#keeper?.begin();
    const restored: (RestoredExport | undefined)[] = [];
    const shared = new Map<string, { readonly config: CheckedExport; readonly one: Export }>();
    const opened: OpenedExport[] = [];
    for (const [index, config] of configs.entries()) {
      const source = sourceOf(config, options.backends ?? {});
      const name = typeof config.backend === 'string' ? config.backend : undefined;
      const log = { ...options, log: options.log };
      const known = name === undefined ? undefined : shared.get(name);
      if (known !== undefined) mustAgree(config, known.config, `exports[${index}]`);
      const one = known?.one ?? (await this.#open(source, config, log, beginning, restored));
      if (known === undefined) this.#exports.push(one);
      if (name !== undefined) shared.set(name, { config, one });
      opened.push([config, one, source]);
    }
    if (this.#keeper !== undefined) for (const [config, one] of opened) requireKept(config, one);
    for (const [config, one, source] of opened)
      this.#configured.push({ config, source, export: one, server: this.#listen(config, one) });
    if (beginning === undefined || this.#keeper === undefined) return;
    await this.#restoreSessions(beginning, restored);
    const { journals, held } = this.#keepJournals(beginning, restored);
    const contents = this.#exports.map((one) => this.#contents.get(one) ?? this.#owned(noMemory()));
    const connections = [...this.#restored.keys()];
    await this.#keeper.serve(
      {
        connect: (given) => this.#connect(given, opened),
        mount: (given) => {
          this.#serveMount(given, opened).catch((error: unknown) => {
            this.#log.error({ err: error }, 'a mount cannot be served');
            given.device.close();
            given.requests.close();
            // Nobody is to wait for it.
            this.#keeper!.unmounted(given.id);
          });
        },
        handOver: () => this.#handOver(opened),
      },
      {
        journals: [...journals, ...contents],
        connections,
        held,
        readOnly: this.#exports.map(({ backend }) => isReadOnly(backend)),
      },
    );
  }

  /** Loads what the backends of all exports need. */
  async #prepare(configs: readonly CheckedExport[], { backends, folder }: DaemonOptions): Promise<void> {
    const sources = [...configs.map(({ backend }) => backend), ...Object.values(backends ?? {})];
    for (const source of sources)
      if (!isNamed(source) && !isBackend(source)) await this.#registry.prepare(source, folder);
  }

  /** Opens an export, with the state of the process before this one if there is any. */
  async #open(
    source: BackendSource,
    config: CheckedExport,
    options: OpenExportOptions,
    beginning: Beginning | undefined,
    restored: (RestoredExport | undefined)[],
  ): Promise<Export> {
    const index = this.#exports.length;
    const state = beginning?.states[index];
    const left = this.#readJournal(beginning?.journals[index]);
    let memory: OwnedFd | undefined;
    const keeping = (fd?: OwnedFd): OpenExportOptions =>
      beginning === undefined
        ? options
        : {
            ...options,
            contentsMemory: (bytes) => {
              memory = this.#owned(fd === undefined ? makeContentsMemory(bytes) : new OwnedFd(fd.take()));
              return contentsMemory(memory);
            },
          };
    let one: RestoredExport | undefined;
    if (beginning !== undefined && state !== undefined)
      one = await reopenExport(source, config, keeping(), state, beginning.held);
    else if (left !== undefined) {
      // Those of the journals come first, one for each export, and then those of the contents.
      const fd = beginning!.journals[beginning!.journals.length / 2 + index];
      one = await this.#takeOver(source, config, keeping(fd), left);
    }
    restored[index] = one;
    const opened = one?.export ?? (await openExport(source, config, keeping()));
    if (memory !== undefined) this.#contents.set(opened, memory);
    return opened;
  }

  /** Has a descriptor closed at the end. */
  #owned(fd: OwnedFd): OwnedFd {
    this.#descriptors.push(fd);
    return fd;
  }

  /** @returns undefined for a journal that contradicts itself: its guests are lost. */
  async #takeOver(
    source: BackendSource,
    config: CheckedExport,
    options: OpenExportOptions,
    left: Left,
  ): Promise<RestoredExport | undefined> {
    try {
      return { ...(await takeOverExport(source, config, options, left)), left };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#log.error({ err: error }, LEFT_UNREADABLE);
      return undefined;
    }
  }

  /** Reads the journal of the process before this one, which was killed. */
  #readJournal(fd: OwnedFd | undefined): Left | undefined {
    if (fd === undefined) return undefined;
    try {
      return withJournalMemory(fd, replay);
    } catch (error) {
      this.#log.error({ err: error }, LEFT_UNREADABLE);
      return undefined;
    }
  }

  /** Has the sessions kept, so that guests survive the end of this process. */
  #keepJournals(
    { stash }: Beginning,
    restored: readonly (RestoredExport | undefined)[],
  ): { journals: OwnedFd[]; held: number[] } {
    const all: number[] = [];
    const journals = this.#exports.map((one, index) => {
      if (!one.isRecoverable) return this.#owned(noMemory());
      const memory = makeJournalMemory();
      this.#journals.push(() => memory.close());
      const journal = new Journal(one, { memory, holder: stash, log: limited(this.#log) });
      one.journal = journal;
      const from = restored[index];
      for (const [node, number] of from?.left?.held ?? []) {
        const slot = from!.slot(node);
        if (slot !== NO_SLOT) journal.adoptHeld(slot, number);
      }
      for (const [id, { session, socket }] of this.#restored)
        if (session.export === one) keepSession(journal, session, { connection: id, socket });
      journal.begin();
      for (const slot of from?.removed ?? []) journal.hold(slot);
      journal.boundary();
      all.push(...journal.held);
      return memory.fd;
    });
    for (const from of restored) from?.finish();
    this.#journals.push(() => stash.close());
    return { journals, held: all };
  }

  async #restoreSessions(beginning: Beginning, restored: (RestoredExport | undefined)[]): Promise<void> {
    for (const { id, socket, export: index, session } of beginning.connections) {
      const from = restored[index];
      const saved = from?.sessions[session];
      const options = this.#sessionOptions[socket];
      if (from === undefined || saved === undefined || options === undefined)
        throw new RangeError(`there is no saved session ${session} of export ${index}`);
      this.#restored.set(id, { session: await restoreSession(from, saved, options()), socket });
    }
    for (const [index, from] of restored.entries()) {
      if (from?.left === undefined || (await this.#recoverSessions(from, from.left))) continue;
      restored[index] = { ...from, left: undefined };
    }
    beginning.close();
    // A front-end may have gone while nobody served it. Its guest's locks must not stay.
    setTimeout(() => this.#endUnclaimed(), UNCLAIMED_MS).unref();
    const sessions = Array.from(this.#restored.values(), ({ session }) => session);
    setTimeout(() => {
      for (const session of sessions) session.haveComeAgain();
    }, COME_AGAIN_MS).unref();
  }

  /**
   * Restores the sessions of a process that was killed.
   * @returns false if they contradict themselves. Their guests are lost.
   */
  async #recoverSessions(from: RestoredExport, left: Left): Promise<boolean> {
    const sessions: Session[] = [];
    try {
      for (const [index, { place }] of left.sessions.entries()) {
        const options = this.#sessionOptions[place.socket];
        if (options === undefined) throw new RangeError(`there is no socket ${place.socket}`);
        sessions.push(await restoreSession(from, from.sessions[index]!, options()));
      }
      await recoverRequests(from, left, sessions);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#log.error({ err: error }, LEFT_UNREADABLE);
      await Promise.all(sessions.map((session) => session.close()));
      // Those that were not reached have locks.
      for (const { id } of from.sessions) from.export.locks.openSession(id).close(Errno.EINTR);
      return false;
    }
    for (const [index, { place }] of left.sessions.entries())
      this.#restored.set(place.connection, { session: sessions[index]!, socket: place.socket });
    return true;
  }

  #endUnclaimed(): void {
    for (const { session } of this.#restored.values()) {
      session.close().catch((error: unknown) => {
        this.#log.error({ err: error }, 'a session did not end cleanly');
      });
    }
    this.#restored.clear();
  }

  /** Serves a front-end that the keeper has accepted, with its restored session if it had one. */
  #connect({ id, socket, connection }: GivenConnection, opened: readonly OpenedExport[]): void {
    const server = this.#servers[socket];
    const [config, one] = opened[socket] ?? [];
    if (!(server instanceof VhostUserServer) || config === undefined || one === undefined) {
      connection.close();
      return;
    }
    const session = this.#restored.get(id)?.session;
    this.#restored.delete(id);
    const openSession = (): Session => {
      const made = new Session(one, this.#sessionOptions[socket]!());
      if (one.journal !== undefined) keepSession(one.journal, made, { connection: id, socket });
      return made;
    };
    const migration = this.#migration(config, one, openSession);
    const device = server.adopt(connection, { openSession, session, migration });
    if (device === undefined) return;
    this.#kept.set(id, { id, socket, export: one, device });
    void device.ended.then(() => this.#kept.delete(id));
  }

  /** Serves a mount that the keeper holds, with its restored session if it had one. */
  async #serveMount(given: GivenMount, opened: readonly OpenedExport[]): Promise<void> {
    const { id, socket } = given;
    const server = this.#servers[socket];
    const [config, one] = opened[socket] ?? [];
    if (!(server instanceof MountServer) || config === undefined || one === undefined) {
      given.device.close();
      given.requests.close();
      return;
    }
    let session = this.#restored.get(id)?.session;
    this.#restored.delete(id);
    if (session === undefined) {
      session = new Session(one, this.#sessionOptions[socket]!());
      if (one.journal !== undefined) keepSession(one.journal, session, { connection: id, socket });
    }
    await this.#keeper!.begun(id);
    if (this.#closing !== undefined) {
      given.device.close();
      given.requests.close();
      await session.close();
      return;
    }
    const device = server.adopt(given, session);
    if (config.watch)
      one.listeners.add((node, change) => {
        for (const notice of noticesOf(one, node, change)) device.notify(notice);
      });
    pruneWhenCrowded(one, [session], (message) => device.notify(message));
    this.#kept.set(id, { id, socket, export: one, device });
    await device.ended;
    this.#kept.delete(id);
    if (device.isUnmounted) this.#keeper!.unmounted(id);
  }

  /** Stops, saves and closes everything. @throws Error if it can't be; all goes on then. */
  async #handOver(opened: readonly OpenedExport[]): Promise<HandedOver> {
    for (const [{ tag }, { backend }] of opened) {
      if (backend.key === undefined || backend.resolve === undefined)
        throw new Error(`export ${tag}: its backend has no durable node keys`);
    }
    this.#endUnclaimed();
    const devices = [...this.#kept.values()];
    const held: OwnedFd[] = [];
    const hold = (fd: number): number => held.push(new OwnedFd(dup(fd as Fd))) - 1;
    const states: Uint8Array[] = [];
    const connections: Connection[] = [];
    try {
      const stopped = await Promise.all(
        devices.map(async (kept) => ({ ...kept, bases: await kept.device.stopForSuccessor() })),
      );
      for (const [index, one] of this.#exports.entries()) {
        const own = stopped.filter((kept) => kept.export === one);
        states.push(
          await saveExport(
            one,
            own.map(
              ({ device }) =>
                (node) =>
                  saveSession(device.session as Session, node, hold),
            ),
            hold,
          ),
        );
        for (const [session, { id, socket, bases }] of own.entries())
          connections.push({ id, socket, export: index, session, bases: [...bases] });
      }
    } catch (error) {
      for (const fd of held) fd.close();
      for (const { device } of devices) device.goOn();
      throw error;
    }
    // Should this process be killed now, the next one goes on from here.
    for (const { journal, accelerator } of this.#exports) {
      journal?.stop();
      accelerator.leave?.();
    }
    await this.close();
    return { states, held, connections };
  }

  #listen(config: CheckedExport, one: Export): Server {
    if (this.#closing !== undefined) throw new UsageError('the daemon is ending');
    const { mountedAt } = config;
    return mountedAt === undefined ? this.#listenFor(config, one) : this.#awaitMount(config, one, mountedAt);
  }

  /** Serves what the keeper mounts on this host. */
  #awaitMount({ backend: source }: CheckedExport, one: Export, directory: string): MountServer {
    const server = new MountServer(limited(this.#log));
    const counters = new Counters();
    const observed = this.tracing.add(directory);
    const event = { tag: directory, socket: directory };
    this.#sessionOptions.push(() => ({
      onMounted: () => this.events.tell('mounted', event),
      onFault: (error, message) => this.events.tell('fault', { ...event, error, message }),
      // Requests that wait must leave room for others in what outlives this process.
      maxWaiters: MAX_KEPT_WAITERS,
      counters,
      observed,
      log: limited(this.#log),
    }));
    this.#serve(server, { ...event, backend: kindOf(source), export: one, counters }, observed);
    return server;
  }

  #listenFor(config: CheckedExport, one: Export): VhostUserServer {
    const { tag, requestQueues, maxConnections, pollTime, queueThreads, onReset } = config;
    const threads = queueThreads === 0 ? undefined : this.#openThreads(config, one);
    const counters = new Counters();
    const pace = new ExportPace(config.rate);
    const observed = this.tracing.add(tag);
    const event = { tag, socket: placeOf(config) };
    const sessionOptions = (): SessionOptions => ({
      onMounted: () => this.events.tell('mounted', event),
      onFault: (error, message) => this.events.tell('fault', { ...event, error, message }),
      fileTable: threads?.createFileTable(),
      counters,
      pace,
      observed,
      log: limited(this.#log),
    });
    const openSession = (): Session => new Session(one, sessionOptions());
    let server: VhostUserServer;
    try {
      server = VhostUserServer.start({
        socket:
          this.#keeper !== undefined
            ? 'given'
            : config.socket === undefined
              ? { fd: inheritedSocket(config)! }
              : { path: config.socket },
        mode: config.socketMode === undefined ? undefined : Number.parseInt(config.socketMode, 8),
        group: config.socketGroup === undefined ? undefined : groupId(config.socketGroup),
        once: config.exitOnDisconnect,
        tag,
        requestQueues,
        maxConnections,
        pollTime,
        log: limited(this.#log),
        openLog: () => limited(this.#log),
        openSession,
        keepsSession: onReset === 'keep',
        onConnected: () => this.events.tell('connected', event),
        onDisconnected: () => this.events.tell('disconnected', event),
        migration: this.#migration(config, one, openSession),
        ...(threads === undefined ? {} : { openPlacement: () => threads.openPlacement() }),
      });
      this.#sessionOptions.push(sessionOptions);
      if (threads !== undefined) this.#ending.push(server.ended.then(() => threads.close()));
    } catch (error) {
      if (threads !== undefined) this.#ending.push(threads.close());
      this.tracing.remove(observed);
      throw error instanceof ListenError ? new UsageError(error.message, { cause: error }) : error;
    }
    this.#serve(server, { ...event, backend: kindOf(config.backend), export: one, counters, pace }, observed);
    return server;
  }

  /** Has a server shown, and traced, until it has ended. */
  #serve(server: Server, served: FigureSource, observed: Observed): void {
    this.#servers.push(server);
    this.#served.set(server, served);
    void server.ended.then(() => {
      this.#served.delete(server);
      this.tracing.remove(observed);
    });
    const { tag, socket, backend } = served;
    this.#log.info({ tag, socket, backend }, 'serving');
  }

  /** Takes guests of an export to other hosts and back. */
  #migration({ tag, migrationOnError }: CheckedExport, one: Export, openSession: () => Session): Migration {
    const others = (except?: DeviceSession): boolean =>
      [...this.#served].some(
        ([server, served]) =>
          served.export === one &&
          server.sessions.some((other) => other !== except && (other as Session).negotiated !== undefined),
      );
    return {
      maxBytes: MAX_STATE_BYTES,
      save: async (session) => {
        if (movesAsWhole(one) && others(session))
          throw new Error(`export ${tag}: another guest uses what would go along`);
        return saveMigratingSession(session as Session);
      },
      load: async (state, instead) => {
        const isAlone = !others(instead);
        await (instead as Session).reset();
        return loadMigratingSession(one, state, { openSession, isAlone, onError: migrationOnError });
      },
    };
  }

  /** Starts threads for an export's queues, if its backend has descriptors that they can use. */
  #openThreads({ tag, queueThreads, pollTime }: CheckedExport, one: Export): QueueThreads | undefined {
    if (one.accelerator.backing !== undefined) {
      try {
        return new QueueThreads(queueThreads, pollTime, this.#log);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        throw new UsageError(`export ${tag}: queueThreads: ${error.message} in all exports`, {
          cause: error,
        });
      }
    }
    this.#log.warn(
      { tag },
      'no queue threads: they serve files of this host, which the backend does not have',
    );
    return undefined;
  }

  async #close(): Promise<void> {
    this.#endUnclaimed();
    await Promise.all(this.#servers.map((server) => server.close()));
    await Promise.all(this.#ending);
    for (const end of this.#journals.splice(0)) end();
    const results = await Promise.allSettled(this.#exports.map((one) => one.close()));
    for (const fd of this.#descriptors.splice(0)) fd.close();
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}

/** Exports with all their settings. Only those that are not checked yet need the schemas. */
async function checked({ exports, areChecked }: ChangedOptions): Promise<readonly CheckedExport[]> {
  if (areChecked === true) return exports as readonly CheckedExport[];
  const { checkedExports } = await import('./checked-exports.js');
  return checkedExports(exports);
}

/** @throws UsageError where exports of one backend differ in what applies to that. */
function mustAgree(config: CheckedExport, other: CheckedExport, what: string): void {
  const odd = COMMON.find((key) => !isDeepStrictEqual(config[key], other[key]));
  if (odd === undefined) return;
  throw new UsageError(
    `${what}.${odd}: must be that of the other export of backend ${String(other.backend)}`,
  );
}

/** @throws UsageError for a backend whose guests a keeper could not help. */
function requireKept({ tag }: CheckedExport, { accelerator: { unkept } }: Export): void {
  if (unkept !== undefined) throw new UsageError(`export ${tag}: with keep, ${unkept}`);
}

/** Has a journal keep a session, with what a former process has left of its requests. */
function keepSession(journal: Journal, session: Session, place: SessionPlace): void {
  const kept = journal.register(session, place);
  session.journal = kept;
  for (const [unique, verdict] of session.recovered ?? [])
    kept.keep(unique | 0, Math.floor(unique / 2 ** 32) | 0, verdict);
}

function sourceOf(config: CheckedExport, backends: Readonly<Record<string, BackendSource>>): BackendSource {
  if (!isNamed(config.backend)) return config.backend;
  const named = Object.hasOwn(backends, config.backend) ? backends[config.backend] : undefined;
  if (named !== undefined) return named;
  const known = Object.keys(backends);
  throw new UsageError(
    `export ${config.tag}: no backend ${config.backend} under backends${suggestion(config.backend, known)}`,
  );
}

/** The number of a group of this host, from its name or number. @throws UsageError */
export function groupId(group: string): number {
  if (/^\d+$/.test(group)) return Number(group);
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${group}:`));
  if (line === undefined) throw new UsageError(`socket group ${group}: no such group on this host`);
  return Number(line.split(':')[2]);
}
