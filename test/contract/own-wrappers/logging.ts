import { type Backend, wrapEach } from 'virtiofs-kit';

/** The same file system with a line for each call. */
export function logging(inner: Backend, write: (line: string) => void): Backend {
  return wrapEach(inner, (method, next, args) => {
    const names = args.filter((argument) => typeof argument === 'string').join(' ');
    const startMs = performance.now();
    const say = (how: string): void =>
      write(`${method} ${names} ${how} ${(performance.now() - startMs).toFixed(3)} ms`);
    const done = <T>(result: T): T => {
      say('done');
      return result;
    };
    const failed = (error: unknown): never => {
      say(String(error));
      throw error;
    };
    try {
      const result = next();
      return result instanceof Promise ? result.then(done, failed) : done(result);
    } catch (error) {
      return failed(error);
    }
  });
}
