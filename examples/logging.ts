import { wrapEach, type Backend, type Logger } from 'virtiofs-kit';

/*
 * Wraps any backend, and logs a line for every call: the method, how many milliseconds it took, and
 * the error if it failed.
 *
 *     serve({ socket, tag, backend: logging(inner, log), log })
 */

export function logging<N extends object, F>(inner: Backend<N, F>, log: Logger): Backend<N, F> {
  return wrapEach(inner, (method, next) => {
    const start = performance.now();
    const write = (error?: unknown): void => {
      const milliseconds = performance.now() - start;
      log.debug(error === undefined ? { milliseconds } : { milliseconds, err: error }, method);
    };
    const failed = (error: unknown): never => {
      write(error);
      throw error;
    };
    const done = (result: unknown): unknown => {
      write();
      return result;
    };
    try {
      const result = next();
      return result instanceof Promise ? result.then(done, failed) : done(result);
    } catch (error) {
      return failed(error);
    }
  });
}
