import { FsError, type Backend } from '../../backend/index.js';

const CHANGES = [
  'setattr',
  'mknod',
  'mkdir',
  'symlink',
  'link',
  'unlink',
  'rmdir',
  'rename',
  'create',
  'write',
  'setxattr',
  'removexattr',
] as const satisfies readonly (keyof Backend)[];

/** Whether a backend has none of the methods that change something. */
export function isReadOnly(backend: Backend): boolean {
  return CHANGES.every((method) => backend[method] === undefined);
}

/**
 * The error for a change that the backend has no method for. It is EROFS if the backend can change
 * nothing at all, else EPERM, as in Linux's VFS for a file system without the operation
 * (`fs/namei.c`, `vfs_mkdir` and others).
 */
export function refuseChange(backend: Backend): FsError {
  return FsError.of(isReadOnly(backend) ? 'EROFS' : 'EPERM');
}
