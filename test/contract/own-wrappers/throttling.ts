import { setTimeout as sleep } from 'node:timers/promises';
import { type Backend, type Context, wrap } from 'virtiofs-kit';

/** Waits until so many bytes may be moved. */
export type Pace = (bytes: number, context: Context) => Promise<void>;

/** Lets a number of bytes pass in a second. */
export function perSecond(limitBytes: number): Pace {
  let freeAtMs = 0;
  return async (bytes, { signal }) => {
    const nowMs = performance.now();
    const waitMs = freeAtMs - nowMs;
    freeAtMs = Math.max(nowMs, freeAtMs) + (bytes / limitBytes) * 1000;
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  };
}

/** The same file system, in which all guests read and write at a pace. */
export function throttling(inner: Backend, pace: Pace): Backend {
  return wrap(inner, {
    read: async (next, node, file, buffer, offset, context) => {
      await pace(buffer.length, context);
      return next(node, file, buffer, offset, context);
    },
    write: async (next, node, file, buffer, offset, flags, context) => {
      await pace(buffer.length, context);
      return next(node, file, buffer, offset, flags, context);
    },
  });
}
