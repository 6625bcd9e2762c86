import { performance } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';
import type { Fd } from '../descriptors/fd.js';
import { check, libc, nodeSymbol, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { drain, eventfd, signal } from '../descriptors/eventfd.js';
import { NativeMemory } from '../memory/native-memory.js';
import { setBeforeSleep, signalOwed, sleepAfterSignal } from './signal-before-sleep.js';
import { type Watch, watch, watchBarely } from './watch.js';

const { epollCreate, epollCtl, close: closeFd, poll: nativePoll } = native;
const epollWait = libc<(epoll: Fd, events: number, most: number, timeout: number) => number>(
  'epoll_wait',
  'int',
  ['int', 'uintptr_t', 'int', 'int'],
);

// Public functions of the embedding interfaces of V8, Node (node.h) and libuv, which the program
// exports for addons.
const currentIsolate = nodeSymbol<() => number>('_ZN2v87Isolate10GetCurrentEv', 'uintptr_t', []);
const currentLoop = nodeSymbol<(isolate: number) => number>(
  '_ZN4node19GetCurrentEventLoopEPN2v87IsolateE',
  'uintptr_t',
  ['uintptr_t'],
);
const backendFd = nodeSymbol<(loop: number) => Fd>('uv_backend_fd', 'int', ['uintptr_t']);
const backendTimeout = nodeSymbol<(loop: number) => number>('uv_backend_timeout', 'int', ['uintptr_t']);
const updateTime = nodeSymbol<(loop: number) => undefined>('uv_update_time', 'void', ['uintptr_t']);

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EPOLLET = 0x80000000;

/** `struct epoll_event` is packed on x86-64 only (epoll_ctl(2)); the data are used as a number. */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const DATA_OFFSET = process.arch === 'x64' ? 4 : 8;
const EVENT_WORDS = EVENT_BYTES / 4;
const DATA_WORD = DATA_OFFSET / 4;
/** Descriptors served in one go at most. */
const MOST_EVENTS = 64;

/**
 * While something is served the event loop has a turn at least so often, for what its timeout does
 * not tell of (immediates without reference). A sleep without limit begins only when nothing came
 * before such a turn: an idle thread has no ticks.
 */
const LIMIT_MS = 100;

/**
 * Runs what `process.nextTick` and promises have made due, as Node does after each callback of its
 * own.
 */
const runTicks = (process as unknown as Record<string, (() => void) | undefined>)['_tickCallback'];

/**
 * The event loop of this thread, or 0 where the thread must sleep as Node does:
 *
 * - The program does not export libuv's functions.
 * - In workers. A worker that ends by an exception runs the rest of its turn with JavaScript
 *   stopped; koffi's callback, which this sleep has in every turn, would then end the process.
 * - In Electron, whose main process runs this loop inside another one: that one would stop.
 */
function findLoop(): number {
  if (!isMainThread) return 0;
  const isNode = process.release.name === 'node' && process.versions['electron'] === undefined;
  if (!isNode || typeof runTicks !== 'function') return 0;
  if (!currentIsolate || !currentLoop || !backendFd || !backendTimeout || !updateTime) return 0;
  const isolate = currentIsolate();
  const loop = isolate === 0 ? 0 : currentLoop(isolate);
  return loop !== 0 && backendFd(loop) >= 0 ? loop : 0;
}

/** A descriptor that ends the sleep, and who serves it. */
interface Source {
  readonly fd: Fd;
  readonly isEdge: boolean;
  readonly onReadable: () => void;
}

/**
 * This thread's sleep in an epoll instance of its own, in the place of libuv's, as long as there
 * are sources. It waits for the sources and for libuv's epoll descriptor at once. What comes from a
 * source is served without a turn of the event loop; as soon as libuv has something to do, it has
 * its turn.
 *
 * The sleep is entered in an immediate: in the phase after libuv's poll, all of whose events are
 * dealt with by then. `uv_backend_timeout` says how long libuv would sleep now. It is 0 where
 * anything waits for a turn, among it other immediates, closing handles, and descriptors that
 * libuv's epoll instance does not hold yet.
 */
class OwnSleep {
  readonly #loop: number;
  readonly #epoll: Fd;
  readonly #events = NativeMemory.allocate(MOST_EVENTS * EVENT_BYTES);
  /** `struct pollfd` of the instance itself. */
  readonly #pollfd = NativeMemory.allocate(8);
  readonly #sources = new Map<number, Source>();
  /**
   * Signalled before each turn of the event loop, so that libuv does not sleep in it. Like any
   * watched descriptor it keeps the loop alive.
   */
  readonly #turnFd = eventfd();
  readonly #turnWatch = watchBarely(this.#turnFd.value, () => {
    drain(this.#turnFd.value);
    // With a reference it would count as something that waits for a turn.
    setImmediate(this.#sleepNow).unref();
  });
  readonly #sleepNow = (): void => this.#sleepUntilTurn();
  #isScheduled = false;
  /** Nothing was served since the last turn, and that ended a sleep that had a limit. */
  #isIdle = false;
  /** Events that have come and whose sources were not called yet. */
  #untold = 0;
  /** When the last turn of the event loop was, and the time now (milliseconds). */
  #turnedAt = 0;
  #now = 0;

  constructor(loop: number) {
    this.#loop = loop;
    this.#epoll = check(result(epollCreate(EPOLL_CLOEXEC)), 'epoll_create1') as Fd;
    check(this.#poll(backendFd!(loop), EPOLLIN), "polling the event loop's descriptor");
    this.#pollfd.i32.set([this.#epoll, EPOLLIN]);
  }

  get isEmpty(): boolean {
    return this.#sources.size === 0;
  }

  /** @throws SystemError if the descriptor cannot be polled, or is polled already. */
  add(source: Source): void {
    const events = source.isEdge ? EPOLLIN + EPOLLET : EPOLLIN;
    check(this.#poll(source.fd, events), `polling descriptor ${source.fd}`);
    this.#sources.set(source.fd, source);
    this.#schedule();
  }

  remove(source: Source): void {
    this.#sources.delete(source.fd);
    epollCtl(this.#epoll, EPOLL_CTL_DEL, source.fd, this.#events.address);
  }

  close(): void {
    this.#turnWatch.close();
    this.#turnFd.close();
    closeFd(this.#epoll);
    this.#events.free();
    this.#pollfd.free();
  }

  /** An instance of epoll is itself readable while a descriptor of it is ready. */
  get hasEvents(): boolean {
    return this.#untold > 0 || nativePoll(this.#pollfd.address, 1, 0) > 0;
  }

  #poll(fd: Fd, events: number): number {
    const event = new DataView(new ArrayBuffer(EVENT_BYTES));
    event.setUint32(0, events, true);
    event.setUint32(DATA_OFFSET, fd, true);
    // Not among the events that were received: they may be under way.
    const memory = NativeMemory.allocate(EVENT_BYTES);
    memory.u8.set(new Uint8Array(event.buffer));
    const code = result(epollCtl(this.#epoll, EPOLL_CTL_ADD, fd, memory.address));
    memory.free();
    return code;
  }

  #schedule(): void {
    if (this.#isScheduled || this.isEmpty) return;
    this.#isScheduled = true;
    signal(this.#turnFd.value);
  }

  #sleepUntilTurn(): void {
    this.#isScheduled = false;
    updateTime!(this.#loop);
    this.#turnedAt = this.#now = performance.now();
    try {
      while (!this.isEmpty && this.#sleep());
    } finally {
      this.#untold = 0;
      setBeforeSleep(false);
      signalOwed();
      // Its time is that of its last turn: it would sleep on for a timer that is due.
      updateTime!(this.#loop);
      this.#schedule();
    }
  }

  /** @returns false if the event loop is to have a turn. */
  #sleep(): boolean {
    let timeout = backendTimeout!(this.#loop);
    // The event loop's time is still that of its turn, or that of a timer which was set since: then
    // this sleep ends too early, and the next turn puts it right.
    if (timeout > 0) timeout = Math.max(0, timeout - Math.floor(this.#now - this.#turnedAt));
    const isLimited = !this.#isIdle && (timeout < 0 || timeout > LIMIT_MS);
    if (isLimited) timeout = LIMIT_MS;
    const count =
      sleepAfterSignal(this.#epoll, this.#events.address, MOST_EVENTS, timeout) ??
      epollWait(this.#epoll, this.#events.address, MOST_EVENTS, timeout);
    this.#isIdle = count === 0 && isLimited;
    // The time is over, or a signal came (EINTR), which libuv learns of by a descriptor.
    if (count <= 0) return false;
    wakeUps += 1;
    let isTurnDue = timeout === 0;
    setBeforeSleep(true);
    for (let i = 0; i < count; i++) {
      signalOwed();
      this.#untold = count - i - 1;
      const source = this.#sources.get(this.#events.i32[i * EVENT_WORDS + DATA_WORD]!);
      if (source === undefined) isTurnDue = true;
      else source.onReadable();
    }
    setBeforeSleep(false);
    runTicks!();
    this.#now = performance.now();
    return !isTurnDue && this.#now - this.#turnedAt < LIMIT_MS;
  }
}

/** A {@link Watch} whose descriptor always keeps the process alive. */
export type CloseWatch = Omit<Watch, 'unref'>;

let loop: number | undefined;
let current: OwnSleep | undefined;
let wakeUps = 0;

/** How often this thread was woken in its own sleep, by whatever; 0 where it has none. */
export function wakeUpCount(): number {
  return wakeUps;
}

/** Whether this thread has a sleep of its own: see {@link watchClosely}. */
export function hasOwnSleep(): boolean {
  loop ??= findLoop();
  return loop !== 0;
}

/**
 * As `watch`, by the thread's own sleep where there is one: a callback costs a third of what it
 * costs by way of the event loop. It runs between two turns of the event loop, before whatever else
 * is due. Promises and `process.nextTick` that it has made due run right after it.
 * @throws SystemError as `watch`.
 */
export function watchClosely(fd: Fd, onReadable: () => void): CloseWatch {
  return hasOwnSleep() ? addSource({ fd, isEdge: false, onReadable }) : watch(fd, onReadable);
}

/**
 * Calls `onSignal` after an eventfd was signalled: once for several signals, and once at first
 * where it was signalled before. Its count is left as it is where the thread has a sleep of its
 * own.
 * @param take takes the count where the thread has none.
 * @throws SystemError as `watch`.
 */
export function watchSignals(fd: Fd, onSignal: () => void, take: (fd: Fd) => unknown = drain): CloseWatch {
  if (hasOwnSleep()) return addSource({ fd, isEdge: true, onReadable: onSignal });
  return watch(fd, () => {
    take(fd);
    onSignal();
  });
}

/**
 * Whether something that this thread sleeps for has come: a source's signal, or an event of the
 * event loop, though not its timers. For whoever serves for long. False where the thread sleeps as
 * Node does, or has no sources.
 */
export function hasEventsWaiting(): boolean {
  return current?.hasEvents === true;
}

function addSource(source: Source): CloseWatch {
  let state: 'active' | 'paused' | 'closed' = 'paused';
  const self: CloseWatch = {
    close() {
      self.pause();
      state = 'closed';
    },
    pause() {
      if (state !== 'active') return;
      state = 'paused';
      current!.remove(source);
      closeIfEmpty();
    },
    resume() {
      if (state !== 'paused') return;
      current ??= new OwnSleep(loop!);
      try {
        current.add(source);
        state = 'active';
      } finally {
        closeIfEmpty();
      }
    },
  };
  self.resume();
  return self;
}

function closeIfEmpty(): void {
  if (current?.isEmpty !== true) return;
  current.close();
  current = undefined;
}
