import { getSystemErrorName } from 'node:util';
import koffi, { type KoffiFunc } from 'koffi';

/**
 * C types of arguments and results. A pointer is `uintptr_t`, so that a plain number passes without
 * conversion.
 */
export type CType =
  | 'int'
  | 'uint'
  | 'int32_t'
  | 'uint32_t'
  | 'int64_t'
  | 'uint64_t'
  | 'size_t'
  | 'intptr_t'
  | 'uintptr_t'
  | 'str'
  | 'void';

/** A typed C function. Strings pass as NUL-terminated UTF-8. */
export type NativeFunction = (...args: never[]) => number | undefined;

const library = koffi.load(null);

/**
 * Declares a function of the C library:
 * `const close = libc<(fd: Fd) => number>('close', 'int', ['int'])`.
 * @throws Error if the C library has no such function.
 */
export function libc<F extends NativeFunction>(
  name: string,
  returns: CType,
  parameters: readonly CType[],
): F {
  return library.func(name, returns, [...parameters]) as unknown as F;
}

/**
 * Declares a function that the running program itself exports, as Node does those of libuv: nothing
 * where it does not.
 */
export function nodeSymbol<F extends NativeFunction>(
  name: string,
  returns: CType,
  parameters: readonly CType[],
): F | undefined {
  try {
    return libc<F>(name, returns, parameters);
  } catch {
    return undefined;
  }
}

/** This thread's errno, read in place: a call for it would cost as much as the one that failed. */
const errnoInPlace = new Int32Array(
  koffi.view(libc<() => number>('__errno_location', 'uintptr_t', [])(), Int32Array.BYTES_PER_ELEMENT),
);

/**
 * What a call returned, with -1 turned into minus the errno. Use at once: the next call changes
 * errno.
 */
export function result(value: number): number {
  return value === -1 ? -errnoInPlace[0]! : value;
}

/**
 * A failed system call. Shown to an operator it reads `bind /run/x.sock: EACCES`.
 * Only set-up code throws it; the data path passes errnos.
 */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  /** Positive errno. */
  readonly errno: number;
  /** Symbolic name, such as `EACCES`. */
  readonly code: string;

  constructor(what: string, errno: number) {
    const code = getSystemErrorName(-errno);
    super(`${what}: ${code}`);
    this.errno = errno;
    this.code = code;
  }
}

/** Turns a {@link result} into an exception where it is negative. */
export function check<Result extends number>(value: Result, what: string): Result {
  if (value < 0) throw new SystemError(what, -value);
  return value;
}

/**
 * Calls in flight at most; more wait here in order. koffi refuses those beyond its own limit of
 * 256, and libuv's pool has a few threads only.
 */
const MAX_IN_FLIGHT = 128;
let inFlight = 0;
const waiting: (() => void)[] = [];

function next(): void {
  inFlight -= 1;
  waiting.shift()?.();
}

/**
 * The same function on a thread of libuv's pool, for calls that may block. The promise gives what
 * {@link result} gives. Memory that the call uses must stay until it settles.
 */
export function deferred<A extends (number | string)[]>(
  call: (...args: A) => number,
): (...args: A) => Promise<number> {
  const native = call as unknown as KoffiFunc<(...args: (number | string)[]) => number>;
  return (...args) =>
    new Promise((resolve, reject) => {
      const start = () => {
        inFlight += 1;
        try {
          // koffi carries the thread's errno into the callback.
          native.async(...args, (error: unknown, value: number) => {
            const settled = result(value);
            next();
            if (error) reject(error as Error);
            else resolve(settled);
          });
        } catch (error) {
          next();
          reject(error as Error);
        }
      };
      if (inFlight < MAX_IN_FLIGHT) start();
      else waiting.push(start);
    });
}
