import { setTimeout as sleep } from 'node:timers/promises';
import { UnixConnection } from '../../core/system/index.js';
import { FrontEndError, FrontEndQueue } from '../../core/vhost-user/index.js';
import {
  encodeInflight,
  encodeMemoryTable,
  encodeU64,
  encodeVringState,
  Feature,
  HeaderFlags,
  ProtocolFeature,
  type RequestName,
} from '../../core/vhost-user/messages.js';
import { FrontEnd, type FrontEndOptions } from './front-end.js';
import { loadState, makeSocketPair, saveState, stopQueues } from './migration.js';
import { encodeSingleRegion } from './payloads.js';

/** Features that Cloud Hypervisor and a Linux guest have in common with this daemon. */
const FEATURES =
  Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX | Feature.PROTOCOL_FEATURES;

const PROTOCOL_FEATURES =
  ProtocolFeature.MQ |
  ProtocolFeature.LOG_SHMFD |
  ProtocolFeature.REPLY_ACK |
  ProtocolFeature.INFLIGHT_SHMFD |
  ProtocolFeature.CONFIGURE_MEM_SLOTS |
  ProtocolFeature.DEVICE_STATE;

const EMPTY = new Uint8Array(0);
const QUEUE_SIZE = 128;

/** How often, and for how long, it tries to connect. Milliseconds. */
const RETRY_MS = 100;
const CONNECT_TIMEOUT_MS = 60_000;

/** A guest's state as a snapshot has it. */
export interface Snapshot {
  readonly state: Uint8Array;
  /** Where each queue stopped. */
  readonly bases: readonly number[];
}

/**
 * Says what Cloud Hypervisor says to its vhost-user-fs device, in the same order, as of August 2026
 * (`virtio-devices/src/vhost_user`: `fs.rs`, `mod.rs` and `vu_common_ctrl.rs`). It asks for an
 * acknowledgement with each message once REPLY_ACK is agreed, sets all rings' sizes before the
 * in-flight region, and gives the state of a device by a socket.
 */
export class CloudHypervisor extends FrontEnd {
  readonly #requestQueues: number;

  private constructor(target: UnixConnection, options: FrontEndOptions) {
    super(target, options);
    this.#requestQueues = options.requestQueues ?? 1;
  }

  static override async connect(path: string, { requestQueues = 1 } = {}): Promise<CloudHypervisor> {
    const options = { requestQueues, queueSize: QUEUE_SIZE, inflight: true };
    return new CloudHypervisor(await connectInTime(path), options).setUp();
  }

  protected override async setUp(): Promise<this> {
    await this.#introduce();
    const offered = value(await this.channel.call('GET_PROTOCOL_FEATURES', EMPTY));
    this.protocolFeatures = offered & PROTOCOL_FEATURES;
    this.#agree();
    const queues = value(await this.#ask('GET_QUEUE_NUM', EMPTY));
    if (queues < 1 + this.#requestQueues) throw this.channel.end(`the daemon has ${queues} queues`);
    this.queues = Array.from(
      { length: 1 + this.#requestQueues },
      (_, index) => new FrontEndQueue(index, this.memory, { size: QUEUE_SIZE, indirect: 0, eventIdx: true }),
    );
    await this.#activate();
    return this;
  }

  /**
   * After the daemon has gone: to the same path, with the features that were agreed before, and
   * once more if that daemon goes too.
   */
  override async reconnect(path: string): Promise<void> {
    for (;;) {
      this.open(await connectInTime(path));
      this.failWithConnection();
      try {
        await this.#introduce();
        this.#agree();
        await this.#activate();
        return;
      } catch (error) {
        if (this.channel.poll()) throw error;
      }
      await sleep(RETRY_MS);
    }
  }

  /** The guest resets its device, and its driver begins anew. */
  async restartDriver(): Promise<void> {
    for (const { index } of this.queues) {
      await this.enableQueue(index, false);
      await this.#ask('GET_VRING_BASE', encodeVringState(index, 0));
    }
    this.inflight?.fd.close();
    this.inflight = undefined;
    await this.#activate();
  }

  /** One more piece of the guest's memory. */
  addMemory(): Promise<void> {
    const { region, fd } = this.memory;
    const above = { ...region, guestAddress: 2 ** 40, userAddress: 2 ** 45 };
    return this.channel.command('ADD_MEM_REG', encodeSingleRegion(above), [fd]);
  }

  async pause(): Promise<void> {
    for (const { index } of this.queues) await this.enableQueue(index, false);
  }

  async resume(): Promise<void> {
    for (const { index } of this.queues) await this.enableQueue(index, true);
  }

  /** Of a guest that is paused. */
  async snapshot(): Promise<Snapshot> {
    const bases = await stopQueues(this);
    const state = await saveState(this, makeSocketPair);
    if (state === undefined) throw new FrontEndError('the daemon gave no state');
    return { state, bases };
  }

  /** Goes on after {@link snapshot}. */
  resumeAt({ bases }: Snapshot): Promise<void> {
    return this.#activate(bases);
  }

  /** Has another daemon go on with a snapshot, before it knows of any memory. */
  async restore(path: string, { state, bases }: Snapshot): Promise<void> {
    const { channel } = this;
    this.open(await connectInTime(path));
    this.failWithConnection();
    channel.end('the guest is restored elsewhere');
    await this.#introduce();
    this.#agree();
    if (!(await loadState(this, state, makeSocketPair))) throw new FrontEndError('the state was refused');
    this.inflight?.fd.close();
    this.inflight = undefined;
    await this.#activate(bases);
  }

  async #introduce(): Promise<void> {
    this.channel.send('SET_OWNER', EMPTY);
    const offered = value(await this.channel.call('GET_FEATURES', EMPTY));
    this.features = offered & FEATURES;
  }

  #agree(): void {
    this.channel.send('SET_PROTOCOL_FEATURES', encodeU64(this.protocolFeatures));
    this.channel.acknowledged = this.has('REPLY_ACK');
  }

  async #activate(bases?: readonly number[]): Promise<void> {
    const { channel, queues, memory } = this;
    await channel.command('SET_FEATURES', encodeU64(this.features));
    await channel.command('SET_MEM_TABLE', encodeMemoryTable([memory.region]), [memory.fd]);
    for (const { index } of queues)
      await channel.command('SET_VRING_NUM', encodeVringState(index, QUEUE_SIZE));
    if (this.inflight === undefined) await this.askForInflight();
    else {
      const { region, fd } = this.inflight;
      await channel.command('SET_INFLIGHT_FD', encodeInflight(region), [fd.value]);
    }
    for (const { index, driver, call, kick } of queues) {
      await this.setAddresses(index);
      const base = bases?.[index] ?? driver.availableIndex;
      await channel.command('SET_VRING_BASE', encodeVringState(index, base));
      await channel.command('SET_VRING_CALL', encodeU64(index), [call.value]);
      await channel.command('SET_VRING_KICK', encodeU64(index), [kick.value]);
    }
    await this.resume();
  }

  /** Asks for what has a reply of its own, and, needlessly, for an acknowledgement too. */
  async #ask(name: RequestName, payload: Uint8Array): Promise<Uint8Array> {
    return (await this.channel.exchange(name, payload, [], HeaderFlags.NEED_REPLY)).payload;
  }
}

function value(reply: Uint8Array): bigint {
  return new DataView(reply.buffer, reply.byteOffset).getBigUint64(0, true);
}

/** Connects to a daemon that may not listen yet. @throws SystemError if it does not in time. */
async function connectInTime(path: string): Promise<UnixConnection> {
  for (const end = performance.now() + CONNECT_TIMEOUT_MS; ;) {
    try {
      return UnixConnection.connect(path);
    } catch (error) {
      if (performance.now() > end) throw error;
    }
    await sleep(RETRY_MS);
  }
}
