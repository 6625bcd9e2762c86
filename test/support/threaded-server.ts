import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Worker } from 'node:worker_threads';
import type { Backend } from '../../core/backend/index.js';
import { Counters, Observed, Opcode, Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import { Export, type ExportOptions } from '../../core/state/index.js';
import { QueueThreads } from '../../core/queue-threads/index.js';
import { advancePromises, drain, type Watch, watch } from '../../core/system/index.js';
import { VhostUserServer } from '../../core/vhost-user/index.js';
import { MemoryLog } from './engine.js';
import { FuseClient, type FuseTransport } from './fuse-client.js';
import { fuseTransport, LogLines, temporaryFolder } from './vhost-user.js';
import { FrontEnd, type FrontEndOptions } from './front-end.js';

/** How a {@link ThreadedServer} serves. */
export interface ThreadedOptions {
  /** Default 1. */
  readonly threads?: number;
  /** Default 2. */
  readonly requestQueues?: number;
  /** Microseconds. Default 20, as a daemon's. */
  readonly pollTime?: number;
  readonly cache?: ExportOptions['cache'];
  /** Makes what is served out of passthrough. Default: passthrough itself. */
  readonly view?: (backend: Backend) => Backend;
}

/** What threads have served without the engine's thread. */
interface DirectCounts {
  readonly reads: number;
  readonly writes: number;
  readonly getattrs: number;
  readonly lookups: number;
  /** How many of these were answered with an error. */
  readonly failures: number;
}

/**
 * Passthrough on a directory of its own, served in this process as `Daemon` does with
 * `queueThreads`. Tests can reach every part. This thread serves queue 1 of the front-end that
 * connects first; the first queue thread serves its queue 2.
 */
export class ThreadedServer {
  readonly directory: string;
  readonly socket: string;
  /** Each connection has a session, and a further one after each reset. */
  readonly sessions: Session[] = [];
  readonly log = new LogLines();
  readonly observed = new Observed();
  readonly export: Export;
  readonly server: VhostUserServer;
  /** The threads, for a test that ends one of them. */
  readonly workers: Worker[] = [];
  readonly #threads: QueueThreads;
  readonly #counted = new Map<Session, Counters>();
  #closing: Promise<void> | undefined;

  private constructor(folder: string, shared: Export, options: ThreadedOptions) {
    const { threads = 1, requestQueues = 2, pollTime = 20 } = options;
    this.directory = join(folder, 'shared');
    this.socket = join(folder, 'socket');
    this.export = shared;
    const keep = (worker: Worker): void => void this.workers.push(worker);
    process.on('worker', keep);
    this.#threads = new QueueThreads(threads, pollTime, this.log);
    setImmediate(() => process.off('worker', keep));
    this.server = VhostUserServer.start({
      socket: { path: this.socket },
      tag: 'test',
      requestQueues,
      pollTime,
      log: this.log,
      openSession: () => {
        const fileTable = this.#threads.createFileTable();
        const session = new Session(shared, { fileTable, observed: this.observed });
        this.sessions.push(session);
        return session;
      },
      openPlacement: () => this.#threads.openPlacement(),
    });
  }

  static async start(t: TestContext, options: ThreadedOptions = {}): Promise<ThreadedServer> {
    const folder = temporaryFolder(t);
    const sharedDir = join(folder, 'shared');
    mkdirSync(sharedDir);
    const log = new MemoryLog();
    const backend = await new BackendRegistry().create({ type: 'passthrough', sharedDir }, { log });
    const view = options.view ?? ((same) => same);
    const shared = await Export.open(view(backend), {
      log,
      createBuffer: hostBuffer,
      cache: options.cache ?? {},
    });
    const server = new ThreadedServer(folder, shared, options);
    t.after(() => server.close());
    return server;
  }

  /** The latest session: that of the newest connection, or the one after its reset. */
  get session(): Session {
    return this.sessions.at(-1)!;
  }

  /** What threads have served for a session directly. */
  counts(session = this.session): DirectCounts {
    if (session.fileTable === undefined) throw new Error('the session has no file table');
    const counted = this.#counted.get(session) ?? new Counters();
    this.#counted.set(session, counted);
    session.fileTable.addTo(counted);
    const { requests, threadFailures: failures } = counted;
    return {
      reads: requests[Opcode.READ]!,
      writes: requests[Opcode.WRITE]!,
      getattrs: requests[Opcode.GETATTR]!,
      lookups: requests[Opcode.LOOKUP]!,
      failures,
    };
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Connects a front-end and sends INIT. */
  async connect(
    t: TestContext,
    options: FrontEndOptions = {},
  ): Promise<{ frontEnd: FrontEnd; fuse: FuseClient }> {
    const frontEnd = await FrontEnd.connect(this.socket, { requestQueues: 2, ...options });
    t.after(() => frontEnd.close());
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    return { frontEnd, fuse };
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.server.close();
    await this.#threads.close();
    await this.export.close();
  }
}

/** Sends one request on a queue. `call` must send it before it returns its promise. */
export function by<T>(fuse: FuseClient, queue: number, call: (fuse: FuseClient) => Promise<T>): Promise<T> {
  fuse.caller = { ...fuse.caller, queue };
  return call(fuse);
}

/** Memory from which an {@link OwnRing} takes its segments. */
export interface GuestMemory {
  readonly bytes: Uint8Array;
  readonly guestAddress: number;
}

/**
 * Drives a queue of a front-end by hand, one request at a time. The test chooses the memory.
 * Requests are cut into segments that do not touch each other. `FrontEnd.request` must not use the
 * same queue.
 */
export class OwnRing implements FuseTransport {
  readonly #frontEnd: FrontEnd;
  readonly #queue: number;
  /** Where the next request is placed. */
  memory: GuestMemory;
  readonly #segment: number;
  readonly #watch: Watch;
  #collect: () => void = () => undefined;

  /** @param segment bytes of each at most. */
  constructor(t: TestContext, frontEnd: FrontEnd, queue: number, memory: GuestMemory, segment: number) {
    this.#frontEnd = frontEnd;
    this.#queue = queue;
    this.memory = memory;
    this.#segment = segment;
    const { call } = frontEnd.queues[queue]!;
    this.#watch = watch(call.value, () => {
      drain(call.value);
      this.#collect();
      advancePromises();
    });
    t.after(() => this.#watch.close());
  }

  /** Places a request and publishes it. @returns where the room for its reply is. */
  place(input: Uint8Array, outSize: number): { at: number; length: number }[] {
    const { driver, kick } = this.#frontEnd.queues[this.#queue]!;
    const { bytes, guestAddress } = this.memory;
    driver.begin();
    let at = 0;
    for (let from = 0; from < input.length; from += this.#segment) {
      const part = input.subarray(from, from + this.#segment);
      bytes.set(part, at);
      driver.readable(guestAddress + at, part.length);
      at += part.length + 8;
    }
    const room: { at: number; length: number }[] = [];
    for (let left = outSize; left > 0; left -= this.#segment) {
      const length = Math.min(left, this.#segment);
      driver.writable(guestAddress + at, length);
      room.push({ at, length });
      at += length + 8;
    }
    if (at > bytes.length) throw new Error(`a request of ${at} bytes with its gaps, in ${bytes.length}`);
    driver.submit();
    driver.kick(kick.value);
    return room;
  }

  request(_queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    const { driver } = this.#frontEnd.queues[this.#queue]!;
    return new Promise((resolve) => {
      this.#collect = () => {
        if (driver.poll() < 0 && (!driver.enableInterrupts() || driver.poll() < 0)) return;
        driver.enableInterrupts();
        this.#collect = () => undefined;
        const all = room.map(({ at, length }) => this.memory.bytes.subarray(at, at + length));
        resolve(new Uint8Array(Buffer.concat(all).subarray(0, driver.usedLength)));
      };
      const room = this.place(input, outSize);
    });
  }
}

/** Memory of a front-end for an {@link OwnRing}. */
export function memoryOf(frontEnd: FrontEnd, size: number): GuestMemory {
  const at = frontEnd.memory.allocate(size);
  if (at < 0) throw new Error(`no ${size} bytes of memory`);
  return {
    bytes: frontEnd.memory.bytes.subarray(at, at + size),
    guestAddress: frontEnd.memory.guestAddress(at),
  };
}
