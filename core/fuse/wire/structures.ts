import { layout } from './layout.js';

/**
 * The structures of Linux `include/uapi/linux/fuse.h`, protocol 7.46, in its order and with its
 * names.
 */

export const fuse_attr = layout({
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  flags: 'u32',
});

export const fuse_sx_time = layout({ tv_sec: 'u64', tv_nsec: 'u32', __reserved: 'i32' });

export const fuse_statx = layout({
  mask: 'u32',
  blksize: 'u32',
  attributes: 'u64',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  mode: 'u16',
  __spare0: 2,
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  attributes_mask: 'u64',
  atime: fuse_sx_time,
  btime: fuse_sx_time,
  ctime: fuse_sx_time,
  mtime: fuse_sx_time,
  rdev_major: 'u32',
  rdev_minor: 'u32',
  dev_major: 'u32',
  dev_minor: 'u32',
  __spare2: 112,
});

export const fuse_kstatfs = layout({
  blocks: 'u64',
  bfree: 'u64',
  bavail: 'u64',
  files: 'u64',
  ffree: 'u64',
  bsize: 'u32',
  namelen: 'u32',
  frsize: 'u32',
  padding: 'u32',
  spare: 24,
});

export const fuse_file_lock = layout({ start: 'u64', end: 'u64', type: 'u32', pid: 'u32' });

export const fuse_entry_out = layout({
  nodeid: 'u64',
  generation: 'u64',
  entry_valid: 'u64',
  attr_valid: 'u64',
  entry_valid_nsec: 'u32',
  attr_valid_nsec: 'u32',
  attr: fuse_attr,
});

export const fuse_forget_in = layout({ nlookup: 'u64' });
export const fuse_forget_one = layout({ nodeid: 'u64', nlookup: 'u64' });
export const fuse_batch_forget_in = layout({ count: 'u32', dummy: 'u32' });

export const fuse_getattr_in = layout({ getattr_flags: 'u32', dummy: 'u32', fh: 'u64' });
export const fuse_attr_out = layout({
  attr_valid: 'u64',
  attr_valid_nsec: 'u32',
  dummy: 'u32',
  attr: fuse_attr,
});

export const fuse_statx_in = layout({
  getattr_flags: 'u32',
  reserved: 'u32',
  fh: 'u64',
  sx_flags: 'u32',
  sx_mask: 'u32',
});
export const fuse_statx_out = layout({
  attr_valid: 'u64',
  attr_valid_nsec: 'u32',
  flags: 'u32',
  spare: 16,
  stat: fuse_statx,
});

export const fuse_mknod_in = layout({ mode: 'u32', rdev: 'u32', umask: 'u32', padding: 'u32' });
export const fuse_mkdir_in = layout({ mode: 'u32', umask: 'u32' });
export const fuse_rename_in = layout({ newdir: 'u64' });
export const fuse_rename2_in = layout({ newdir: 'u64', flags: 'u32', padding: 'u32' });
export const fuse_link_in = layout({ oldnodeid: 'u64' });

export const fuse_setattr_in = layout({
  valid: 'u32',
  padding: 'u32',
  fh: 'u64',
  size: 'u64',
  lock_owner: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  unused4: 'u32',
  uid: 'u32',
  gid: 'u32',
  unused5: 'u32',
});

export const fuse_open_in = layout({ flags: 'u32', open_flags: 'u32' });
export const fuse_create_in = layout({ flags: 'u32', mode: 'u32', umask: 'u32', open_flags: 'u32' });
export const fuse_open_out = layout({ fh: 'u64', open_flags: 'u32', backing_id: 'i32' });
export const fuse_release_in = layout({ fh: 'u64', flags: 'u32', release_flags: 'u32', lock_owner: 'u64' });
export const fuse_flush_in = layout({ fh: 'u64', unused: 'u32', padding: 'u32', lock_owner: 'u64' });

export const fuse_read_in = layout({
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  read_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
});
export const fuse_write_in = layout({
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  write_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
});
export const fuse_write_out = layout({ size: 'u32', padding: 'u32' });
export const fuse_statfs_out = layout({ st: fuse_kstatfs });
export const fuse_fsync_in = layout({ fh: 'u64', fsync_flags: 'u32', padding: 'u32' });

/**
 * The extended form. Without FUSE_SETXATTR_EXT the guest sends only the first {@link
 * SETXATTR_IN_COMPAT} bytes.
 */
export const fuse_setxattr_in = layout({ size: 'u32', flags: 'u32', setxattr_flags: 'u32', padding: 'u32' });
/** FUSE_COMPAT_SETXATTR_IN_SIZE. */
export const SETXATTR_IN_COMPAT = 8;
export const fuse_getxattr_in = layout({ size: 'u32', padding: 'u32' });
export const fuse_getxattr_out = layout({ size: 'u32', padding: 'u32' });

export const fuse_lk_in = layout({
  fh: 'u64',
  owner: 'u64',
  lk: fuse_file_lock,
  lk_flags: 'u32',
  padding: 'u32',
});
export const fuse_lk_out = layout({ lk: fuse_file_lock });

/** Guests before 7.36, which lack FUSE_INIT_EXT, send only {@link INIT_IN_COMPAT} bytes. */
export const fuse_init_in = layout({
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
  flags2: 'u32',
  unused: 44,
});
export const INIT_IN_COMPAT = 16;
export const fuse_init_out = layout({
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
  max_background: 'u16',
  congestion_threshold: 'u16',
  max_write: 'u32',
  time_gran: 'u32',
  max_pages: 'u16',
  map_alignment: 'u16',
  flags2: 'u32',
  max_stack_depth: 'u32',
  request_timeout: 'u16',
  unused: 22,
});

export const fuse_interrupt_in = layout({ unique: 'u64' });
export const fuse_ioctl_in = layout({
  fh: 'u64',
  flags: 'u32',
  cmd: 'u32',
  arg: 'u64',
  in_size: 'u32',
  out_size: 'u32',
});
export const fuse_ioctl_out = layout({ result: 'i32', flags: 'u32', in_iovs: 'u32', out_iovs: 'u32' });
export const fuse_fallocate_in = layout({
  fh: 'u64',
  offset: 'u64',
  length: 'u64',
  mode: 'u32',
  padding: 'u32',
});

export const fuse_in_header = layout({
  len: 'u32',
  opcode: 'u32',
  unique: 'u64',
  nodeid: 'u64',
  uid: 'u32',
  gid: 'u32',
  pid: 'u32',
  total_extlen: 'u16',
  padding: 'u16',
});
/** Where a WRITE's data begins in its request. */
export const WRITE_DATA = fuse_in_header.bytes + fuse_write_in.bytes;
export const fuse_out_header = layout({ len: 'u32', error: 'i32', unique: 'u64' });

export const fuse_notify_inval_inode_out = layout({ ino: 'u64', off: 'u64', len: 'u64' });
export const fuse_notify_inval_entry_out = layout({ parent: 'u64', namelen: 'u32', flags: 'u32' });
export const fuse_notify_prune_out = layout({ count: 'u32', padding: 'u32', spare: 'u64' });

export const fuse_dirent = layout({ ino: 'u64', off: 'u64', namelen: 'u32', type: 'u32' });
export const fuse_direntplus = layout({ entry_out: fuse_entry_out, dirent: fuse_dirent });

export const fuse_lseek_in = layout({ fh: 'u64', offset: 'u64', whence: 'u32', padding: 'u32' });
export const fuse_lseek_out = layout({ offset: 'u64' });
export const fuse_copy_file_range_in = layout({
  fh_in: 'u64',
  off_in: 'u64',
  nodeid_out: 'u64',
  fh_out: 'u64',
  off_out: 'u64',
  len: 'u64',
  flags: 'u64',
});
export const fuse_copy_file_range_out = layout({ bytes_copied: 'u64' });
export const fuse_syncfs_in = layout({ padding: 'u64' });

export const fuse_secctx = layout({ size: 'u32', padding: 'u32' });
export const fuse_secctx_header = layout({ size: 'u32', nr_secctx: 'u32' });
export const fuse_ext_header = layout({ size: 'u32', type: 'u32' });
export const fuse_supp_groups = layout({ nr_groups: 'u32' });
