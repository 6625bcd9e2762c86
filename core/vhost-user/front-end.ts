import { type OwnedFd, UnixConnection } from '../system/index.js';
import { DriverQueue, type DriverQueueOptions } from '../virtqueue/index.js';
import { FrontEndChannel, FrontEndError } from './front-end-channel.js';
import { FrontEndQueue } from './front-end-queue.js';
import {
  decodeInflight,
  encodeInflight,
  encodeMemoryTable,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  Feature,
  type Inflight,
  ProtocolFeature,
} from './messages.js';
import { SharedMemory } from './shared-memory.js';
import { peerProcess } from './socket-options.js';

/** How a front-end sets its device up. */
export interface FrontEndOptions {
  /** Request queues beside the hiprio queue, as many as the daemon has up to this. Default 1. */
  readonly requestQueues?: number | undefined;
  /** Entries of each ring: a power of two up to 1024. Default 128. */
  readonly queueSize?: number | undefined;
  /** Segments of an indirect table for each request; 0 for none. Default 0. */
  readonly indirect?: number | undefined;
  /** EVENT_IDX where the daemon has it. Default true. */
  readonly eventIdx?: boolean | undefined;
  /** Announces memory by ADD_MEM_REG where the daemon can. Default false. */
  readonly memorySlots?: boolean | undefined;
  /** Bytes of memory for requests, up to 1 GiB. Default 16 MiB. */
  readonly memory?: number | undefined;
  /**
   * Keeps an in-flight region, where the daemon has them (INFLIGHT_SHMFD). When the daemon goes
   * away, requests then wait for {@link FrontEnd.reconnect}. Default false.
   */
  readonly inflight?: boolean | undefined;
}

const WANTED_PROTOCOL_FEATURES =
  ProtocolFeature.MQ |
  ProtocolFeature.LOG_SHMFD |
  ProtocolFeature.REPLY_ACK |
  ProtocolFeature.CONFIG |
  ProtocolFeature.RESET_DEVICE |
  ProtocolFeature.CONFIGURE_MEM_SLOTS |
  ProtocolFeature.STATUS;

const EMPTY = new Uint8Array(0);

/**
 * The driver side. It connects to any vhost-user virtio-fs daemon and drives its queues from this
 * process, without a guest. Every promise rejects with a {@link FrontEndError} when the daemon goes
 * away.
 */
export class FrontEnd {
  channel: FrontEndChannel;
  readonly memory: SharedMemory;
  /** Queue 0 is hiprio. The request queues have the indices from 1 on. */
  queues: readonly FrontEndQueue[] = [];
  /**
   * Process id of the daemon, which listened on the socket. 0 if it has no id in this PID
   * namespace.
   */
  daemon: number;
  /** The negotiated feature bits. */
  features = 0n;
  /** The negotiated protocol feature bits. */
  protocolFeatures = 0n;
  /** Resolves with the reason when the connection is over. */
  ended: Promise<FrontEndError>;
  readonly #options: FrontEndOptions;
  /**
   * Queues of the daemon, hiprio included. Without MQ there are two, which every virtio-fs device
   * has.
   */
  #offeredQueues = 2;
  /** The in-flight region, which outlives connections. */
  #inflight: { readonly fd: OwnedFd; readonly region: Inflight } | undefined;
  #isClosed = false;

  private constructor(connection: UnixConnection, options: FrontEndOptions) {
    this.#options = options;
    ({ channel: this.channel, ended: this.ended } = this.#open(connection));
    this.daemon = peerProcess(connection.fd);
    const { requestQueues = 1, memory = 16 * 2 ** 20 } = options;
    this.memory = new SharedMemory(memory + (1 + requestQueues) * (4096 + DriverQueue.bytes(this.#ring())));
  }

  /**
   * Connects, negotiates, shares memory and starts all queues.
   * @param target path of the daemon's socket, or a connection to it.
   * @throws SystemError if nobody listens there, FrontEndError if the daemon refuses something.
   */
  static async connect(target: string | UnixConnection, options: FrontEndOptions = {}): Promise<FrontEnd> {
    const connection = typeof target === 'string' ? UnixConnection.connect(target) : target;
    const frontEnd = new FrontEnd(connection, options);
    try {
      await frontEnd.#negotiate();
      frontEnd.queues = frontEnd.#makeQueues();
      if (frontEnd.has('INFLIGHT_SHMFD')) await frontEnd.#askForInflight();
      await frontEnd.#shareMemory();
      for (const { index } of frontEnd.queues) await frontEnd.startQueue(index);
      return frontEnd;
    } catch (error) {
      frontEnd.close();
      throw error;
    }
  }

  /**
   * Connects to the next daemon after the former one has gone, with the same memory, queues and
   * in-flight region. Requests without a reply get theirs from the new daemon. As Cloud Hypervisor
   * does, it gives the available index as the base; the daemon knows better by the region.
   * @throws SystemError if nobody listens there, FrontEndError if the daemon refuses something, or
   * offers less than the former one.
   */
  async reconnect(target: string | UnixConnection): Promise<void> {
    const inflight = this.#inflight;
    if (inflight === undefined) throw new FrontEndError('there is no in-flight region');
    const connection = typeof target === 'string' ? UnixConnection.connect(target) : target;
    ({ channel: this.channel, ended: this.ended } = this.#open(connection));
    this.daemon = peerProcess(connection.fd);
    const { features, protocolFeatures } = this;
    await this.#negotiate();
    if (this.features !== features || this.protocolFeatures !== protocolFeatures) {
      throw this.channel.end('the new daemon offers other features than the former one');
    }
    const { region, fd } = inflight;
    await this.channel.command('SET_INFLIGHT_FD', encodeInflight(region), [fd.value]);
    await this.#shareMemory();
    for (const { index, driver } of this.queues) await this.startQueue(index, driver.availableIndex);
  }

  /** Whether a protocol feature has been negotiated. */
  has(feature: keyof typeof ProtocolFeature): boolean {
    return (this.protocolFeatures & ProtocolFeature[feature]) !== 0n;
  }

  /**
   * Sends a request: readable segments, and sizes of writable segments for its reply.
   * @returns the reply's bytes, as many as the daemon said it wrote.
   */
  request(queue: number, input: readonly Uint8Array[], room: readonly number[]): Promise<Uint8Array> {
    return this.queues[queue]!.request(input, room);
  }

  /**
   * Starts a queue, at first or after GET_VRING_BASE has stopped it.
   * @param base the available index to go on from.
   * @param log whether the device is to log its writes to the used ring.
   */
  async startQueue(index: number, base = 0, log = false): Promise<void> {
    const queue = this.queues[index]!;
    await this.channel.command('SET_VRING_NUM', encodeVringState(index, queue.driver.size));
    await this.channel.command('SET_VRING_BASE', encodeVringState(index, base));
    await this.setAddresses(index, log);
    await this.channel.command('SET_VRING_ERR', encodeU64(index), [queue.err.value]);
    await this.channel.command('SET_VRING_CALL', encodeU64(index), [queue.call.value]);
    await this.channel.command('SET_VRING_KICK', encodeU64(index), [queue.kick.value]);
    if ((this.features & Feature.PROTOCOL_FEATURES) !== 0n) await this.enableQueue(index, true);
  }

  /** Tells the device where a queue's ring lies. */
  setAddresses(index: number, log = false): Promise<void> {
    const { descriptors, used, available } = this.queues[index]!.driver;
    const user = (address: number) => this.memory.userAddress(address);
    const payload = encodeVringAddresses(
      index,
      user(descriptors),
      user(used),
      user(available),
      log ? used : undefined,
    );
    return this.channel.command('SET_VRING_ADDR', payload);
  }

  enableQueue(index: number, enabled: boolean): Promise<void> {
    return this.channel.command('SET_VRING_ENABLE', encodeVringState(index, enabled ? 1 : 0));
  }

  /** Ends the connection and gives everything back. Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.channel.end('the front-end was closed');
    for (const queue of this.queues) queue.close();
    this.#inflight?.fd.close();
    this.memory.close();
  }

  #open(connection: UnixConnection): { channel: FrontEndChannel; ended: Promise<FrontEndError> } {
    let end: (error: FrontEndError) => void;
    const ended = new Promise<FrontEndError>((resolve) => {
      end = resolve;
    });
    const channel = new FrontEndChannel(connection, (error) => {
      const waits = this.#inflight !== undefined && !this.#isClosed;
      if (!waits) for (const queue of this.queues) queue.fail(error);
      end(error);
    });
    return { channel, ended };
  }

  async #askForInflight(): Promise<void> {
    const wanted = { size: 0, offset: 0, queues: this.queues.length, queueSize: this.#ring().size };
    const { payload, fds } = await this.channel.exchange('GET_INFLIGHT_FD', encodeInflight(wanted));
    const [fd] = fds;
    if (fd === undefined || fds.length > 1 || payload.length < 20) {
      for (const one of fds) one.close();
      throw new FrontEndError('the daemon gave no in-flight region');
    }
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.#inflight = { fd, region: decodeInflight('GET_INFLIGHT_FD', view) };
    await this.channel.command('SET_INFLIGHT_FD', encodeInflight(this.#inflight.region), [fd.value]);
  }

  async #negotiate(): Promise<void> {
    const { channel } = this;
    const { eventIdx, indirect } = this.#ring();
    channel.send('SET_OWNER', EMPTY);
    const offered = u64(await channel.call('GET_FEATURES', EMPTY));
    if ((offered & Feature.VERSION_1) === 0n) throw new FrontEndError('the daemon does not offer VERSION_1');
    if (indirect > 0 && (offered & Feature.RING_INDIRECT_DESC) === 0n) {
      throw new FrontEndError('the daemon does not offer RING_INDIRECT_DESC');
    }
    if (eventIdx && (offered & Feature.RING_EVENT_IDX) === 0n) {
      throw new FrontEndError('the daemon does not offer RING_EVENT_IDX');
    }
    this.features =
      Feature.VERSION_1 |
      (offered & Feature.PROTOCOL_FEATURES) |
      (eventIdx ? Feature.RING_EVENT_IDX : 0n) |
      (indirect > 0 ? Feature.RING_INDIRECT_DESC : 0n);
    if ((offered & Feature.PROTOCOL_FEATURES) !== 0n) {
      this.protocolFeatures = u64(await channel.call('GET_PROTOCOL_FEATURES', EMPTY)) & this.#wantedFeatures;
      channel.send('SET_PROTOCOL_FEATURES', encodeU64(this.protocolFeatures));
      channel.acknowledged = this.has('REPLY_ACK');
    }
    if (this.has('MQ')) this.#offeredQueues = Number(u64(await channel.call('GET_QUEUE_NUM', EMPTY)));
    await channel.command('SET_FEATURES', encodeU64(this.features));
  }

  get #wantedFeatures(): bigint {
    return WANTED_PROTOCOL_FEATURES | (this.#options.inflight === true ? ProtocolFeature.INFLIGHT_SHMFD : 0n);
  }

  #ring(): Required<DriverQueueOptions> {
    const { queueSize = 128, indirect = 0, eventIdx = true } = this.#options;
    return { size: queueSize, indirect, eventIdx };
  }

  #makeQueues(): FrontEndQueue[] {
    const length = Math.min(this.#offeredQueues, 1 + (this.#options.requestQueues ?? 1));
    if (length < 2) throw new FrontEndError('the daemon has no request queue');
    return Array.from({ length }, (_, index) => new FrontEndQueue(index, this.memory, this.#ring()));
  }

  #shareMemory(): Promise<void> {
    const { region, fd } = this.memory;
    if (this.#options.memorySlots === true && this.has('CONFIGURE_MEM_SLOTS')) {
      return this.channel.command('ADD_MEM_REG', encodeSingleRegion(region), [fd]);
    }
    return this.channel.command('SET_MEM_TABLE', encodeMemoryTable([region]), [fd]);
  }
}

function u64(reply: Uint8Array): bigint {
  if (reply.length !== 8) throw new FrontEndError(`the daemon replied ${reply.length} bytes, not 8`);
  return new DataView(reply.buffer, reply.byteOffset).getBigUint64(0, true);
}
