import { constants } from 'node:os';

/*
 * What a call returns that failed: minus this host's errno, under the errno's name. The numbers are
 * those of the host's libc, as Node knows them. For replies to guests there is `Errno` in
 * core/backend: FUSE's numbers, whatever the host.
 */

const { errno } = constants;

export const EPERM = -errno.EPERM;
export const ENOENT = -errno.ENOENT;
export const EINTR = -errno.EINTR;
export const EIO = -errno.EIO;
export const EAGAIN = -errno.EAGAIN;
export const EACCES = -errno.EACCES;
export const EBUSY = -errno.EBUSY;
export const EEXIST = -errno.EEXIST;
export const EXDEV = -errno.EXDEV;
export const ENODEV = -errno.ENODEV;
export const EISDIR = -errno.EISDIR;
export const EINVAL = -errno.EINVAL;
export const EMFILE = -errno.EMFILE;
export const ENAMETOOLONG = -errno.ENAMETOOLONG;
export const ENOSYS = -errno.ENOSYS;
export const ENODATA = -errno.ENODATA;
export const EMSGSIZE = -errno.EMSGSIZE;
export const EOPNOTSUPP = -errno.EOPNOTSUPP;
export const EADDRINUSE = -errno.EADDRINUSE;
export const ECONNRESET = -errno.ECONNRESET;
export const ECONNREFUSED = -errno.ECONNREFUSED;
export const ESTALE = -errno.ESTALE;
