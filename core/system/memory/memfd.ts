import type { Fd } from '../descriptors/fd.js';
import { check, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { OwnedFd } from '../descriptors/owned-fd.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;

/** Seals of fcntl(2), combined by `|`. */
export const Seal = { SEAL: 1, SHRINK: 2, GROW: 4, WRITE: 8 } as const;

/**
 * Seals a file against shrinking, so that memory mapped from it never lacks its pages. Nothing
 * happens if the file takes no seals, as that of a memory-backend-file, or no further ones.
 */
export function sealAgainstShrinking(fd: Fd): void {
  native.fcntl(fd, F_ADD_SEALS, Seal.SHRINK);
}

/**
 * Makes anonymous shared memory of `size` bytes, zeroed.
 * @param seals bits of {@link Seal}.
 * @throws SystemError
 */
export function memfd(name: string, size: number, seals = 0): OwnedFd {
  const fd = new OwnedFd(
    check(result(native.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)), 'memfd_create') as Fd,
  );
  try {
    check(result(native.ftruncate(fd.value, size)), `ftruncate of a memfd to ${size} bytes`);
    if (seals !== 0) check(result(native.fcntl(fd.value, F_ADD_SEALS, seals)), 'sealing a memfd');
  } catch (error) {
    fd.close();
    throw error;
  }
  return fd;
}
