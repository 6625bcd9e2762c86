import { native } from '../calls/libc-functions.js';
import { result } from '../calls/libc.js';
import { NativeMemory } from '../memory/native-memory.js';
import type { Fd } from './fd.js';
import { OwnedFd } from './owned-fd.js';
import { connectDatagram } from './unix-socket.js';

/** The descriptor of the connected socket, through execve(2). */
const CONNECTED = 'VIRTIOFS_KIT_NOTIFY_FD';

/** Variables of the environment that a process must not inherit that is not the manager's. */
export const SERVICE_MANAGER_VARIABLES: readonly string[] = ['NOTIFY_SOCKET', CONNECTED];

/** SD_LISTEN_FDS_START. */
const FIRST_PASSED = 3;

const message = NativeMemory.allocate(4096);

/**
 * Tells the service manager that started this process how it is doing, by the protocol of
 * sd_notify(3). Does nothing where there is none. Nothing waits for the manager: what it has no
 * room for is lost.
 */
export class ServiceManager {
  readonly #socket: OwnedFd | undefined;
  readonly #watchdogMs: number | undefined;
  #watchdog: NodeJS.Timeout | undefined;

  private constructor(socket: OwnedFd | undefined, watchdogMs: number | undefined) {
    this.#socket = socket;
    this.#watchdogMs = watchdogMs;
  }

  /**
   * Connects to `NOTIFY_SOCKET`, before the process confines itself. If `WATCHDOG_USEC` is set for
   * this process, the manager is told twice in that time that the event loop turns, from {@link
   * ready} on.
   * @throws SystemError if it cannot be connected to.
   */
  static open(): ServiceManager {
    const { NOTIFY_SOCKET: path, [CONNECTED]: connected, WATCHDOG_USEC, WATCHDOG_PID } = process.env;
    let socket: OwnedFd | undefined;
    if (connected !== undefined && /^\d+$/.test(connected)) socket = new OwnedFd(Number(connected) as Fd);
    else if (path?.startsWith('/') === true || path?.startsWith('@') === true) socket = connectDatagram(path);
    if (socket !== undefined) process.env[CONNECTED] = `${socket.value}`;
    const isOurs = WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid;
    const watchdogMs = Number(WATCHDOG_USEC) / 2000;
    return new ServiceManager(socket, isOurs && watchdogMs >= 1 ? watchdogMs : undefined);
  }

  /** The socket, for a program that is executed anew; undefined where there is no manager. */
  get fd(): Fd | undefined {
    return this.#socket?.value;
  }

  /** It serves. @param status one line for people. */
  ready(status: string): void {
    this.#tell('READY=1', `STATUS=${status}`);
    if (this.#socket === undefined || this.#watchdogMs === undefined) return;
    this.#watchdog ??= setInterval(() => this.#tell('WATCHDOG=1'), this.#watchdogMs).unref();
  }

  /** It takes up a new program or settings; `ready` ends that. */
  reloading(): void {
    this.#tell('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  /** It is about to end. */
  stopping(): void {
    this.#tell('STOPPING=1');
  }

  /** Idempotent. */
  close(): void {
    clearInterval(this.#watchdog);
    this.#socket?.close();
  }

  #tell(...lines: readonly string[]): void {
    if (this.#socket === undefined || this.#socket.value < 0) return;
    const text = Buffer.from(lines.map((line) => line.replaceAll('\n', ' ')).join('\n'));
    const length = Math.min(text.length, message.u8.length);
    message.u8.set(text.subarray(0, length));
    result(native.write(this.#socket.value, message.address, length));
  }
}

/**
 * The descriptors that a service manager passed to this process, by their names, sd_listen_fds(3):
 * the `FileDescriptorName=` of a socket unit, or the unit's own name.
 */
export function passedDescriptors(): ReadonlyMap<string, Fd> {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES = '' } = process.env;
  const count = Number(LISTEN_PID) === process.pid ? Number(LISTEN_FDS) : 0;
  const names = LISTEN_FDNAMES.split(':').slice(0, count);
  return new Map(names.map((name, index) => [name, (FIRST_PASSED + index) as Fd]));
}
