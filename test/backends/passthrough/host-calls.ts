import { libc, result } from '../../../core/system/index.js';

/** The host's own calls, by path, declared apart from those that the backend uses. */
const calls = {
  renameat2: libc<(fd: number, path: string, toFd: number, toPath: string, flags: number) => number>(
    'renameat2',
    'int',
    ['int', 'str', 'int', 'str', 'uint'],
  ),
  mknod: libc<(path: string, mode: number, device: number) => number>('mknod', 'int', [
    'str',
    'uint',
    'uint64_t',
  ]),
  setxattr: libc<(path: string, name: string, value: string, size: number, flags: number) => number>(
    'lsetxattr',
    'int',
    ['str', 'str', 'str', 'size_t', 'int'],
  ),
  getxattr: libc<(path: string, name: string, value: number, size: number) => number>(
    'lgetxattr',
    'intptr_t',
    ['str', 'str', 'uintptr_t', 'size_t'],
  ),
  removexattr: libc<(path: string, name: string) => number>('lremovexattr', 'int', ['str', 'str']),
  fallocate: libc<(fd: number, mode: number, offset: number, length: number) => number>('fallocate', 'int', [
    'int',
    'int',
    'int64_t',
    'int64_t',
  ]),
  lseek: libc<(fd: number, offset: number, whence: number) => number>('lseek', 'int64_t', [
    'int',
    'int64_t',
    'int',
  ]),
  mount: libc<(source: string, target: string, type: string, flags: number, data: string) => number>(
    'mount',
    'int',
    ['str', 'str', 'str', 'uint64_t', 'str'],
  ),
  fdatasync: libc<(fd: number) => number>('fdatasync', 'int', ['int']),
  fadvise: libc<(fd: number, offset: number, length: number, advice: number) => number>(
    'posix_fadvise',
    'int',
    ['int', 'int64_t', 'int64_t', 'int'],
  ),
  umount2: libc<(target: string, flags: number) => number>('umount2', 'int', ['str', 'int']),
};

const AT_FDCWD = -100;
const POSIX_FADV_DONTNEED = 4;
const MNT_DETACH = 2;
const MS_BIND = 4096;

/** Each returns 0 or more, or minus the errno. */
export const host = {
  rename: (from: string, to: string, flags: number) =>
    result(calls.renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)),
  mknod: (path: string, mode: number, device: number) => result(calls.mknod(path, mode, device)),
  setxattr: (path: string, name: string, value: string, flags: number) =>
    result(calls.setxattr(path, name, value, value.length, flags)),
  xattrSize: (path: string, name: string) => result(calls.getxattr(path, name, 0, 0)),
  removexattr: (path: string, name: string) => result(calls.removexattr(path, name)),
  fallocate: (fd: number, mode: number, offset: number, length: number) =>
    result(calls.fallocate(fd, mode, offset, length)),
  seek: (fd: number, offset: number, whence: number) => result(calls.lseek(fd, offset, whence)),
  mountTmpfs: (target: string) => result(calls.mount('tmpfs', target, 'tmpfs', 0, 'size=1m')),
  bind: (source: string, target: string) => result(calls.mount(source, target, '', MS_BIND, '')),
  /** Takes a file's pages out of memory. */
  dropPages: (fd: number): void => {
    calls.fdatasync(fd);
    calls.fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  },
  unmount: (target: string) => result(calls.umount2(target, MNT_DETACH)),
  /** EBUSY while anything on it is open. */
  unmountIdle: (target: string) => result(calls.umount2(target, 0)),
};
