import { setTimeout } from 'node:timers/promises';
import { FsError, wrap, type Awaitable, type Backend, type Context } from 'virtiofs-kit';

/*
 * Any backend, read and written at no more than so many bytes a second, all guests together. What
 * would move data by another way than READ and WRITE is not offered: see `wrap`.
 *
 *     serve({ socket, tag, backend: throttling(inner, 10 * 2 ** 20), log })
 */

export function throttling<N extends object, F>(inner: Backend<N, F>, bytesPerSecond: number): Backend<N, F> {
  /** When all that was let through has had its time: milliseconds of `performance.now()`. */
  let freeAt = 0;

  /** Goes on when it is this transfer's turn; at once where nothing is owed. */
  function inTurn(bytes: number, context: Context, go: () => Awaitable<number>): Awaitable<number> {
    const now = performance.now();
    const waitMs = freeAt - now;
    freeAt = Math.max(freeAt, now) + (bytes / bytesPerSecond) * 1000;
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
