/**
 * Linux error numbers as FUSE carries them (negated, in `fuse_out_header.error`). Values: Linux
 * `include/uapi/asm-generic/errno-base.h` and `errno.h`; they are the wire's numbers, whatever the
 * host's architecture.
 */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EOVERFLOW: 75,
  EPROTO: 71,
  EILSEQ: 84,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

/** Name of an error number that this package knows. */
export type ErrnoName = keyof typeof Errno;

const namesByNumber = new Map<number, string>(Object.entries(Errno).map(([name, value]) => [value, name]));

/**
 * The error a backend throws (or rejects with) to give the guest an errno. Anything else that is
 * thrown becomes EIO for the guest and a stack in the log. Instances are immutable and shared: take
 * them from {@link FsError.of}, which costs no stack capture.
 */
export class FsError extends Error {
  override readonly name = 'FsError';
  /** Positive Linux error number, 1 to 4095 (the range that Linux accepts in a reply). */
  readonly errno: number;
  /** Symbolic name, such as `ENOENT`; `E` and the number where this package has no name for it. */
  readonly code: string;

  private constructor(errno: number) {
    const code = namesByNumber.get(errno) ?? `E${errno}`;
    super(code);
    this.errno = errno;
    this.code = code;
  }

  static readonly #shared = new Map<number, FsError>();

  /**
   * The shared instance for an errno.
   * @param errno a name, or a number from 1 to 4095.
   * @throws RangeError if the number is outside that range.
   */
  static of(errno: ErrnoName | number): FsError {
    const value = typeof errno === 'number' ? errno : Errno[errno];
    let error = FsError.#shared.get(value);
    if (error === undefined) {
      if (!Number.isInteger(value) || value < 1 || value > 4095) {
        throw new RangeError(`errno ${value}: not in 1 to 4095`);
      }
      const limit = Error.stackTraceLimit;
      Error.stackTraceLimit = 0;
      error = new FsError(value);
      Error.stackTraceLimit = limit;
      FsError.#shared.set(value, error);
    }
    return error;
  }
}
