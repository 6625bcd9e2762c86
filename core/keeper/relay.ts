import type { Log, OwnedFd, UnixConnection } from '../system/index.js';
import { Channel, ChannelError, type ChannelReceiver, type RawMessage } from '../vhost-user/channel.js';
import { type FrontEndChannel, FrontEndError, type FrontEndReply } from '../vhost-user/front-end-channel.js';
import {
  encodeInflight,
  encodeMessage,
  encodeU64,
  hasReply,
  HeaderFlags,
  ProtocolError,
  ProtocolFeature,
  Request,
  requestName,
  type RequestName,
} from '../vhost-user/messages.js';
import { kept } from './control.js';
import { isAnswered, type Said, Setup } from './setup.js';

/** Entries of the largest ring that the in-flight region has room for, unless a ring has more. */
const INFLIGHT_QUEUE_SIZE = 1024;

const EMPTY = new Uint8Array(0);

/** An engine does not have what was agreed with the front-end. It cannot take its place. */
export class OffersLess extends Error {
  override readonly name = 'OffersLess';
}

/**
 * One front-end. Its messages go to the engine one at a time; what they set is noted, to be said
 * again to the next engine. Between two engines messages wait.
 */
export class Relay implements ChannelReceiver {
  readonly id: number;
  /** Number of the socket at which it connected. */
  readonly socket: number;
  readonly setup = new Setup();
  readonly #log: Log;
  readonly #channel: Channel;
  readonly #onEnd: (relay: Relay) => void;
  #engine: FrontEndChannel | undefined;
  /** Resolves {@link #attached} waits. */
  readonly #waiting: (() => void)[] = [];
  #held = false;
  #busy: Promise<void> | undefined;
  /** Protocol features that the engine offers. */
  #offered = 0n;
  #ended = false;

  /** @param onEnd called once, when the front-end has gone. */
  constructor(
    connection: UnixConnection,
    id: number,
    socket: number,
    log: Log,
    onEnd: (relay: Relay) => void,
  ) {
    this.id = id;
    this.socket = socket;
    this.#log = log;
    this.#onEnd = onEnd;
    this.#channel = new Channel(connection, this);
  }

  /** Whether a queue was started: a guest may have a session, which must not be lost. */
  get isStarted(): boolean {
    return this.setup.hasKicks;
  }

  onMessage({ header, payload, fds }: RawMessage): Promise<void> {
    const said: Said = { request: header.request, payload, fds: fds.map((fd) => kept(fd)) };
    const forwarding = this.#forward(said, header.needReply, isAnswered(header, payload, this.setup));
    this.#busy = forwarding.catch((error: unknown) => {
      closeAll(said.fds);
      throw error;
    });
    return this.#busy;
  }

  onEnd(error: Error | undefined): void {
    this.#ended = true;
    if (error instanceof ProtocolError || error instanceof ChannelError)
      this.#log.warn({ reason: error.message }, 'the connection to the front-end was closed');
    else if (error !== undefined)
      this.#log.error({ err: error }, 'the connection to the front-end was closed after an error');
    this.#engine?.end('the front-end has gone');
    this.#wake();
    this.setup.close();
    this.#onEnd(this);
  }

  /** Closes the connection to the front-end. Idempotent. */
  end(): void {
    this.#channel.end();
  }

  /**
   * Sends no further message to the engine, until {@link attach}. Resolves when none is under way.
   */
  async hold(): Promise<void> {
    this.#held = true;
    await this.#busy?.catch(() => undefined);
  }

  /** Goes on with the engine that it has, after {@link hold}. */
  goOn(): void {
    this.#held = false;
    this.#wake();
  }

  /** The engine is gone. */
  detach(): void {
    const engine = this.#engine;
    this.#engine = undefined;
    engine?.end('the engine has ended');
  }

  /**
   * Goes on with an engine, which is told what was set so far, after {@link check}.
   * @throws OffersLess if it refuses something; FrontEndError if it has gone.
   */
  async attach(engine: FrontEndChannel): Promise<void> {
    // On a busy machine each answer that is waited for takes both processes' turns.
    if (!this.setup.isEmpty)
      for (const part of this.setup.replay()) await Promise.all(part.map((said) => this.#say(engine, said)));
    this.#engine = engine;
    this.goOn();
  }

  async #attached(): Promise<FrontEndChannel> {
    while (!this.#ended && (this.#engine === undefined || this.#held))
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    if (this.#ended) throw new FrontEndError('the front-end has gone');
    return this.#engine!;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Sends one message to the engine, or to the next one if that ends before it has answered. */
  async #forward(given: Said, needReply: boolean, answered: boolean): Promise<void> {
    for (;;) {
      const engine = await this.#attached();
      try {
        const said = this.#withInflight(given);
        if (said.request === Request.SET_VRING_KICK) await this.#trackInflight(engine);
        if (answered) {
          this.#answer(said, needReply, await exchange(engine, said, needReply));
        } else {
          send(engine, said, needReply);
          this.setup.note(said);
        }
        return;
      } catch (error) {
        if (!(error instanceof FrontEndError)) throw error;
        if (this.#engine === engine) this.#engine = undefined;
      }
    }
  }

  /** Passes an answer on, and notes what it says. */
  #answer(said: Said, needReply: boolean, { payload, fds }: FrontEndReply): void {
    const { request } = said;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const isAck = needReply && !hasReply(request);
    if (request === Request.GET_VRING_BASE && payload.length === 8)
      this.setup.stopped(view.getUint32(0, true), view.getUint32(4, true));
    if (request === Request.GET_PROTOCOL_FEATURES && payload.length === 8)
      this.#offered = view.getBigUint64(0, true);
    // A message that the engine refuses has no effect.
    if (isAck && payload.some((byte) => byte !== 0)) for (const fd of said.fds) fd.close();
    else this.setup.note(said);
    this.#channel.send(
      encodeMessage(request, HeaderFlags.REPLY, payload),
      fds.map((fd) => fd.value),
    );
    for (const fd of fds) fd.close();
  }

  /** The engine's in-flight region is the keeper's, whether the front-end knows of it or not. */
  #withInflight(said: Said): Said {
    if (said.request !== Request.SET_PROTOCOL_FEATURES || said.payload.length !== 8) return said;
    const wanted = new DataView(said.payload.buffer, said.payload.byteOffset).getBigUint64(0, true);
    return { ...said, payload: encodeU64(wanted | (this.#offered & ProtocolFeature.INFLIGHT_SHMFD)) };
  }

  /** Before the first queue starts: has the engine make an in-flight region, and keeps it. */
  async #trackInflight(engine: FrontEndChannel): Promise<void> {
    if (this.setup.hasInflight || !this.setup.has('INFLIGHT_SHMFD')) return;
    const count = await ask(engine, 'GET_QUEUE_NUM');
    const geometry = {
      size: 0,
      offset: 0,
      queues: Number(count),
      queueSize: Math.max(INFLIGHT_QUEUE_SIZE, this.setup.largestRing),
    };
    const { payload, fds } = await engine.exchange('GET_INFLIGHT_FD', encodeInflight(geometry));
    if (fds.length !== 1) {
      closeAll(fds);
      throw new OffersLess('the engine makes no in-flight region');
    }
    await this.#say(engine, { request: Request.SET_INFLIGHT_FD, payload, fds });
    this.setup.note({ request: Request.SET_INFLIGHT_FD, payload, fds });
  }

  /**
   * Looks whether an engine has what was agreed with the front-end.
   * @throws OffersLess if not; FrontEndError if it has gone.
   */
  async check(engine: FrontEndChannel): Promise<void> {
    const { setup } = this;
    if (setup.isEmpty) return;
    // CONFIG is offered to those only who say this first.
    engine.send(Request.SET_OWNER, EMPTY, [], 0);
    const [offered, offeredProtocol, queues] = await Promise.all([
      ask(engine, 'GET_FEATURES'),
      ask(engine, 'GET_PROTOCOL_FEATURES'),
      ask(engine, 'GET_QUEUE_NUM'),
    ]);
    const features = setup.features & ~offered;
    if (features !== 0n) throw new OffersLess(`it does not offer feature bits 0x${features.toString(16)}`);
    const protocol = setup.protocolFeatures & ~offeredProtocol;
    if (protocol !== 0n)
      throw new OffersLess(`it does not offer protocol feature bits 0x${protocol.toString(16)}`);
    if (queues < setup.rings) throw new OffersLess(`it has ${queues} queues, not ${setup.rings}`);
  }

  /** Says something of the keeper's own. @throws OffersLess if the engine refuses it. */
  async #say(engine: FrontEndChannel, said: Said): Promise<void> {
    const { request } = said;
    const early = request === Request.SET_OWNER || request === Request.SET_PROTOCOL_FEATURES;
    if (!hasReply(request) && (early || !this.setup.has('REPLY_ACK'))) {
      send(engine, said, false);
      return;
    }
    const { payload, fds } = await exchange(engine, said, !hasReply(request));
    closeAll(fds);
    if (!hasReply(request) && payload.some((byte) => byte !== 0))
      throw new OffersLess(`it refuses ${requestName(request)}`);
  }
}

function send(engine: FrontEndChannel, said: Said, needReply: boolean): void {
  const fds = said.fds.map((fd) => fd.value);
  engine.send(said.request, said.payload, fds, needReply ? HeaderFlags.NEED_REPLY : 0);
}

function exchange(engine: FrontEndChannel, said: Said, needReply: boolean): Promise<FrontEndReply> {
  const fds = said.fds.map((fd) => fd.value);
  return engine.exchange(said.request, said.payload, fds, needReply ? HeaderFlags.NEED_REPLY : 0);
}

/** Asks the engine for a number. */
async function ask(engine: FrontEndChannel, name: RequestName): Promise<bigint> {
  const payload = await engine.call(name, EMPTY);
  if (payload.length !== 8) throw engine.end(`the engine answered ${name} wrongly`);
  return new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true);
}

function closeAll(fds: readonly OwnedFd[]): void {
  for (const fd of fds) fd.close();
}
