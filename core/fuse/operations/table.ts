import { Errno } from '../../backend/index.js';
import { OPCODE_END, Opcode } from '../wire/abi.js';
import { getattr, setattr, statfs, statx } from './attributes.js';
import { fsyncdir, opendir, readdir, readdirplus, releasedir } from './directories.js';
import {
  copyFileRange,
  copyFileRange64,
  fallocate,
  fsync,
  ioctl,
  lseek,
  read,
  syncfs,
  write,
} from './files.js';
import { destroy, init } from './init.js';
import { interrupt, notifyReply } from './interrupt.js';
import { getlk, setlk, setlkw } from './locks.js';
import { batchForget, forget, lookup } from './lookup.js';
import { link, mkdir, mknod, readlink, rename, rename2, rmdir, symlink, unlink } from './names.js';
import { create, flush, open, release, tmpfile } from './open.js';
import { inOneShape, refusal, type Operation } from './operation.js';
import { getxattr, listxattr, removexattr, setxattr } from './xattrs.js';

/** The operation of each opcode, by its name. */
const byName: { readonly [name in keyof typeof Opcode]: Operation } = {
  LOOKUP: lookup,
  FORGET: forget,
  GETATTR: getattr,
  SETATTR: setattr,
  READLINK: readlink,
  SYMLINK: symlink,
  MKNOD: mknod,
  MKDIR: mkdir,
  UNLINK: unlink,
  RMDIR: rmdir,
  RENAME: rename,
  LINK: link,
  OPEN: open,
  READ: read,
  WRITE: write,
  STATFS: statfs,
  RELEASE: release,
  FSYNC: fsync,
  SETXATTR: setxattr,
  GETXATTR: getxattr,
  LISTXATTR: listxattr,
  REMOVEXATTR: removexattr,
  FLUSH: flush,
  INIT: init,
  OPENDIR: opendir,
  READDIR: readdir,
  RELEASEDIR: releasedir,
  FSYNCDIR: fsyncdir,
  GETLK: getlk,
  SETLK: setlk,
  SETLKW: setlkw,
  // Linux checks permissions itself (`default_permissions`). After ENOSYS it does not ask again.
  ACCESS: refusal('ACCESS', Errno.ENOSYS),
  CREATE: create,
  INTERRUPT: interrupt,
  // Only for file systems on a block device.
  BMAP: refusal('BMAP', Errno.ENOSYS),
  DESTROY: destroy,
  IOCTL: ioctl,
  // After ENOSYS Linux regards every file as ready, as on other file systems.
  POLL: refusal('POLL', Errno.ENOSYS),
  NOTIFY_REPLY: notifyReply,
  BATCH_FORGET: batchForget,
  FALLOCATE: fallocate,
  READDIRPLUS: readdirplus,
  RENAME2: rename2,
  LSEEK: lseek,
  COPY_FILE_RANGE: copyFileRange,
  // There is no DAX window: INIT never agrees to FUSE_MAP_ALIGNMENT.
  SETUPMAPPING: refusal('SETUPMAPPING', Errno.ENOSYS),
  REMOVEMAPPING: refusal('REMOVEMAPPING', Errno.ENOSYS),
  SYNCFS: syncfs,
  TMPFILE: tmpfile,
  STATX: statx,
  COPY_FILE_RANGE_64: copyFileRange64,
};

/** The operation of each opcode, by its number; undefined for numbers without an opcode. */
export const operations: readonly (Operation | undefined)[] = Array.from(
  { length: OPCODE_END },
  (_, opcode) => {
    for (const [name, number] of Object.entries(Opcode))
      if (number === opcode) return inOneShape(byName[name as keyof typeof Opcode]);
    return undefined;
  },
);
