import { spawn, type ChildProcess } from 'node:child_process';
import { type Fd, type Log, type OwnedFd, UnixConnection } from '../system/index.js';
import { ControlConnection, kept } from './control.js';
import { KEEPER_VARIABLE } from './inherited.js';
import {
  type Connection,
  engineMessage,
  type HandedOverMessage,
  type KeeperMessage,
  type ServingMessage,
} from './messages.js';

/** The control connection's descriptor in an engine, after standard input, output and error. */
const CONTROL_FD = 3;

/** The first descriptor in an engine that is inherited beyond that. */
export const FIRST_INHERITED = CONTROL_FD + 1;

/** How an engine is started. */
export interface EngineCommand {
  /** Program and arguments. */
  readonly command: readonly string[];
  /** Descriptors that it has from {@link FIRST_INHERITED} on. */
  readonly inherited: readonly Fd[];
}

/** How long an engine may take to end after it was asked to. */
const END_TIMEOUT_MS = 30_000;

/** What an engine has handed over, to be given to the next one. */
export class State {
  readonly states: readonly OwnedFd[];
  readonly held: readonly OwnedFd[];
  readonly connections: readonly Connection[];

  constructor({ exports, connections }: HandedOverMessage, fds: readonly OwnedFd[]) {
    const all = fds.map((fd) => kept(fd));
    this.states = all.slice(0, exports);
    this.held = all.slice(exports);
    this.connections = connections;
  }

  close(): void {
    for (const fd of [...this.states, ...this.held]) fd.close();
  }
}

/** What an engine that serves has told. */
export interface Serving {
  /** Memory in which it keeps the sessions of each export, for the next one if it is killed. */
  readonly journals: readonly OwnedFd[];
  readonly connections: ReadonlySet<number>;
  readonly held: readonly number[];
  readonly readOnly: readonly boolean[];
}

/** The engine's end of the connection for descriptors, and the highest number that is taken. */
export interface OwnedStash {
  readonly connection: UnixConnection;
  readonly last: number;
}

/** A process that serves guests, or waits for its turn. */
export class EngineProcess {
  /** Rejects if the process ends before. */
  readonly waiting: Promise<void>;
  readonly serving: Promise<Serving>;
  /** Resolves with the reason when the process has ended. */
  readonly ended: Promise<string>;
  /** Called when somebody else has asked it to end. */
  onLeaving: (() => void) | undefined;
  /** Called when it has begun to serve a mount, and when that was unmounted. */
  onMount: ((id: number, what: 'begun' | 'unmounted') => void) | undefined;
  readonly #child: ChildProcess;
  readonly #control: ControlConnection;
  #isWaiting!: () => void;
  #isServing!: (serving: Serving) => void;
  #handOver: { resolve(state: State): void; reject(error: Error): void } | undefined;
  #hasBegun = false;
  #hasEnded = false;
  #isCutOff = false;

  constructor({ command: [program, ...words], inherited }: EngineCommand, log: Log) {
    const [ours, theirs] = UnixConnection.pair();
    this.#child = spawn(program!, words, {
      stdio: ['ignore', 'inherit', 'inherit', theirs.fd, ...inherited],
      env: { ...process.env, [KEEPER_VARIABLE]: `${CONTROL_FD}` },
    });
    theirs.close();
    this.ended = new Promise((resolve) => {
      const end = (reason: string): void => {
        this.#hasEnded = true;
        this.#control.end();
        this.#handOver?.reject(new Error(`it ended: ${reason}`));
        resolve(reason);
      };
      this.#child.once('exit', (code, signal) => end(signal ?? `exit code ${code}`));
      this.#child.once('error', (error) => end(error.message));
    });
    const hear = <T>(set: (resolve: (value: T) => void) => void): Promise<T> =>
      new Promise((resolve, reject) => {
        set(resolve);
        void this.ended.then((reason) => reject(new Error(`it ended: ${reason}`)));
      });
    this.waiting = hear<void>((resolve) => (this.#isWaiting = resolve));
    this.serving = hear<Serving>((resolve) => (this.#isServing = resolve));
    // Whoever does not wait for these is told by `ended`.
    this.waiting.catch(() => undefined);
    this.serving.catch(() => undefined);
    this.#control = new ControlConnection(ours, {
      onMessage: (message, fds) => this.#receive(message, fds),
      onEnd: () => {
        // An engine that does not keep to the form, or is ending.
        if (this.#hasEnded) return;
        this.#isCutOff = true;
        log.debug({ pid: this.pid }, 'the control connection to an engine has ended');
        const timer = setTimeout(() => this.#child.kill('SIGKILL'), END_TIMEOUT_MS);
        void this.ended.then(() => clearTimeout(timer));
      },
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Whether it has ended, or is about to: a killed process closes its connections first. */
  get isEnding(): boolean {
    return this.#hasEnded || this.#isCutOff;
  }

  /**
   * Has it mount its backends.
   * @param state what a former engine has handed over.
   * @param journals what one has left that was killed.
   * @param stash over which it hands descriptors over.
   */
  async begin(state: State | undefined, journals: readonly OwnedFd[], stash: OwnedStash): Promise<Serving> {
    this.#hasBegun = true;
    const left = state === undefined ? journals : [...state.states, ...state.held];
    const message: KeeperMessage = {
      type: 'begin',
      exports: state?.states.length ?? 0,
      journals: state === undefined ? journals.length : 0,
      connections: [...(state?.connections ?? [])],
      lastHeld: stash.last,
    };
    await this.#say(message, [stash.connection.fd, ...left.map((fd) => fd.value)]);
    stash.connection.close();
    return this.serving;
  }

  /** Gives it a front-end's connection. */
  async connect(id: number, socket: number): Promise<UnixConnection> {
    const [ours, theirs] = UnixConnection.pair();
    await this.#say({ type: 'connection', id, socket }, [theirs.fd]);
    theirs.close();
    return ours;
  }

  /** Gives it a mount: the open device, and memory for requests. */
  async mount(id: number, socket: number, fds: readonly OwnedFd[]): Promise<void> {
    const message = { type: 'mount', id, socket } as const;
    await this.#say(
      message,
      fds.map((fd) => fd.value),
    );
  }

  /** Has it stop and save. @throws Error if it does not; it serves on then, or has ended. */
  handOver(): Promise<State> {
    if (this.#hasEnded) return Promise.reject(new Error('it has ended'));
    return new Promise((resolve, reject) => {
      this.#handOver = { resolve, reject };
      void this.#say({ type: 'handOver' });
    });
  }

  /** Ends it in order, or by force if that takes too long. */
  async end(): Promise<void> {
    if (this.#hasEnded) return;
    // One that has not begun has nothing to put in order.
    if (this.#hasBegun) this.#control.end();
    else this.#child.kill('SIGKILL');
    const force = setTimeout(() => this.#child.kill('SIGKILL'), END_TIMEOUT_MS);
    await this.ended;
    clearTimeout(force);
  }

  #say(message: KeeperMessage, fds: readonly Fd[] = []): Promise<void> {
    return this.#control.send(message, fds);
  }

  #receive(given: unknown, fds: readonly OwnedFd[]): void {
    const message = engineMessage.parse(given);
    if (message.type === 'handedOver') this.#handOver?.resolve(new State(message, fds));
    else if (message.type === 'refused') this.#handOver?.reject(new Error(message.reason));
    else if (message.type === 'leaving') this.onLeaving?.();
    else if (message.type === 'begun' || message.type === 'unmounted')
      this.onMount?.(message.id, message.type);
    else if (message.type === 'serving') this.#isServing(servingOf(message, fds));
    else this.#isWaiting();
  }
}

function servingOf({ connections, held, readOnly }: ServingMessage, fds: readonly OwnedFd[]): Serving {
  return { journals: fds.map((fd) => kept(fd)), connections: new Set(connections), held, readOnly };
}
