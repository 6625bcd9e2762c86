import { Errno, FsError, type Logger } from '../../backend/index.js';
import type { HandleIndex } from '../../state/index.js';
import type { Request } from './request.js';

/**
 * How many faults are logged in one second. A guest may repeat a request that makes a backend fail.
 */
const PER_SECOND = 10;

/** Turns a backend's exceptions into errnos, and logs unexpected ones. A session has one. */
export class Faults {
  readonly #log: Logger;
  readonly #told: ((error: unknown, message: string) => void) | undefined;
  /** Unexpected exceptions so far. */
  count = 0;
  /** The failure of a flush that came last: of which handle, and what it said. */
  #flushed: { readonly handle: HandleIndex; readonly text: string } | undefined;
  #second = 0;
  #logged = 0;

  /** @param told hears of what is logged. */
  constructor(log: Logger, told?: (error: unknown, message: string) => void) {
    this.#log = log;
    this.#told = told;
  }

  /**
   * The errno for the guest: that of an {@link FsError}, EINTR for an abort that was asked for,
   * what Node's own calls say of a full disk or the like, and EIO for anything else. Both of the
   * latter are logged.
   */
  errnoOf(error: unknown, request: Request): number {
    if (request.operation.name === 'FLUSH') this.#flushed = { handle: request.handle, text: String(error) };
    if (error instanceof FsError || isForeignFsError(error)) return error.errno;
    if (request.context.aborted && error instanceof Error && error.name === 'AbortError') return Errno.EINTR;
    this.report(error, `${request.operation.name} failed`);
    return ownErrno(error) ?? Errno.EIO;
  }

  /**
   * Logs that a handle could not be released, which no reply tells of; not if its flush has failed
   * for the same reason right before, which the guest or the log has been told.
   */
  reportRelease(error: unknown, handle: HandleIndex | undefined): void {
    const flushed = this.#flushed;
    this.#flushed = undefined;
    if (flushed === undefined || flushed.handle !== handle || flushed.text !== String(error))
      this.report(error, 'releasing a file failed');
  }

  /** Logs a failure of the backend. */
  report(error: unknown, message: string): void {
    this.count += 1;
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#logged = 0;
    }
    this.#logged += 1;
    if (this.#logged <= PER_SECOND) {
      this.#log.error({ err: error }, message);
      this.#told?.(error, message);
    } else if (this.#logged === PER_SECOND + 1)
      this.#log.error({}, 'more failures in this second are not logged');
  }
}

/** What a backend's own files lack: their errno is of use to the guest's programs as it is. */
const OWN: ReadonlySet<number> = new Set([
  Errno.ENOSPC,
  Errno.EDQUOT,
  Errno.EROFS,
  Errno.EFBIG,
  Errno.ENOMEM,
  Errno.EMFILE,
  Errno.ENFILE,
]);

/** The errno of an error that one of Node's own calls has thrown, if it is one of {@link OWN}. */
function ownErrno(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('syscall' in error) || !('errno' in error)) return undefined;
  const errno = -Number(error.errno);
  return OWN.has(errno) ? errno : undefined;
}

/** A plugin with its own copy of this package throws that copy's `FsError`. */
function isForeignFsError(error: unknown): error is { errno: number } {
  if (!(error instanceof Error) || error.name !== 'FsError' || !('errno' in error)) return false;
  const { errno } = error;
  return typeof errno === 'number' && errno >= 1 && errno <= 4095;
}
