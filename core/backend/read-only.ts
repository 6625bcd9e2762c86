import type { Backend } from './backend.js';
import { FsError } from './errors.js';
import { OpenFlags } from './flags.js';
import { backendMethods, type BackendMethod } from './methods.js';
import { wrap } from './wrap.js';

/** What a backend can do without changing anything. */
const READING: ReadonlySet<BackendMethod> = new Set<BackendMethod>([
  'mount',
  'unmount',
  'save',
  'restore',
  'health',
  'metrics',
  'key',
  'resolve',
  'forget',
  'watch',
  'lookup',
  'parent',
  'getattr',
  'readlink',
  'open',
  'read',
  'flush',
  'release',
  'readdir',
  'statfs',
  'getxattr',
  'listxattr',
  'lseek',
]);

const CHANGING = backendMethods.filter((name) => !READING.has(name));

/**
 * The same file system with nothing that changes it: capabilities are the methods present, so the
 * rest is left out and the engine answers EROFS by itself. Opening for writing and truncating is
 * refused with EROFS. It is as quick as the inner one: reading keeps its accelerator.
 * @throws UsageError where `backend` is none.
 */
export function readOnly<N extends object, F>(backend: Backend<N, F>): Backend<N, F> {
  return wrap(
    backend,
    {
      open(next, node, flags, context) {
        const isRead = (flags & OpenFlags.ACCESS_MODE) === OpenFlags.READ_ONLY;
        if (!isRead || (flags & OpenFlags.TRUNC) !== 0) throw FsError.of('EROFS');
        return next(node, flags, context);
      },
    },
    {
      without: CHANGING,
      cache: (policy) => (policy === undefined ? undefined : { ...policy, writeback: false }),
    },
  );
}
