import { nameLength, encodeName } from '../../backend/index.js';
import { NotifyCode } from './abi.js';
import {
  fuse_notify_inval_entry_out,
  fuse_notify_inval_inode_out,
  fuse_notify_prune_out,
  fuse_out_header,
} from './structures.js';

/** The minor version that has {@link prune}: Linux 6.18. */
export const PRUNE_MINOR_VERSION = 45;

/* A notification is a reply whose `unique` is 0 and whose `error` is a {@link NotifyCode}. */

function message(code: number, body: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(fuse_out_header.bytes + body);
  const view = new DataView(bytes.buffer);
  view.setUint32(fuse_out_header.len, bytes.length, true);
  view.setInt32(fuse_out_header.error, code, true);
  return { bytes, view };
}

/**
 * The attributes of a node are not what the kernel has cached.
 * @param content whether its content is not, either.
 */
export function invalidInode(low: number, high: number, content: boolean): Uint8Array {
  const { bytes, view } = message(NotifyCode.INVAL_INODE, fuse_notify_inval_inode_out.bytes);
  const at = fuse_out_header.bytes;
  view.setUint32(at + fuse_notify_inval_inode_out.ino, low, true);
  view.setUint32(at + fuse_notify_inval_inode_out.ino + 4, high, true);
  // Offset -1: attributes alone. Length 0: to the end.
  view.setBigInt64(at + fuse_notify_inval_inode_out.off, content ? 0n : -1n, true);
  return bytes;
}

/** A name does not stand for what the kernel believes. */
export function invalidEntry(low: number, high: number, name: string): Uint8Array {
  const length = nameLength(name);
  const { bytes, view } = message(NotifyCode.INVAL_ENTRY, fuse_notify_inval_entry_out.bytes + length + 1);
  const at = fuse_out_header.bytes;
  view.setUint32(at + fuse_notify_inval_entry_out.parent, low, true);
  view.setUint32(at + fuse_notify_inval_entry_out.parent + 4, high, true);
  view.setUint32(at + fuse_notify_inval_entry_out.namelen, length, true);
  encodeName(name, bytes, at + fuse_notify_inval_entry_out.bytes);
  return bytes;
}

/**
 * The kernel is to forget nodes that no program uses. It passes over others.
 * @param ids the halves of each node's id, low before high.
 */
export function prune(ids: readonly number[]): Uint8Array {
  const { bytes, view } = message(NotifyCode.PRUNE, fuse_notify_prune_out.bytes + ids.length * 4);
  const at = fuse_out_header.bytes;
  view.setUint32(at + fuse_notify_prune_out.count, ids.length / 2, true);
  for (const [i, half] of ids.entries()) {
    view.setInt32(at + fuse_notify_prune_out.bytes + i * 4, half, true);
  }
  return bytes;
}
