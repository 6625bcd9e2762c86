import type { Backend } from './backend.js';
import { UsageError } from './plugin.js';

/** Name of a method of {@link Backend}. */
export type BackendMethod = {
  [K in keyof Backend]-?: NonNullable<Backend[K]> extends (...args: never[]) => unknown ? K : never;
}[keyof Backend];

const table: { readonly [method in BackendMethod]: true } = {
  mount: true,
  unmount: true,
  save: true,
  restore: true,
  claim: true,
  health: true,
  metrics: true,
  key: true,
  resolve: true,
  forget: true,
  watch: true,
  lookup: true,
  parent: true,
  getattr: true,
  setattr: true,
  readlink: true,
  mknod: true,
  mkdir: true,
  symlink: true,
  link: true,
  unlink: true,
  rmdir: true,
  rename: true,
  open: true,
  create: true,
  tmpfile: true,
  read: true,
  write: true,
  flush: true,
  release: true,
  lock: true,
  fsync: true,
  readdir: true,
  fsyncdir: true,
  statfs: true,
  syncfs: true,
  getxattr: true,
  listxattr: true,
  setxattr: true,
  removexattr: true,
  fallocate: true,
  lseek: true,
  copyFileRange: true,
  ioctl: true,
};

/** The names of all methods that a {@link Backend} can have. */
export const backendMethods = Object.keys(table) as readonly BackendMethod[];

/**
 * Checks that an object has the methods without which there is no file system: `mount`, `lookup`
 * and `getattr`. A copy `{...instance}` of an object of a class has lost them, since a class keeps
 * its methods in its prototype.
 * @throws UsageError that names what is missing and the way out.
 */
export function requireBackend(backend: Backend): void {
  const missing = (['mount', 'lookup', 'getattr'] as const).filter(
    (method) => typeof backend[method] !== 'function',
  );
  if (missing.length === 0) return;
  throw new UsageError(
    `the backend has no ${missing.join(', no ')}: {...instance} copies no methods of a class; wrap(instance, {…}) keeps them`,
  );
}
