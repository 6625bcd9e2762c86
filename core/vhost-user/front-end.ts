import { UnixConnection } from '../system/index.js';
import { DriverQueue, type DriverQueueOptions } from '../virtqueue/index.js';
import { FrontEndChannel, FrontEndError } from './front-end-channel.js';
import { FrontEndQueue } from './front-end-queue.js';
import {
  encodeMemoryTable,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  Feature,
  ProtocolFeature,
} from './messages.js';
import { SharedMemory } from './front-end-memory.js';
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
  /** Bytes of memory for requests, up to 1 GiB. Default 16 MiB. */
  readonly memory?: number | undefined;
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
 * The driver side. It connects to any vhost-user virtio-fs daemon and sets its queues up, so that
 * this process can drive them without a guest. Every promise rejects with a {@link FrontEndError}
 * when the daemon goes away.
 */
export class FrontEnd {
  channel!: FrontEndChannel;
  readonly memory: SharedMemory;
  /** Queue 0 is hiprio. The request queues have the indices from 1 on. */
  queues: readonly FrontEndQueue[] = [];
  /**
   * Process id of the daemon, which listened on the socket. 0 if it has no id in this PID
   * namespace.
   */
  daemon!: number;
  /** The negotiated feature bits. */
  features = 0n;
  /** The negotiated protocol feature bits. */
  protocolFeatures = 0n;
  /** Resolves with the reason when the connection is over. */
  ended!: Promise<FrontEndError>;
  readonly #options: FrontEndOptions;
  /**
   * Queues of the daemon, hiprio included. Without MQ there are two, which every virtio-fs device
   * has.
   */
  #offeredQueues = 2;

  /** @param target as for {@link connect}. @throws SystemError if nobody listens there. */
  protected constructor(target: string | UnixConnection, options: FrontEndOptions) {
    this.#options = options;
    this.open(target);
    const { requestQueues = 1, memory = 16 * 2 ** 20 } = options;
    this.memory = new SharedMemory(memory + (1 + requestQueues) * (4096 + DriverQueue.bytes(this.#ring())));
  }

  /**
   * Connects, negotiates, shares memory and starts all queues.
   * @param target path of the daemon's socket, or a connection to it.
   * @throws SystemError if nobody listens there, FrontEndError if the daemon refuses something.
   */
  static async connect(target: string | UnixConnection, options: FrontEndOptions = {}): Promise<FrontEnd> {
    return new FrontEnd(target, options).setUp();
  }

  /** Opens a connection to a daemon. @throws SystemError if nobody listens there. */
  protected open(target: string | UnixConnection): void {
    const connection = typeof target === 'string' ? UnixConnection.connect(target) : target;
    this.ended = new Promise((resolve) => {
      this.channel = new FrontEndChannel(connection, resolve);
    });
    this.daemon = peerProcess(connection.fd);
  }

  /**
   * Negotiates, shares memory and starts all queues.
   * @throws FrontEndError if the daemon refuses something. Everything is closed then.
   */
  protected async setUp(): Promise<this> {
    try {
      await this.negotiate();
      this.queues = this.#makeQueues();
      await this.shareMemory();
      for (const { index } of this.queues) await this.startQueue(index);
      return this;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Whether a protocol feature has been negotiated. */
  has(feature: keyof typeof ProtocolFeature): boolean {
    return (this.protocolFeatures & ProtocolFeature[feature]) !== 0n;
  }

  /**
   * Starts a queue, at first or after GET_VRING_BASE has stopped it.
   * @param base the available index to go on from. Default: where the driver is.
   * @param log whether the device is to log its writes to the used ring.
   */
  async startQueue(index: number, base?: number, log = false): Promise<void> {
    const queue = this.queues[index]!;
    const from = base ?? queue.driver.availableIndex;
    await this.channel.command('SET_VRING_NUM', encodeVringState(index, queue.driver.size));
    await this.channel.command('SET_VRING_BASE', encodeVringState(index, from));
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
    this.channel.end('the front-end was closed');
    for (const queue of this.queues) queue.close();
    this.memory.close();
  }

  /** Agrees with the daemon on features, and learns how many queues it has. */
  protected async negotiate(): Promise<void> {
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
      this.protocolFeatures =
        u64(await channel.call('GET_PROTOCOL_FEATURES', EMPTY)) & this.wantedProtocolFeatures;
      channel.send('SET_PROTOCOL_FEATURES', encodeU64(this.protocolFeatures));
      channel.acknowledged = this.has('REPLY_ACK');
    }
    if (this.has('MQ')) this.#offeredQueues = Number(u64(await channel.call('GET_QUEUE_NUM', EMPTY)));
    await channel.command('SET_FEATURES', encodeU64(this.features));
  }

  /** Protocol features that are taken where the daemon offers them. */
  protected get wantedProtocolFeatures(): bigint {
    return WANTED_PROTOCOL_FEATURES;
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

  /** Tells the daemon of the memory. */
  protected shareMemory(): Promise<void> {
    const { region, fd } = this.memory;
    return this.channel.command('SET_MEM_TABLE', encodeMemoryTable([region]), [fd]);
  }
}

function u64(reply: Uint8Array): bigint {
  if (reply.length !== 8) throw new FrontEndError(`the daemon replied ${reply.length} bytes, not 8`);
  return new DataView(reply.buffer, reply.byteOffset).getBigUint64(0, true);
}
