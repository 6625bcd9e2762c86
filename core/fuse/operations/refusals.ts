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

/** Whether a backend has no way to change anything. */
export function isReadOnly(backend: Backend): boolean {
  return CHANGES.every((method) => backend[method] === undefined);
}

/**
 * Why a change that the backend has no method for is refused: EROFS where it has none at all, else
 * EPERM, as Linux's VFS answers for a file system without that operation (`fs/namei.c`, `vfs_mkdir`
 * and its like).
 */
export function refuseChange(backend: Backend): FsError {
  return FsError.of(isReadOnly(backend) ? 'EROFS' : 'EPERM');
}
