import { OPCODE_END, Opcode } from '../wire/abi.js';
import { getattr, setattr, statfs, statx } from './attributes.js';
import { destroy, init, interrupt, ioctl, notifyReply, refusals, syncfs } from './control.js';
import { fsyncdir, opendir, readdir, readdirplus, releasedir } from './directories.js';
import { copyFileRange, copyFileRange64, fallocate, fsync, lseek, read, write } from './files.js';
import { getlk, setlk, setlkw } from './locks.js';
import { batchForget, forget, lookup } from './lookup.js';
import { link, mkdir, mknod, readlink, rename, rename2, rmdir, symlink, unlink } from './names.js';
import { create, flush, open, release, tmpfile } from './open.js';
import { refusal, type Operation } from './operation.js';
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
  ACCESS: refusal('ACCESS', refusals.ACCESS),
  CREATE: create,
  INTERRUPT: interrupt,
  BMAP: refusal('BMAP', refusals.BMAP),
  DESTROY: destroy,
  IOCTL: ioctl,
  POLL: refusal('POLL', refusals.POLL),
  NOTIFY_REPLY: notifyReply,
  BATCH_FORGET: batchForget,
  FALLOCATE: fallocate,
  READDIRPLUS: readdirplus,
  RENAME2: rename2,
  LSEEK: lseek,
  COPY_FILE_RANGE: copyFileRange,
  SETUPMAPPING: refusal('SETUPMAPPING', refusals.SETUPMAPPING),
  REMOVEMAPPING: refusal('REMOVEMAPPING', refusals.REMOVEMAPPING),
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
      if (number === opcode) return byName[name as keyof typeof Opcode];
    return undefined;
  },
);
