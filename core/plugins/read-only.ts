import {
  FsError,
  OpenFlags,
  type Awaitable,
  type Backend,
  type Context,
  type Opened,
} from '../backend/index.js';

/** What a backend can do without changing anything. */
const READING = [
  'mount',
  'unmount',
  'key',
  'resolve',
  'lookup',
  'forget',
  'getattr',
  'readlink',
  'read',
  'gatherRead',
  'gatherLookup',
  'gatherGetattr',
  'backing',
  'submit',
  'flush',
  'release',
  'readdir',
  'statfs',
  'getxattr',
  'listxattr',
  'lseek',
  'save',
  'restore',
  'health',
] as const satisfies readonly (keyof Backend)[];

/**
 * The same file system with nothing that changes it: capabilities are the methods present, so the
 * rest is left out and the engine answers EROFS by itself.
 */
export function readOnly<N extends object, F>(backend: Backend<N, F>): Backend<N, F> {
  const methods = READING.flatMap((name) => {
    const method: unknown = Reflect.get(backend, name);
    return typeof method === 'function' ? [[name, method.bind(backend)]] : [];
  });
  const view = Object.fromEntries(methods) as Backend<N, F>;
  const open = (node: N, flags: number, context: Context): Awaitable<Opened<F>> => {
    const writes = (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY || (flags & OpenFlags.TRUNC) !== 0;
    if (writes) throw FsError.of('EROFS');
    return backend.open!(node, flags, context);
  };
  return {
    ...view,
    ...(backend.open === undefined ? {} : { open }),
    ...(backend.cache === undefined ? {} : { cache: { ...backend.cache, writeback: false } }),
    ...(backend.semantics === undefined ? {} : { semantics: backend.semantics }),
    ...(backend.completions === undefined ? {} : { completions: backend.completions }),
  };
}
