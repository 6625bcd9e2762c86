import { spawn, type ChildProcess } from 'node:child_process';
import { type Fd, type Log, type OwnedFd, UnixConnection } from '../system/index.js';
import { ControlConnection, kept } from './control.js';
import {
  type Connection,
  type EngineMessage,
  engineMessage,
  type HandedOverMessage,
  type KeeperMessage,
} from './messages.js';

/** Environment variable that tells an engine the descriptor of its control connection. */
export const KEEPER_VARIABLE = 'VIRTIOFS_KIT_KEEPER';

/** The control connection's descriptor in an engine, after standard input, output and error. */
const CONTROL_FD = 3;

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

/** A process that serves guests, or waits for its turn. */
export class EngineProcess {
  /** Rejects if the process ends before. */
  readonly waiting: Promise<void>;
  readonly serving: Promise<void>;
  /** Resolves with the reason when the process has ended. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #control: ControlConnection;
  readonly #heard = new Map<EngineMessage['type'], () => void>();
  #handOver: { resolve(state: State): void; reject(error: Error): void } | undefined;
  #hasEnded = false;

  /** @param command program and arguments. */
  constructor([program, ...words]: readonly string[], log: Log) {
    const [ours, theirs] = UnixConnection.pair();
    this.#child = spawn(program!, words, {
      stdio: ['ignore', 'inherit', 'inherit', theirs.fd],
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
    const hear = (type: EngineMessage['type']): Promise<void> =>
      new Promise((resolve, reject) => {
        this.#heard.set(type, resolve);
        void this.ended.then((reason) => reject(new Error(`it ended: ${reason}`)));
      });
    this.waiting = hear('waiting');
    this.serving = hear('serving');
    // Whoever does not wait for these is told by `ended`.
    this.waiting.catch(() => undefined);
    this.serving.catch(() => undefined);
    this.#control = new ControlConnection(ours, {
      onMessage: (message, fds) => this.#receive(message, fds),
      onEnd: () => {
        // An engine that does not keep to the form, or is ending.
        if (!this.#hasEnded) log.debug({ pid: this.pid }, 'the control connection to an engine has ended');
      },
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Has it mount its backends, with a former engine's state if there is one. */
  async begin(state: State | undefined): Promise<void> {
    const fds = [...(state?.states ?? []), ...(state?.held ?? [])].map((fd) => fd.value);
    const connections = [...(state?.connections ?? [])];
    await this.#say({ type: 'begin', exports: state?.states.length ?? 0, connections }, fds);
    await this.serving;
  }

  /** Gives it a front-end's connection. */
  async connect(id: number, socket: number): Promise<UnixConnection> {
    const [ours, theirs] = UnixConnection.pair();
    await this.#say({ type: 'connection', id, socket }, [theirs.fd]);
    theirs.close();
    return ours;
  }

  /** Has it stop and save. @throws Error if it does not; it serves on then, or has ended. */
  handOver(): Promise<State> {
    return new Promise((resolve, reject) => {
      this.#handOver = { resolve, reject };
      void this.#say({ type: 'handOver' });
    });
  }

  /** Ends it in order, or by force if that takes too long. */
  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#child.kill('SIGTERM');
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
    else this.#heard.get(message.type)!();
  }
}
