import { constants } from 'node:os';

/*
 * Results of calls that failed. Each is minus this host's errno, and has the errno's name. The
 * numbers are those of the host's libc, as Node knows them. Replies to guests use `Errno` of
 * core/backend, which has FUSE's numbers on every host.
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
export const ERANGE = -errno.ERANGE;
export const EMFILE = -errno.EMFILE;
export const ENAMETOOLONG = -errno.ENAMETOOLONG;
export const ENOSYS = -errno.ENOSYS;
export const ENODATA = -errno.ENODATA;
export const EMSGSIZE = -errno.EMSGSIZE;
export const ENOTSOCK = -errno.ENOTSOCK;
export const EOPNOTSUPP = -errno.EOPNOTSUPP;
export const EADDRINUSE = -errno.EADDRINUSE;
export const ECONNRESET = -errno.ECONNRESET;
export const ECONNREFUSED = -errno.ECONNREFUSED;
export const ESTALE = -errno.ESTALE;
