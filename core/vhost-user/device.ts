import { AddressSpace, DirtyLog } from '../memory/index.js';
import { type Fd, type Log, Mapping, type OwnedFd, type UnixConnection } from '../system/index.js';
import { InflightArea, makeInflight } from './inflight-area.js';
import { Poller, type QueueService, type QueuePlacement } from '../virtqueue/index.js';
import { Channel, ChannelError, type ChannelReceiver, type RawMessage } from './channel.js';
import { MemoryTable, type TableChange } from './memory-table.js';
import {
  decodeMessage,
  encodeConfig,
  encodeConfigSpace,
  encodeInflight,
  encodeLog,
  encodeMessage,
  encodeU64,
  encodeVringState,
  Feature,
  type FrontEndMessage,
  hasReply,
  type Header,
  type Inflight,
  HeaderFlags,
  MAX_MEM_SLOTS,
  ProtocolError,
  ProtocolFeature,
  type Region,
  Request,
  type StateDirection,
} from './messages.js';
import { decodeState, encodeState } from './saved-queues.js';
import { readState, whyNoPipe, writeState } from './state-pipe.js';
import { keep, Vring } from './vring.js';

/** The FUSE side, which serves the requests of one front-end. */
export interface DeviceSession extends QueueService {
  /**
   * Finishes or cancels requests in flight. Resolves when every request was answered.
   */
  drain(): Promise<void>;
  /**
   * Waits for requests in flight, except those that wait for a lock: a successor gets these again.
   * @returns how many wait for a lock.
   */
  quiesce(): Promise<number>;
  /** As {@link drain}, but requests that wait for a lock go on waiting. */
  settle(): Promise<void>;
  /** Puts requests back that wait for a lock, where their queue has stopped. */
  withdraw(): void;
  /** Ends the session for good. */
  close(): Promise<void>;
}

/** Takes sessions to another host and back. Both throw an Error that says why it cannot be. */
export interface Migration {
  /** Bytes that states which are being received may have together. */
  readonly maxBytes: number;
  /** What the guest has, for another process. The session stays as it is. */
  save(session: DeviceSession): Promise<Uint8Array>;
  /**
   * A session that goes on with what `save` gave.
   * @param instead the session in whose place it comes. What its guest has is given up, for a
   * monitor that loads a snapshot (`loadvm`) has thrown that guest away.
   */
  load(state: Uint8Array, instead: DeviceSession): Promise<DeviceSession>;
}

/** The options of a device. */
export interface DeviceOptions {
  /** The name by which guests mount it, 1 to 36 bytes of UTF-8. */
  readonly tag: string;
  /** Request queues offered, 1 to 254 (a vring index has 8 bits, and one queue is hiprio). */
  readonly requestQueues: number;
  readonly log: Log;
  /**
   * Begins a session: for each connection, and again after RESET_DEVICE, without `keepsSession`.
   */
  openSession(): DeviceSession;
  /**
   * Whether a session lasts over RESET_DEVICE: the driver goes on with it, or ends it by FUSE_INIT.
   */
  readonly keepsSession?: boolean | undefined;
  /** The session with which the connection goes on, as it was restored. Default: a new one. */
  readonly session?: DeviceSession | undefined;
  /**
   * How long a stop waits for requests in flight, in milliseconds. Default: 15,000, which is more
   * than the session's own timeouts.
   */
  readonly drainTimeoutMs?: number | undefined;
  /**
   * How long rings are polled before sleeping, in microseconds, 0 to 1000: see {@link Poller}.
   * Default: 0.
   */
  readonly pollTime?: number | undefined;
  /**
   * Decides which queues of a connection run on other threads. Called for each connection.
   */
  openPlacement?(): QueuePlacement;
  /** Moves sessions between hosts (DEVICE_STATE). Default: that is not offered. */
  readonly migration?: Migration | undefined;
}

const DEFAULT_DRAIN_TIMEOUT_MS = 15_000;

/**
 * The connection ends after this many refused messages: the front-end is broken, or wants to fill
 * the log.
 */
const MAX_REFUSALS = 100;

/**
 * The features of the device. The packed ring would be one more bit here, and another ring format
 * for `Virtqueue`.
 */
const FEATURES =
  Feature.VERSION_1 |
  Feature.RING_INDIRECT_DESC |
  Feature.RING_EVENT_IDX |
  Feature.PROTOCOL_FEATURES |
  Feature.LOG_ALL;

/**
 * All but CONFIG are always offered. CONFIG is to front-ends that have said SET_OWNER before they
 * ask: User-Mode Linux, crosvm and Cloud Hypervisor do, and read the tag here. QEMU says it after,
 * makes the configuration itself, and warns its user of a device that offers to.
 */
const PROTOCOL_FEATURES =
  ProtocolFeature.MQ |
  ProtocolFeature.LOG_SHMFD |
  ProtocolFeature.REPLY_ACK |
  ProtocolFeature.BACKEND_REQ |
  ProtocolFeature.CONFIG |
  ProtocolFeature.INFLIGHT_SHMFD |
  ProtocolFeature.RESET_DEVICE |
  ProtocolFeature.CONFIGURE_MEM_SLOTS |
  ProtocolFeature.STATUS |
  ProtocolFeature.DEVICE_STATE;

/** Reply of SET_DEVICE_STATE_FD: no descriptor comes back, and whether it failed. */
const STATE_TAKEN = 0x100;
const STATE_REFUSED = 0x101;

/** A reply's payload, or nothing for a message without reply. */
type Answer = Uint8Array | undefined;

/** One front-end's virtio-fs device: from its connection to its end. */
export class VhostUserDevice implements ChannelReceiver {
  /** Resolves when the connection is gone and everything that belonged to it is released. */
  readonly ended: Promise<void>;

  readonly #options: DeviceOptions;
  readonly #log: Log;
  readonly #config: Uint8Array;
  readonly #channel: Channel;
  readonly #space = new AddressSpace();
  readonly #memory = new MemoryTable(this.#space, () => this.#lose());
  readonly #vrings: readonly Vring[];
  readonly #placement: QueuePlacement | undefined;
  #session: DeviceSession;
  #features = 0n;
  #protocolFeatures = 0n;
  #owned = false;
  #status = 0;
  #dirtyLog: Mapping | undefined;
  #inflight: InflightArea | undefined;
  #logFd: OwnedFd | undefined;
  #requestFd: OwnedFd | undefined;
  #end!: () => void;
  #handling: Promise<void> | undefined;
  /** The last transfer of the session's state: whether it succeeded. */
  #transfer: Promise<boolean> | undefined;
  #loading: Promise<void> | undefined;
  readonly #over = new AbortController();
  /** Resolves when the connection has ended: a call on the front-end's pipe may never return. */
  readonly #ending = new Promise<false>((resolve) => {
    this.#over.signal.addEventListener('abort', () => resolve(false));
  });
  #refusals = 0;

  /**
   * Takes the connection over.
   * @param poller serves its queues, with those of other devices.
   */
  constructor(connection: UnixConnection, options: DeviceOptions, poller = new Poller(options.pollTime)) {
    this.#options = options;
    this.#log = options.log;
    this.#config = encodeConfigSpace(options.tag, options.requestQueues);
    this.#session = options.session ?? options.openSession();
    // RESET_DEVICE puts another session in the place of this one.
    const session = (): DeviceSession => this.#session;
    const service: QueueService = {
      dispatch: (message, following) => this.#session.dispatch(message, following),
      submit: () => this.#session.submit(),
      completions: this.#session.completions,
      get fileTable() {
        return session().fileTable;
      },
    };
    this.#placement = options.openPlacement?.();
    this.#vrings = Array.from(
      { length: 1 + options.requestQueues },
      (_, index) =>
        new Vring(index, this.#space, service, options.log, poller, this.#placement?.place(index)),
    );
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#channel = new Channel(connection, this);
  }

  /** Whether the front-end has sent anything. */
  get hasSpoken(): boolean {
    return this.#channel.hasReceived;
  }

  /** Whether the front-end has shared memory. */
  get hasMemory(): boolean {
    return this.#space.regions.length > 0;
  }

  /** Ends the connection after the requests in flight. Idempotent. */
  close(): Promise<void> {
    this.#channel.end();
    return this.ended;
  }

  /** The session that serves the guest now. */
  get session(): DeviceSession {
    return this.#session;
  }

  /**
   * Stops all queues for a successor. Requests that wait for a lock stay in the in-flight region.
   * @returns where each queue stopped.
   * @throws Error if requests do not end in time, or could not be taken up again. The queues go on
   * then.
   */
  async stopForSuccessor(): Promise<readonly number[]> {
    await this.#handling;
    const running = this.#vrings.filter((vring) => vring.running || vring.isElsewhere);
    for (const vring of running) vring.pause();
    let reason: string | undefined = 'requests do not end';
    const stop = async (): Promise<void> => {
      await Promise.all(running.map((vring) => vring.whenPaused()));
      const waiting = await this.#session.quiesce();
      await Promise.all(running.map((vring) => vring.whenReturned()));
      const others = running.reduce((sum, vring) => sum + vring.inFlight, 0) - waiting;
      if (others > 0) reason = `${others} requests do not end`;
      else if (waiting > 0 && this.#inflight === undefined)
        reason = `${waiting} requests wait for locks, and nobody tracks what is in flight`;
      else reason = undefined;
    };
    await this.#inTime(stop());
    if (reason !== undefined) {
      for (const vring of running) vring.goOn();
      throw new Error(reason);
    }
    for (const vring of running) vring.suspend();
    return this.#vrings.map((vring) => vring.base);
  }

  /** After {@link stopForSuccessor}, if there will be none. */
  goOn(): void {
    this.#session.withdraw();
    for (const vring of this.#vrings) vring.restart();
  }

  onMessage({ header, payload, fds }: RawMessage): void | Promise<void> {
    try {
      const message = decodeMessage(header, payload, fds.length, this.#protocolFeatures);
      const answer = this.#perform(message, fds);
      if (answer instanceof Promise) return this.#track(this.#answerLater(header, answer));
      this.#answer(header, answer);
    } catch (error) {
      this.#refuse(header, error);
    }
  }

  onEnd(error: Error | undefined): void {
    if (error instanceof ProtocolError || error instanceof ChannelError) {
      this.#log.warn({ reason: error.message }, 'the connection to the front-end was closed');
    } else if (error !== undefined) {
      this.#log.error(
        { err: error },
        'the connection to the front-end was closed after an error of this program',
      );
    }
    void this.#release();
  }

  /** There is nothing behind the memory that the front-end gave. */
  #lose(): void {
    this.#channel.end(
      new ChannelError(
        'there is nothing behind some of its memory (no huge page or disk space left, or the file became shorter)',
      ),
    );
  }

  #track(handling: Promise<void>): Promise<void> {
    const over = () => {
      this.#handling = undefined;
    };
    this.#handling = handling.then(over, over);
    return handling;
  }

  async #answerLater(header: Header, pending: Promise<Answer>): Promise<void> {
    try {
      this.#answer(header, await pending);
    } catch (error) {
      this.#refuse(header, error);
    }
  }

  #answer(header: Header, payload: Answer): void {
    if (payload !== undefined) this.#reply(header, payload);
    else if (!hasReply(header.request) && this.#wantsAck(header)) this.#reply(header, encodeU64(0));
  }

  /**
   * Reports an error to the front-end if it waits for a reply that can carry one. If not, the
   * connection ends.
   */
  #refuse(header: Header, error: unknown): void {
    const config = header.request === Request.GET_CONFIG;
    const inflight = header.request === Request.GET_INFLIGHT_FD;
    const state = header.request === Request.SET_DEVICE_STATE_FD;
    const answerable = config || inflight || state || (!hasReply(header.request) && this.#wantsAck(header));
    this.#refusals += 1;
    if (!(error instanceof ProtocolError) || !answerable || this.#refusals > MAX_REFUSALS) throw error;
    this.#log.warn({ reason: error.message }, 'a message of the front-end was refused');
    // "vhost-user back-end uses zero length of payload to indicate an error" (GET_CONFIG)
    if (state) this.#reply(header, encodeU64(STATE_REFUSED));
    else if (inflight) this.#reply(header, encodeInflight({ size: 0, offset: 0, queues: 0, queueSize: 0 }));
    else this.#reply(header, config ? new Uint8Array(0) : encodeU64(1));
  }

  #wantsAck(header: Header): boolean {
    return header.needReply && (this.#protocolFeatures & ProtocolFeature.REPLY_ACK) !== 0n;
  }

  #reply({ request }: Pick<Header, 'request'>, payload: Uint8Array, fds: readonly Fd[] = []): void {
    this.#channel.send(encodeMessage(request, HeaderFlags.REPLY, payload), fds);
  }

  #perform(message: FrontEndMessage, fds: readonly OwnedFd[]): Answer | Promise<Answer> {
    this.#log.debug({ message: message.type }, 'message of the front-end');
    switch (message.type) {
      case 'GET_FEATURES':
        return encodeU64(FEATURES);
      case 'SET_FEATURES':
        return this.#setFeatures(message.value);
      case 'GET_PROTOCOL_FEATURES':
        return encodeU64(this.#owned ? this.#known : this.#known & ~ProtocolFeature.CONFIG);
      case 'SET_PROTOCOL_FEATURES':
        return this.#setProtocolFeatures(subset(message.type, message.value, this.#known));
      case 'SET_OWNER':
        this.#owned = true;
        return undefined;
      case 'RESET_OWNER':
        // "It is recommended that back-ends either ignore this message, or use it to disable all
        // rings."
        for (const vring of this.#vrings) vring.setEnabled(false);
        return undefined;
      case 'GET_QUEUE_NUM':
        return encodeU64(this.#vrings.length);
      case 'SET_MEM_TABLE':
        return this.#setMemoryTable(this.#memory.prepare(message.regions, fds));
      case 'GET_MAX_MEM_SLOTS':
        return encodeU64(MAX_MEM_SLOTS);
      case 'ADD_MEM_REG':
        return this.#addMemory(message.region, fds[0]!);
      case 'REM_MEM_REG':
        return this.#withoutRequests(this.#memory.prepareRemoval(message.region));
      case 'SET_VRING_NUM':
        this.#vring(message).setSize(message.num);
        return undefined;
      case 'SET_VRING_ADDR':
        this.#vring(message).setAddresses(message);
        return undefined;
      case 'SET_VRING_BASE':
        this.#vring(message).setBase(message.num);
        return undefined;
      case 'GET_VRING_BASE':
        return this.#getVringBase(this.#vring(message));
      case 'SET_VRING_KICK':
        return this.#setKick(this.#vring(message), fds[0]);
      case 'SET_VRING_CALL':
        this.#vring(message).setCall(fds[0]);
        return undefined;
      case 'SET_VRING_ERR':
        this.#vring(message).setErr(fds[0]);
        return undefined;
      case 'SET_VRING_ENABLE':
        return this.#setEnabled(this.#vring(message), message.num === 1);
      case 'SET_LOG_BASE':
        return this.#setLogBase(message.size, message.offset, fds[0]!);
      case 'SET_LOG_FD':
        this.#logFd?.close();
        this.#logFd = keep(fds[0]!);
        return undefined;
      case 'SET_BACKEND_REQ_FD':
        this.#requestFd?.close();
        this.#requestFd = keep(fds[0]!);
        return undefined;
      case 'GET_INFLIGHT_FD':
        this.#sendInflight(message.inflight);
        return undefined;
      case 'SET_INFLIGHT_FD':
        this.#setInflight(message.inflight, fds[0]!);
        return undefined;
      case 'GET_CONFIG':
        return encodeConfig(
          message.offset,
          message.flags,
          this.#config.subarray(message.offset, message.offset + message.size),
        );
      case 'SET_CONFIG':
        // virtio 1.2 section 5.11.4: "The driver MUST NOT write to device configuration fields."
        throw new ProtocolError('SET_CONFIG: the configuration space is read-only');
      case 'RESET_DEVICE':
        return this.#reset();
      case 'GET_STATUS':
        return encodeU64(this.#status);
      case 'SET_STATUS':
        return this.#setStatus(Number(message.value));
      case 'SET_DEVICE_STATE_FD':
        return this.#transferState(message.direction, fds[0]!);
      case 'CHECK_DEVICE_STATE':
        return this.#checkTransfer();
    }
  }

  #setProtocolFeatures(value: bigint): undefined {
    this.#protocolFeatures = value;
    if ((this.#known & ~value & ProtocolFeature.DEVICE_STATE) !== 0n) {
      // It refuses to move the guest by itself, and this daemon hears nothing of that.
      this.#log.info({}, 'no live migration of this guest: its front-end knows no DEVICE_STATE');
    }
  }

  /** The protocol features of this device, CONFIG too. */
  get #known(): bigint {
    const { migration } = this.#options;
    return PROTOCOL_FEATURES & (migration === undefined ? ~ProtocolFeature.DEVICE_STATE : -1n);
  }

  #vring({ type, index }: { readonly type: string; readonly index: number }): Vring {
    const vring = this.#vrings[index];
    if (vring !== undefined) return vring;
    throw new ProtocolError(`${type}: there is no queue ${index}, only ${this.#vrings.length}`);
  }

  #setFeatures(features: bigint): Answer | Promise<Answer> {
    this.#features = subset('SET_FEATURES', features, FEATURES);
    return this.#applyFeatures(() => {
      // "upon receiving … without VHOST_USER_F_PROTOCOL_FEATURES set, the back-end must enable all
      // rings immediately"
      if ((features & Feature.PROTOCOL_FEATURES) === 0n)
        for (const vring of this.#vrings) vring.setEnabled(true);
      return undefined;
    });
  }

  #setKick(vring: Vring, given: OwnedFd | undefined): Answer | Promise<Answer> {
    if (!vring.isElsewhere) {
      vring.setKick(given);
      return undefined;
    }
    const fd = keep(given);
    return this.#withoutRequests(() => vring.setKick(fd)).finally(() => fd?.close());
  }

  #setEnabled(vring: Vring, enabled: boolean): Answer | Promise<Answer> {
    vring.setEnabled(enabled);
    return vring.isElsewhere ? this.#inTime(vring.whenPaused()).then(() => undefined) : undefined;
  }

  #setMemoryTable(change: TableChange): Answer | Promise<Answer> {
    return change.removes
      ? this.#withoutRequests(() => change.apply())
      : this.#withMoreMemory(() => change.apply());
  }

  #addMemory(region: Region, given: OwnedFd): Answer | Promise<Answer> {
    const fd = keep(given);
    return this.#withMoreMemory(() => {
      try {
        this.#memory.add(region, fd);
      } finally {
        fd.close();
      }
    });
  }

  /** Whether any queue runs on another thread, where changes apply when the queue is restarted. */
  get #isElsewhere(): boolean {
    return this.#vrings.some((vring) => vring.isElsewhere);
  }

  /**
   * Makes a change while no request is in flight. It pauses the queues, waits for their requests,
   * makes the change, and restarts them.
   */
  async #withoutRequests(apply: () => void): Promise<Answer> {
    // A broken queue of another thread may have requests there too.
    const running = this.#vrings.filter((vring) => vring.running || vring.isElsewhere);
    for (const vring of running) vring.pause();
    await this.#drain(running, this.#isElsewhere);
    for (const vring of running) vring.suspend();
    this.#session.withdraw();
    try {
      apply();
    } finally {
      for (const vring of running) vring.restart();
    }
    return undefined;
  }

  /** Adds memory. Queues on other threads are paused meanwhile. */
  #withMoreMemory(apply: () => void): Answer | Promise<Answer> {
    const elsewhere = this.#vrings.filter((vring) => vring.isElsewhere && vring.running);
    if (elsewhere.length > 0) return this.#withoutTaking(elsewhere, apply);
    apply();
    return undefined;
  }

  async #withoutTaking(vrings: readonly Vring[], apply: () => void): Promise<Answer> {
    for (const vring of vrings) vring.pause();
    await this.#inTime(Promise.all(vrings.map((vring) => vring.whenPaused())));
    try {
      apply();
    } finally {
      for (const vring of vrings) vring.resumeWithMemory();
    }
    return undefined;
  }

  async #getVringBase(vring: Vring): Promise<Answer> {
    vring.pause();
    await this.#drain([vring], vring.isElsewhere);
    const base = vring.stop();
    this.#session.withdraw();
    return encodeVringState(vring.index, base);
  }

  /**
   * Waits until these queues have no request in flight, but no longer than the drain timeout.
   * @param withLocks also ends requests that wait for locks, which may go on waiting otherwise.
   */
  async #drain(vrings: readonly Vring[], withLocks: boolean): Promise<void> {
    if (vrings.every((vring) => vring.isIdle)) return;
    if (await this.#inTime(withLocks ? this.#settleAll(vrings) : this.#settle(vrings))) return;
    const requests = vrings.reduce((sum, vring) => sum + vring.inFlight, 0);
    this.#log.error({ requests, limit: this.#drainTimeoutMs }, 'requests in flight did not end in time');
  }

  get #drainTimeoutMs(): number {
    return this.#options.drainTimeoutMs ?? DEFAULT_DRAIN_TIMEOUT_MS;
  }

  /** Waits for a promise, but no longer than the drain timeout. @returns whether it settled. */
  async #inTime(ended: Promise<unknown>): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), this.#drainTimeoutMs);
    });
    const inTime = await Promise.race([ended.then(() => true), expired]);
    clearTimeout(timer);
    return inTime;
  }

  async #settle(vrings: readonly Vring[]): Promise<void> {
    await Promise.all(vrings.map((vring) => vring.whenPaused()));
    await this.#session.settle();
  }

  async #settleAll(vrings: readonly Vring[]): Promise<void> {
    await Promise.all(vrings.map((vring) => vring.whenPaused()));
    await this.#session.drain();
    await Promise.all(vrings.map((vring) => vring.whenIdle()));
  }

  #setLogBase(size: number, offset: number, fd: OwnedFd): Answer | Promise<Answer> {
    let mapping: Mapping;
    try {
      mapping = Mapping.map(fd.value, size, offset, () => this.#lose());
    } catch (error) {
      throw new ProtocolError(`SET_LOG_BASE: ${(error as Error).message}`, { cause: error });
    }
    const before = this.#dirtyLog;
    this.#dirtyLog = mapping;
    return this.#applyFeatures(() => {
      before?.unmap();
      // QEMU wants any reply, rust-vmm's front-end one of the same kind.
      return encodeLog(size, offset);
    });
  }

  /** Makes an in-flight region for the front-end, which will give it back by SET_INFLIGHT_FD. */
  #sendInflight(wanted: Inflight): void {
    const { fd, inflight } = makeInflight(wanted, this.#vrings.length);
    try {
      this.#reply({ request: Request.GET_INFLIGHT_FD }, encodeInflight(inflight), [fd.value]);
    } finally {
      fd.close();
    }
  }

  /** Goes on with what a former process has in flight, if one has used the region. */
  #setInflight(given: Inflight, fd: OwnedFd): void {
    if (this.#vrings.some((vring) => vring.running))
      throw new ProtocolError('SET_INFLIGHT_FD: a queue is running');
    const area = new InflightArea(given, fd.value, this.#vrings.length, () => this.#lose());
    for (const vring of this.#vrings) vring.setInflight(area.queue(vring.index));
    this.#inflight?.close();
    this.#inflight = area;
  }

  /**
   * "To start/stop logging of data/used ring writes, the front-end may send SET_FEATURES with
   * VHOST_F_LOG_ALL." Queues of other threads, which do not log, come back to this one.
   */
  #applyFeatures(answer: () => Answer): Answer | Promise<Answer> {
    const log = this.#dirtyLog === undefined ? undefined : new DirtyLog(this.#dirtyLog);
    const apply = (): void => {
      for (const vring of this.#vrings) vring.setFeatures(this.#features, log);
    };
    const isLogging = log !== undefined && (this.#features & Feature.LOG_ALL) !== 0n;
    if (isLogging && this.#isElsewhere) return this.#withoutRequests(apply).then(answer);
    apply();
    return answer();
  }

  /**
   * "Ask the vhost user back-end to disable all rings and reset all internal device state to the
   * initial state."
   */
  async #reset(): Promise<Answer> {
    await this.#stopAll();
    this.#status = 0;
    if (this.#options.keepsSession === true) return undefined;
    const before = this.#session;
    this.#session = this.#options.openSession();
    await before.close();
    return undefined;
  }

  /**
   * Status 0 resets the virtio device, not the FUSE session: QEMU sends it when a guest is merely
   * paused, and a guest that starts anew begins with FUSE_INIT.
   */
  async #setStatus(status: number): Promise<Answer> {
    if (status === 0) await this.#stopAll();
    this.#status = status;
    return undefined;
  }

  async #stopAll(): Promise<void> {
    for (const vring of this.#vrings) vring.pause();
    await this.#drain(this.#vrings, true);
    for (const vring of this.#vrings) vring.reset();
  }

  /** "Front-end and back-end negotiate a channel over which to transfer the back-end's state." */
  async #transferState(direction: StateDirection, given: OwnedFd): Promise<Answer> {
    const name = 'SET_DEVICE_STATE_FD';
    const why = whyNoPipe(given);
    if (why !== undefined) throw new ProtocolError(`${name}: descriptor: ${why}`);
    if (this.#runs) throw new ProtocolError(`${name}: a queue is running`);
    const migration = this.#options.migration!;
    const fd = keep(given);
    await Promise.race([this.#transfer, this.#ending]);
    if (direction === 'load') {
      this.#transfer = this.#endTransfer(direction, fd, () =>
        readState(fd, migration.maxBytes, this.#over.signal, (state) => {
          this.#loading = this.#load(migration, state);
          return this.#loading;
        }),
      );
      return encodeU64(STATE_TAKEN);
    }
    let state: Uint8Array;
    try {
      const saved = await migration.save(this.#session);
      state = encodeState(
        this.#vrings.map(({ backlog }) => backlog),
        saved,
      );
    } catch (error) {
      fd.close();
      this.#logFailure(direction, error);
      return encodeU64(STATE_REFUSED);
    }
    this.#transfer = this.#endTransfer(direction, fd, () => writeState(fd, state, this.#over.signal));
    return encodeU64(STATE_TAKEN);
  }

  /** @returns whether the transfer succeeded. */
  async #endTransfer(
    direction: StateDirection,
    fd: OwnedFd,
    transfer: () => Promise<void>,
  ): Promise<boolean> {
    try {
      await transfer();
      this.#log.info({}, direction === 'save' ? "the guest's state was saved" : 'the guest goes on here');
      return true;
    } catch (error) {
      this.#logFailure(direction, error);
      return false;
    } finally {
      fd.close();
    }
  }

  async #load(migration: Migration, state: Uint8Array): Promise<void> {
    const { backlogs, rest } = decodeState(state, this.#vrings.length);
    const session = await migration.load(rest, this.#session);
    if (this.#over.signal.aborted || this.#runs) {
      await session.close();
      throw new Error('the front-end did not wait for the end of it');
    }
    const before = this.#session;
    this.#session = session;
    for (const { index, ...backlog } of backlogs) this.#vrings[index]!.setBacklog(backlog);
    await before.close();
  }

  #logFailure(direction: StateDirection, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    const text = direction === 'save' ? 'a guest cannot leave' : 'a guest cannot be taken over';
    this.#log.warn({ reason }, `live migration: ${text}`);
  }

  /** "Return value is 0 for success, anything else for error." */
  async #checkTransfer(): Promise<Answer> {
    const succeeded = await Promise.race([this.#transfer, this.#ending]);
    this.#transfer = undefined;
    return encodeU64(succeeded === true ? 0 : 1);
  }

  /** Whether a queue takes requests or has some. */
  get #runs(): boolean {
    return this.#vrings.some((vring) => vring.running || vring.isElsewhere);
  }

  async #release(): Promise<void> {
    this.#over.abort();
    await this.#handling;
    await this.#loading?.catch(() => undefined);
    try {
      await this.#stopAll();
      await this.#session.close();
    } catch (error) {
      this.#log.error({ err: error }, 'the session did not end cleanly');
    }
    for (const vring of this.#vrings) vring.close();
    this.#placement?.leave();
    this.#memory.clear();
    this.#inflight?.close();
    this.#dirtyLog?.unmap();
    this.#logFd?.close();
    this.#requestFd?.close();
    this.#end();
  }
}

/** Checks that the front-end acknowledges only bits that were offered. @throws ProtocolError */
function subset(name: string, value: bigint, offered: bigint): bigint {
  const rest = value & ~offered;
  if (rest !== 0n) throw new ProtocolError(`${name}: bits 0x${rest.toString(16)} were not offered`);
  return value;
}
