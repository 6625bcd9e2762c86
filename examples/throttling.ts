import { setTimeout } from 'node:timers/promises';
import { FsError, wrap, type Awaitable, type Backend, type Context } from 'virtiofs-kit';

/*
 * Wraps any backend, and limits the bytes a second that all guests together read and write. `wrap`
 * leaves out the methods that would move data in other ways than READ and WRITE.
 *
 *     serve({ socket, tag, backend: throttling(inner, 10 * 2 ** 20), log })
 */

export function throttling<N extends object, F>(inner: Backend<N, F>, bytesPerSecond: number): Backend<N, F> {
  /** When the next transfer may start, in milliseconds of `performance.now()`. */
  let freeAtMs = 0;

  /** Calls `go` as soon as the transfer may start, which may be at once. */
  function inTurn(bytes: number, context: Context, go: () => Awaitable<number>): Awaitable<number> {
    const now = performance.now();
    const waitMs = freeAtMs - now;
    freeAtMs = Math.max(freeAtMs, now) + (bytes / bytesPerSecond) * 1000;
    if (waitMs <= 0) return go();
    return setTimeout(waitMs, undefined, { signal: context.signal }).then(go, () => {
      throw FsError.of('EINTR');
    });
  }

  return wrap(inner, {
    read: (next, node, file, buffer, offset, context) =>
      inTurn(buffer.length, context, () => next(node, file, buffer, offset, context)),
    write: (next, node, file, buffer, offset, flags, context) =>
      inTurn(buffer.length, context, () => next(node, file, buffer, offset, flags, context)),
  });
}
