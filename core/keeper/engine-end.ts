import { fstatSync, readSync, writeSync } from 'node:fs';
import { type Fd, memfd, OwnedFd, UnixConnection } from '../system/index.js';
import { ControlConnection, kept } from './control.js';
import { Stash } from './held-descriptors.js';
import { type Connection, type EngineMessage, keeperMessage, type KeeperMessage } from './messages.js';

/** What an engine begins with: nothing, or what the one before it has handed over. */
export interface Beginning {
  /** The saved state of each export; empty for a first start. */
  readonly states: readonly Uint8Array[];
  readonly connections: readonly Connection[];
  /** In their place: memory in which an engine that was killed kept the sessions of each export. */
  readonly journals: readonly OwnedFd[];
  /** Over which descriptors are handed to the keeper. */
  readonly stash: Stash;
  /** Open files that the states refer to. */
  readonly held: {
    at(index: number): number;
    take(index: number): number;
  };
  /** To be called when all is restored: closes the descriptors that nobody took. */
  close(): void;
}

/** What an engine goes on with that serves. */
export interface KeptState {
  /** Memory in which the sessions of each export are kept. */
  readonly journals: readonly OwnedFd[];
  /** Ids of the connections whose sessions it has. */
  readonly connections: readonly number[];
  /** Numbers of the descriptors that are to be held further on. */
  readonly held: readonly number[];
  /** Of each export: whether its backend has no way to change anything. */
  readonly readOnly: readonly boolean[];
}

/** What an engine hands over. */
export interface HandedOver {
  readonly states: readonly Uint8Array[];
  readonly held: readonly OwnedFd[];
  readonly connections: readonly Connection[];
}

/** A front-end's connection that the keeper gives to the engine. */
export interface GivenConnection {
  readonly id: number;
  readonly socket: number;
  readonly connection: UnixConnection;
}

/** A mount of this host that the keeper holds. */
export interface GivenMount {
  readonly id: number;
  readonly socket: number;
  /** Its open `/dev/fuse`. */
  readonly device: OwnedFd;
  /** Memory for its requests. */
  readonly requests: OwnedFd;
}

/** What the engine does for its keeper. */
export interface EngineService {
  connect(given: GivenConnection): void;
  mount(given: GivenMount): void;
  /** Stops and saves; everything is closed when it resolves. */
  handOver(): Promise<HandedOver>;
}

/** The keeper has ended, or does not need this process. */
export class KeeperGone extends Error {
  override readonly name = 'KeeperGone';
}

/** The engine's end of the connection to its keeper. */
export class KeptEngine {
  /** Resolves when the keeper is gone, or has got everything. The engine then ends. */
  readonly over: Promise<void>;
  readonly #control: ControlConnection;
  readonly #begun: Promise<Beginning>;
  readonly #early: ((service: EngineService) => void)[] = [];
  #begin!: (beginning: Beginning) => void;
  #service: EngineService | undefined;
  #end!: () => void;

  /** @param fd as `keeperDescriptor` gives it. */
  constructor(fd: number) {
    this.over = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    this.#control = new ControlConnection(UnixConnection.adopt(fd as Fd), {
      onMessage: (message, fds) => this.#receive(keeperMessage.parse(message), fds),
      onEnd: () => this.#end(),
    });
  }

  /**
   * Tells the keeper that the program is loaded, and waits for its turn.
   * @throws KeeperGone if that never comes.
   */
  async begin(): Promise<Beginning> {
    await this.#say({ type: 'waiting' });
    const gone = this.over.then(() => {
      throw new KeeperGone('the keeper has gone');
    });
    return Promise.race([this.#begun, gone]);
  }

  /** Takes connections from here on. */
  async serve(service: EngineService, state: KeptState): Promise<void> {
    this.#service = service;
    for (const give of this.#early.splice(0)) give(service);
    const { journals, connections, held, readOnly } = state;
    const fds = journals.map((fd) => fd.value);
    const told = { connections: [...connections], held: [...held], readOnly: [...readOnly] };
    await this.#say({ type: 'serving', ...told }, fds);
  }

  /** Tells that a mount is served from here on, before its first request is. */
  begun(id: number): Promise<void> {
    return this.#say({ type: 'begun', id });
  }

  /** Tells that a mount is no more. */
  unmounted(id: number): void {
    void this.#say({ type: 'unmounted', id });
  }

  /**
   * This process was asked to end. The keeper has another one take its place, if that can be, and
   * then ends this one.
   */
  leave(): void {
    if (this.#service === undefined) this.end();
    else void this.#say({ type: 'leaving' });
  }

  /** Ends the connection to the keeper. Idempotent. */
  end(): void {
    this.#control.end();
  }

  #receive(message: KeeperMessage, fds: readonly OwnedFd[]): void {
    switch (message.type) {
      case 'begin':
        this.#begin(
          beginningOf(
            fds.map((fd) => kept(fd)),
            message,
          ),
        );
        return;
      case 'connection': {
        const { id, socket } = message;
        const connection = UnixConnection.adopt(fds[0]!.take());
        this.#give((service) => service.connect({ id, socket, connection }));
        return;
      }
      case 'mount': {
        const { id, socket } = message;
        const [device, requests] = [kept(fds[0]!), kept(fds[1]!)];
        this.#give((service) => service.mount({ id, socket, device, requests }));
        return;
      }
      case 'handOver':
        void this.#handOver();
    }
  }

  #give(give: (service: EngineService) => void): void {
    if (this.#service === undefined) this.#early.push(give);
    else give(this.#service);
  }

  async #handOver(): Promise<void> {
    let all: HandedOver;
    try {
      all = await this.#service!.handOver();
    } catch (error) {
      await this.#say({ type: 'refused', reason: (error as Error).message });
      return;
    }
    const states = all.states.map((state) => memfdOf(state));
    const fds = [...states, ...all.held].map((fd) => fd.value);
    await this.#say({ type: 'handedOver', exports: states.length, connections: [...all.connections] }, fds);
    for (const fd of [...states, ...all.held]) fd.close();
    this.end();
  }

  #say(message: EngineMessage, fds: readonly Fd[] = []): Promise<void> {
    return this.#control.send(message, fds);
  }
}

function beginningOf(
  [stash, ...fds]: readonly OwnedFd[],
  { exports, journals, connections, lastHeld }: Extract<KeeperMessage, { type: 'begin' }>,
): Beginning {
  const states = fds.slice(0, exports).map((fd) => contentOf(fd));
  const held = fds.slice(exports + journals);
  return {
    states,
    connections,
    journals: fds.slice(exports, exports + journals),
    stash: new Stash(UnixConnection.adopt(stash!.take()), lastHeld, held.length),
    held: {
      at: (index) => held[index]?.value ?? -1,
      take: (index) => held[index]?.take() ?? -1,
    },
    close() {
      for (const fd of fds) fd.close();
    },
  };
}

function memfdOf(bytes: Uint8Array): OwnedFd {
  const fd = memfd('virtiofs-kit state', bytes.length);
  for (let at = 0; at < bytes.length;) at += writeSync(fd.value, bytes, at, bytes.length - at, at);
  return fd;
}

function contentOf({ value: fd }: OwnedFd): Uint8Array {
  const bytes = new Uint8Array(fstatSync(fd).size);
  for (let at = 0; at < bytes.length;) {
    const count = readSync(fd, bytes, at, bytes.length - at, at);
    if (count === 0) throw new RangeError('a saved state is cut short');
    at += count;
  }
  return bytes;
}
