import {
  type Backend,
  backendMethods,
  type BackendMethod,
  type Logger,
  UsageError,
  wrapEach,
} from '../backend/index.js';

/** What {@link logged} writes. */
export interface LoggedOptions {
  /** Methods whose calls are logged. Default: all. */
  readonly methods?: readonly BackendMethod[];
  /** Severity of the lines. Default: `debug`. */
  readonly level?: 'debug' | 'info';
  /** Logs only calls that took at least this long, in milliseconds, or failed. Default: 0. */
  readonly slowerThanMs?: number;
}

/**
 * The same file system with a line in the log for each call: the method, the names among its
 * arguments, how many milliseconds it took, and the error if it failed. A line costs several
 * microseconds, and names in it are the guest's.
 * @throws UsageError for a method that no backend has, and where `inner` is no backend.
 */
export function logged<N extends object, F>(
  inner: Backend<N, F>,
  log: Logger,
  { methods = backendMethods, level = 'debug', slowerThanMs = 0 }: LoggedOptions = {},
): Backend<N, F> {
  const chosen = new Set<string>(methods);
  for (const method of chosen) {
    if (!backendMethods.some((name) => name === method)) throw new UsageError(`no method ${method}`);
  }
  return wrapEach(inner, (method, next, args) => {
    if (!chosen.has(method)) return next();
    const names = args.filter((argument) => typeof argument === 'string');
    const start = performance.now();
    const write = (failure?: { readonly err: unknown }): void => {
      const milliseconds = performance.now() - start;
      if (failure === undefined && milliseconds < slowerThanMs) return;
      log[level]({ milliseconds, ...(names.length > 0 && { names }), ...failure }, method);
    };
    const failed = (err: unknown): never => {
      write({ err });
      throw err;
    };
    const done = (result: unknown): unknown => {
      write();
      return result;
    };
    let result: unknown;
    try {
      result = next();
    } catch (error) {
      return failed(error);
    }
    return result instanceof Promise ? result.then(done, failed) : done(result);
  });
}
