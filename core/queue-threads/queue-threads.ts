import { Worker } from 'node:worker_threads';
import { close, dup } from '../system/calls/files.js';
import {
  type Fd,
  checkPollable,
  type DescriptorUser,
  eventfd,
  type Log,
  type Mapping,
  type OwnedFd,
  sharedDescriptors,
  signal,
  type CloseWatch,
  watchSignals,
} from '../system/index.js';
import type { Poller, QueuePlacement, SharedTable, StartingQueue } from '../virtqueue/index.js';
import { EngineMailbox, mailboxMemory } from './mailbox.js';
import type { Notice, Command, ThreadData } from './messages.js';
import { noteStart } from '../system/started-threads.js';
import { type QueueCommand, regionsOf, RemoteRun } from './remote-run.js';
import { SharedFileTable } from './shared-file-table.js';

/** How long {@link QueueThreads.close} waits for a thread. */
const END_TIMEOUT_MS = 5000;

/** Where faults of the threads are logged. */
export type ThreadLog = Pick<Log, 'warn' | 'error'>;

/** A queue of a thread, and the mappings that must stay until the thread has let go of it. */
interface Entry {
  readonly run: RemoteRun;
  readonly keeps: Set<Mapping>;
}

function hold(mappings: readonly Mapping[], keeps: Set<Mapping>): void {
  for (const mapping of mappings) {
    if (keeps.has(mapping)) continue;
    keeps.add(mapping);
    mapping.hold();
  }
}

function letGo(keeps: Set<Mapping>): void {
  for (const mapping of keeps) mapping.letGo();
  keeps.clear();
}

/** A thread, as the engine's thread sees it. */
class Thread {
  readonly ended: Promise<void>;
  readonly #own: OwnedFd = eventfd();
  readonly #user: DescriptorUser;
  readonly #worker: Worker;
  readonly #runs = new Map<number, Entry>();
  readonly #log: ThreadLog;
  #queues = 0;
  #isClosing = false;
  #isGone = false;

  constructor(user: DescriptorUser, engine: Fd, pollTime: number, log: ThreadLog) {
    this.#user = user;
    this.#log = log;
    const data: ThreadData = { user, own: this.#own.value, engine, pollTime };
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: data });
    this.#worker.unref();
    noteStart(this.#worker);
    this.#worker.on('message', (notice: Notice) => this.#take(notice));
    let failure: unknown;
    this.#worker.once('error', (error) => {
      failure = error;
    });
    this.ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#bury(failure);
        resolve();
      });
    });
  }

  /**
   * Starts to serve a queue on this thread.
   * @param index its number in its device.
   * @returns undefined if the thread has ended, or the process has no descriptors left: the queue
   * must then run elsewhere.
   * @throws SystemError if the kick descriptor cannot be polled.
   */
  serve(index: number, queue: StartingQueue, fileTable: SharedTable): RemoteRun | undefined {
    if (this.#isGone) return undefined;
    // Checked here, since an exception in the thread would end it.
    checkPollable(queue.kick);
    const kick = dup(queue.kick);
    const call = queue.call < 0 ? (-1 as Fd) : dup(queue.call);
    if (kick < 0 || (call < 0 && queue.call >= 0)) {
      // The process has no descriptors left.
      for (const fd of [kick, call]) if (fd >= 0) close(fd);
      return undefined;
    }
    const number = this.#queues++;
    // The thread may still use memory that the guest has just removed. If it were unmapped, its
    // addresses could come to hold other data, or a write could store zeros.
    const keeps = new Set<Mapping>();
    const { inflight } = queue;
    if (inflight !== undefined) hold([inflight.mapping], keeps);
    const mailbox = mailboxMemory(queue.size, queue.base);
    const send = (command: QueueCommand): void => {
      if (command.command === 'serve' || command.command === 'memory') hold(queue.space.mappings, keeps);
      this.#send({ ...command, queue: number } as Command);
    };
    const run = new RemoteRun(index, queue, new EngineMailbox(mailbox, queue.size), {
      send,
      wake: () => signal(this.#own.value),
    });
    this.#runs.set(number, { run, keeps });
    send({
      command: 'serve',
      regions: regionsOf(queue.space),
      size: queue.size,
      features: queue.features,
      base: queue.base,
      again: queue.again,
      inflight: inflight?.place,
      descriptors: queue.descriptors,
      available: queue.available,
      used: queue.used,
      kick,
      call,
      mailbox,
      fileTable: fileTable.memory,
    });
    return run;
  }

  /** Ends the thread. One that a system call blocks for too long is left running. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#send({ command: 'end' });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(resolve, END_TIMEOUT_MS, true);
    });
    if ((await Promise.race([this.ended, late])) === true) {
      this.#log.warn(
        { limit: END_TIMEOUT_MS },
        'a thread for queues is held up by a system call, and left to itself',
      );
    }
    clearTimeout(timer);
  }

  #send(command: Command): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
    this.#worker.postMessage(command);
  }

  #take(notice: Notice): void {
    if (notice.notice === 'started') return;
    const entry = this.#runs.get(notice.queue);
    if (notice.notice === 'stopped') {
      this.#runs.delete(notice.queue);
      if (entry !== undefined) letGo(entry.keeps);
    } else if (notice.notice === 'warning') this.#log.warn(notice.fields, notice.reason);
    else entry?.run.notice(notice);
  }

  #bury(failure: unknown): void {
    this.#isGone = true;
    if (!this.#isClosing) this.#log.error({ err: failure }, 'a thread for queues ended; so do its queues');
    sharedDescriptors.leave(this.#user);
    this.#own.close();
    for (const { run, keeps } of this.#runs.values()) {
      run.lose();
      letGo(keeps);
    }
    this.#runs.clear();
  }
}

/**
 * Threads that serve request queues beside the engine's thread. A thread takes requests from its
 * rings. It serves those that are plain system calls on descriptors in the session's file table,
 * and passes all others on. All state stays with the engine's thread.
 */
export class QueueThreads {
  readonly #threads: Thread[];
  readonly #engine: OwnedFd = eventfd();
  readonly #watch: CloseWatch;
  /** Pollers of the engine's thread, which serve the requests that are passed on. */
  readonly #pollers = new Set<Poller>();
  /** Numbers of the devices that have a placement. */
  readonly #devices = new Set<number>();

  /**
   * @param count threads to start, 1 or more.
   * @param pollTime microseconds that a thread polls its rings before it sleeps, see `Poller`.
   * @throws RangeError if the process would have more than 64 such threads.
   */
  constructor(count: number, pollTime: number, log: ThreadLog) {
    const users: DescriptorUser[] = [];
    try {
      while (users.length < count) users.push(sharedDescriptors.join());
    } catch (error) {
      for (const user of users) sharedDescriptors.leave(user);
      this.#engine.close();
      throw error;
    }
    this.#threads = users.map((user) => new Thread(user, this.#engine.value, pollTime, log));
    this.#watch = watchSignals(this.#engine.value, () => {
      for (const poller of this.#pollers) poller.serve();
    });
  }

  /** Makes the file table of a session whose queues these threads may serve. */
  createFileTable(): SharedFileTable {
    return new SharedFileTable(sharedDescriptors);
  }

  /**
   * Decides where the queues of one more device run. Its request queues are dealt out in turn to
   * the engine's thread and these threads. Each device begins with another thread, so that guests
   * with one queue each are spread too.
   */
  openPlacement(): QueuePlacement {
    let device = 0;
    while (this.#devices.has(device)) device += 1;
    this.#devices.add(device);
    return {
      // Queue 0 is hiprio: FORGET and INTERRUPT are for the engine's thread.
      place: (index) => (index === 0 ? undefined : (queue) => this.#place(device, index, queue)),
      leave: () => void this.#devices.delete(device),
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
    this.#watch.close();
    // A thread that is left running may still signal it.
    void Promise.all(this.#threads.map((thread) => thread.ended)).then(() => this.#engine.close());
  }

  #place(device: number, index: number, queue: StartingQueue): RemoteRun | undefined {
    const thread = this.#threads[((device + index - 1) % (this.#threads.length + 1)) - 1];
    const { fileTable } = queue.service;
    if (thread === undefined || fileTable === undefined) return undefined;
    this.#pollers.add(queue.poller);
    return thread.serve(index, queue, fileTable);
  }
}
