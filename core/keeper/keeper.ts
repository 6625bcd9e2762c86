import {
  type Log,
  type OwnedFd,
  UnixConnection,
  type UnixListener,
  type Watch,
  watch,
} from '../system/index.js';
import { EAGAIN } from '../system/calls/negative-errno.js';
import { FrontEndChannel } from '../vhost-user/front-end-channel.js';
import { bindSocket, type ListenOptions } from '../vhost-user/listen.js';
import { type EngineCommand, EngineProcess, type State } from './engine-process.js';
import { Relay } from './relay.js';
import { HeldDescriptors } from './held-descriptors.js';

/** A socket, at which the keeper listens in the engine's place. */
export interface KeptSocket extends ListenOptions {
  readonly path: string;
  /** Front-ends at a time; more are turned away. */
  readonly maxConnections: number;
  /** The keeper ends when the last front-end of all sockets has gone. */
  readonly once: boolean;
}

/** An engine is the program as it is installed when one is started. */
export interface KeeperOptions extends EngineCommand {
  readonly sockets: readonly KeptSocket[];
  readonly log: Log;
  /** Ends the keeper if the first engine ends before it serves. Default: it is tried again. */
  readonly endsAtOnce?: boolean;
}

/** A mount of this host that engines serve in turn. */
export interface HeldMount {
  /** An open `/dev/fuse`. */
  readonly device: OwnedFd;
  /** Memory for its requests. */
  readonly requests: OwnedFd;
  /** Somebody has unmounted it, or it is there and cannot go on. Called once. */
  onEnd(isUnmounted: boolean): void;
}

interface Mount {
  readonly id: number;
  /** In the order of the configuration, after the sockets. */
  readonly socket: number;
  readonly held: HeldMount;
  /** Whether an engine has served it. */
  hasBegun: boolean;
  /** The engine that has it. */
  engine: EngineProcess | undefined;
}

/** The time between two attempts to start an engine doubles, from the first to the second. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 30_000;

/** An engine that served so long did not fail at its start. */
const SERVED_MS = 500;

/** So many engines in a row that ended sooner are followed at once by another. */
const FEW_FAILURES = 3;

/** After so many, it may be what the guests have, or ask for, that ends engines. */
const MOST_FAILURES = 16;

/** How long the keeper stops accepting connections after accept(2) has failed. */
const ACCEPT_PAUSE_MS = 200;

/** How long after a connection's end its engine's own end is waited for. */
const END_GRACE_MS = 500;

/** Keeps front-ends, and an engine that serves them. */
export class Keeper {
  /** Resolves when the keeper has ended. */
  readonly ended: Promise<void>;
  readonly #options: KeeperOptions;
  readonly #log: Log;
  readonly #listeners: { readonly listener: UnixListener; readonly watch: Watch }[] = [];
  readonly #relays = new Map<number, Relay>();
  readonly #mounts = new Map<number, Mount>();
  /** Front-ends that are just given to the engine. */
  readonly #attaching = new Set<Promise<void>>();
  /** Front-ends that have come while the engine was handing over, and have none yet. */
  readonly #late = new Set<Relay>();
  #nextId = 0;
  #failure: string | undefined;
  #readOnly: readonly boolean[] = [];
  /** The engine that serves; undefined between two. */
  #engine: EngineProcess | undefined;
  /** An engine that mounts its backends. */
  #starting: EngineProcess | undefined;
  /** The next engine: it has loaded its program, and waits. */
  #spare: EngineProcess | undefined;
  /** One that loads its program, for an upgrade. */
  #loading: EngineProcess | undefined;
  #state: State | undefined;
  /** Memory in which the engine that serves, or the last one, keeps the sessions. */
  #journals: readonly OwnedFd[] = [];
  readonly #held: HeldDescriptors;
  /** When the last engine has ended by itself, in milliseconds. */
  #endedAt: number | undefined;
  /** Called when the serving engine has handed over or ended. */
  #change: (() => void) | undefined;
  #upgrading: Promise<string> | undefined;
  /** Whether the engine gets nobody new, since it stops, or has stopped. */
  #isHandingOver = false;
  /** Called when an engine serves. */
  readonly #onServing: (() => void)[] = [];
  #closing = false;
  #willClose = false;
  #hasServed = false;
  #wakePause: (() => void) | undefined;

  private constructor(options: KeeperOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#held = new HeldDescriptors(options.log);
    this.ended = this.#run();
  }

  /** Listens, and starts an engine. @throws ListenError if a socket can't be had. */
  static start(options: KeeperOptions): Keeper {
    const listeners = options.sockets.map((socket) => bindSocket(socket.path, socket));
    const keeper = new Keeper(options);
    for (const [index, listener] of listeners.entries()) {
      keeper.#listeners.push({
        listener,
        watch: watch(listener.fd, () => keeper.#accept(listener, index)),
      });
    }
    return keeper;
  }

  /** Why the first engine has ended before it served, with `endsAtOnce`. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Of each export, when an engine serves: whether nothing can change what is in it. */
  get readOnly(): readonly boolean[] {
    return this.#readOnly;
  }

  /** Has a mount served, from here on and by each engine. Its descriptors stay the caller's. */
  hold(held: HeldMount): void {
    const id = this.#nextId++;
    const socket = this.#options.sockets.length + this.#mounts.size;
    const mount: Mount = { id, socket, held, hasBegun: false, engine: undefined };
    this.#mounts.set(id, mount);
    if (this.#engine !== undefined && !this.#isHandingOver) this.#give(mount, this.#engine);
  }

  /** Resolves when an engine serves. */
  serving(): Promise<void> {
    return this.#engine === undefined ? this.#nextServing() : Promise.resolve();
  }

  #nextServing(): Promise<void> {
    return new Promise((resolve) => this.#onServing.push(resolve));
  }

  /**
   * To be called when this process was asked to end, if {@link close} comes later: an engine that
   * was asked at the same time, as by a terminal, is not replaced.
   */
  willClose(): void {
    this.#willClose = true;
  }

  /** Ends the engine in order, and with it all front-ends. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const { listener, watch: watched } of this.#listeners.splice(0)) {
      watched.close();
      listener.close();
    }
    const relays = [...this.#relays.values()];
    for (const relay of relays) relay.end();
    this.#wakePause?.();
    const engines = [this.#engine, this.#starting, this.#spare, this.#loading];
    await Promise.all(engines.map((engine) => engine?.end()));
    await this.ended;
    this.#state?.close();
    this.#keepJournals([]);
    this.#held.close();
  }

  /**
   * Replaces the engine by a new process of the program as it is installed now. Guests see a pause.
   * @returns what was done, in words.
   * @throws Error if it can't be; the old engine then goes on.
   */
  upgrade(): Promise<string> {
    this.#upgrading ??= this.#upgrade().finally(() => {
      this.#upgrading = undefined;
      this.#isHandingOver = false;
      this.#giveLate();
    });
    return this.#upgrading;
  }

  async #upgrade(): Promise<string> {
    const first = this.#engine;
    if (first === undefined) throw new Error('no engine serves now');
    // The one that waits has loaded the program as it was.
    const next = new EngineProcess(this.#options, this.#log);
    this.#loading = next;
    try {
      await next.waiting;
    } catch (error) {
      throw new Error(`the new engine does not start: ${(error as Error).message}`, { cause: error });
    } finally {
      this.#loading = undefined;
    }
    const before = this.#spare;
    this.#spare = next;
    void before?.end();
    // It may have ended meanwhile, and another one take its place.
    await Promise.race([this.serving(), this.ended]);
    const old = this.#engine;
    if (old === undefined || this.#closing) throw new Error('the keeper ends');
    if (old === next) return `engine ${first.pid} had ended, and was replaced by ${next.pid}`;
    this.#isHandingOver = true;
    await Promise.all(this.#attaching);
    const relays = [...this.#relays.values()].filter((relay) => !this.#late.has(relay));
    await Promise.all(relays.map((relay) => relay.hold()));
    const since = performance.now();
    try {
      this.#state = await old.handOver();
    } catch (error) {
      for (const relay of relays) relay.goOn();
      throw new Error(`the engine does not hand over: ${(error as Error).message}`, { cause: error });
    }
    for (const relay of relays) relay.detach();
    const serving = this.#nextServing();
    this.#change?.();
    await serving;
    const pauseMs = Math.round(performance.now() - since);
    const { pid } = this.#engine!;
    this.#log.info({ from: old.pid, to: pid, pauseMs, guests: relays.length }, 'the engine was replaced');
    return `engine ${old.pid} was replaced by ${pid}, guests paused for ${pauseMs} ms`;
  }

  async #run(): Promise<void> {
    let pauseMs = 0;
    let failures = 0;
    while (!this.#closing) {
      if (pauseMs > 0) {
        this.#log.warn({ pauseMs }, 'the next engine is started after a pause');
        await this.#pause(pauseMs);
        if (this.#closing) return;
      }
      let since = Infinity;
      let engine: EngineProcess | undefined;
      let reason: string | undefined;
      try {
        engine = this.#spare ?? new EngineProcess(this.#options, this.#log);
        this.#spare = undefined;
        this.#starting = engine;
        await this.#serve(engine);
        if (this.#closing) await engine.end();
        since = performance.now();
        reason = await this.#whenOver(engine);
      } catch (error) {
        reason = (error as Error).message;
        this.#engine = undefined;
        await engine?.end();
      }
      this.#starting = undefined;
      this.#engine = undefined;
      if (reason === undefined) {
        // It has handed over, and ends by itself.
        pauseMs = 0;
        continue;
      }
      if (this.#closing) return;
      this.#endedAt ??= performance.now();
      this.#log.error({ pid: engine?.pid, reason }, 'the engine has ended');
      this.#held.drain();
      for (const relay of this.#relays.values()) relay.detach();
      if (performance.now() - since >= SERVED_MS) {
        pauseMs = 0;
        failures = 0;
        continue;
      }
      const hasServed = since < Infinity;
      if (!hasServed && this.#options.endsAtOnce === true && !this.#hasServed) {
        this.#failure = reason;
        return;
      }
      if (hasServed) failures += 1;
      if (failures === MOST_FAILURES) this.#giveUp();
      if (hasServed && failures <= FEW_FAILURES) {
        pauseMs = 0;
        continue;
      }
      pauseMs = Math.min(Math.max(pauseMs * 2, FIRST_PAUSE_MS), LONGEST_PAUSE_MS);
    }
  }

  /** Has an engine serve, and gives it all front-ends. */
  async #serve(engine: EngineProcess): Promise<void> {
    await engine.waiting;
    const [ours, theirs] = UnixConnection.pair();
    this.#held.listen(ours);
    const stash = { connection: theirs, last: this.#held.last };
    const serving = await engine.begin(this.#state, this.#journals, stash);
    this.#held.keepOnly(serving.held);
    this.#keepJournals(serving.journals);
    this.#readOnly = serving.readOnly;
    this.#loseGuests('the engine left too little of them', serving.connections);
    this.#engine = engine;
    this.#hasServed = true;
    engine.onLeaving = () => void this.#replace(engine);
    engine.onMount = (id, what) => this.#noteMount(id, what);
    this.#late.clear();
    const checked = await Promise.all(
      [...this.#relays.values()].map(async (relay) => {
        const saved = this.#state?.connections.find(({ id }) => id === relay.id);
        for (const [index, base] of (saved?.bases ?? []).entries()) relay.setup.rebase(index, base);
        const channel = await this.#channel(relay, engine);
        await relay.check(channel);
        return { relay, channel };
      }),
    );
    // From here on guests go on, so that the state is of the past.
    this.#state?.close();
    this.#state = undefined;
    await Promise.all(checked.map(({ relay, channel }) => this.#attach(relay, Promise.resolve(channel))));
    for (const mount of this.#mounts.values()) this.#give(mount, engine);
    for (const served of this.#onServing.splice(0)) served();
    const pauseMs = this.#endedAt === undefined ? 0 : Math.round(performance.now() - this.#endedAt);
    this.#endedAt = undefined;
    const guests = this.#relays.size + this.#mounts.size;
    this.#log.info({ pid: engine.pid, guests, pauseMs }, 'an engine serves');
    if (this.#closing || this.#spare !== undefined) return;
    const spare = new EngineProcess(this.#options, this.#log);
    this.#spare = spare;
    // One that ends is found out when it is needed.
    spare.waiting.then(
      () => this.#log.info({ pid: spare.pid }, 'the next engine waits'),
      () => undefined,
    );
  }

  /** An engine was asked to end: it is replaced, or ends in order, and its guests with it. */
  async #replace(engine: EngineProcess): Promise<void> {
    if (this.#closing || this.#willClose) return;
    try {
      await this.upgrade();
    } catch (error) {
      if (this.#closing) return;
      this.#log.error(
        { pid: engine.pid, reason: (error as Error).message },
        'the engine ends with its guests',
      );
      await engine.end();
    }
  }

  /** @returns why the engine has ended; undefined if it has handed over. */
  #whenOver(engine: EngineProcess): Promise<string | undefined> {
    return new Promise((resolve) => {
      this.#change = () => resolve(undefined);
      void engine.ended.then(resolve);
    });
  }

  /** Connects to the engine for a front-end. */
  async #channel(relay: Relay, engine: EngineProcess): Promise<FrontEndChannel> {
    const connection = await engine.connect(relay.id, relay.socket);
    return new FrontEndChannel(connection, () => void this.#channelEnded(relay, engine));
  }

  /** Gives the engine a front-end. An engine that refuses one goes on with the others. */
  #attach(relay: Relay, channel: Promise<FrontEndChannel>): Promise<void> {
    const attaching = channel
      .then((open) => relay.attach(open))
      .catch((error: Error) => {
        this.#log.error({ reason: error.message }, 'a front-end could not be given to the engine');
        relay.end();
      })
      .finally(() => this.#attaching.delete(attaching));
    this.#attaching.add(attaching);
    return attaching;
  }

  /** An engine has closed a front-end's connection: it refuses the front-end, or has ended. */
  async #channelEnded(relay: Relay, engine: EngineProcess): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, END_GRACE_MS);
    });
    await Promise.race([engine.ended, grace]);
    clearTimeout(timer);
    // One that hands over closes its connections before it ends.
    if (this.#upgrading !== undefined) return;
    if (!engine.isEnding && this.#engine === engine) relay.end();
  }

  /** Guests that had begun, and with which no engine goes on. @param kept ids of the others. */
  #loseGuests(reason: string, kept: ReadonlySet<number> = new Set()): void {
    const lost = [...this.#relays.values()].filter((relay) => relay.isStarted && !kept.has(relay.id));
    const mounts = [...this.#mounts.values()].filter(({ id, hasBegun }) => hasBegun && !kept.has(id));
    if (lost.length + mounts.length === 0) return;
    const text = `guests cannot go on, and their connections are closed: ${reason}`;
    this.#log.error({ guests: lost.length + mounts.length }, text);
    for (const relay of lost) relay.end();
    for (const mount of mounts) this.#endMount(mount, false);
  }

  /** Gives the engine what has come while it was, or was not, replaced. */
  #giveLate(): void {
    const late = [...this.#late];
    this.#late.clear();
    const engine = this.#engine;
    // The next one gets all.
    if (engine === undefined) return;
    for (const relay of late) void this.#attach(relay, this.#channel(relay, engine));
    for (const mount of this.#mounts.values()) this.#give(mount, engine);
  }

  #give(mount: Mount, engine: EngineProcess): void {
    if (mount.engine === engine) return;
    mount.engine = engine;
    const { id, socket, held } = mount;
    void engine.mount(id, socket, [held.device, held.requests]);
  }

  #noteMount(id: number, what: 'begun' | 'unmounted'): void {
    const mount = this.#mounts.get(id);
    if (mount === undefined) return;
    mount.hasBegun = true;
    if (what === 'unmounted') this.#endMount(mount, true);
  }

  #endMount({ id, held }: Mount, isUnmounted: boolean): void {
    this.#mounts.delete(id);
    held.onEnd(isUnmounted);
  }

  /** Engines end again and again: what the guests have is dropped, so that others can be served. */
  #giveUp(): void {
    this.#keepJournals([]);
    this.#held.keepOnly([]);
    this.#loseGuests('engines end again and again');
  }

  #keepJournals(journals: readonly OwnedFd[]): void {
    for (const fd of this.#journals) fd.close();
    this.#journals = journals;
  }

  #accept(listener: UnixListener, socket: number): void {
    const connection = listener.accept();
    if (!(connection instanceof UnixConnection)) {
      if (connection === EAGAIN) return;
      // Mostly EMFILE. The socket stays readable, so that without a pause this would spin.
      this.#log.error({ errno: -connection }, 'cannot accept a front-end');
      const one = this.#listeners.find((listening) => listening.listener === listener);
      one?.watch.pause();
      setTimeout(() => {
        if (this.#listeners.includes(one!)) one!.watch.resume();
      }, ACCEPT_PAUSE_MS).unref();
      return;
    }
    const limit = this.#options.sockets[socket]!.maxConnections;
    const others = [...this.#relays.values()].filter((relay) => relay.socket === socket);
    if (others.length >= limit) {
      this.#log.warn({ limit }, 'a front-end was turned away: too many connections');
      connection.close();
      return;
    }
    const relay = new Relay(connection, this.#nextId++, socket, this.#log, (one) => this.#forget(one));
    this.#relays.set(relay.id, relay);
    this.#log.info({ connections: this.#relays.size }, 'a front-end connected');
    const engine = this.#engine;
    // Between two engines it waits for the next one.
    if (this.#isHandingOver) this.#late.add(relay);
    else if (engine !== undefined) void this.#attach(relay, this.#channel(relay, engine));
  }

  #forget(relay: Relay): void {
    this.#relays.delete(relay.id);
    this.#late.delete(relay);
    this.#log.info({ connections: this.#relays.size }, 'a front-end disconnected');
    const isLast = this.#relays.size === 0 && this.#options.sockets.every(({ once }) => once);
    if (isLast && !this.#closing) void this.close();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wakePause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
