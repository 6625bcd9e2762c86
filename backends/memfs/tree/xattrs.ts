import { FileType, FsError, ModeBits, nameLength, XattrFlags } from '../../../core/backend/index.js';
import { ACCESS_ACL, Acl, DEFAULT_ACL } from './acl.js';
import type { Inode } from './inode.js';
import type { Space } from './space.js';

const E2BIG = FsError.of('E2BIG');
const EACCES = FsError.of('EACCES');
const EEXIST = FsError.of('EEXIST');
const EINVAL = FsError.of('EINVAL');
const ENODATA = FsError.of('ENODATA');
const EOPNOTSUPP = FsError.of('EOPNOTSUPP');
const ERANGE = FsError.of('ERANGE');

/** Linux `include/uapi/linux/limits.h`. */
const XATTR_NAME_MAX = 255;
const XATTR_MAX_BYTES = 65536;
const XATTR_LIST_MAX_BYTES = 65536;

/** Attributes that only a privileged caller sees. */
const TRUSTED = 'trusted.';
const NAMESPACES = ['user.', TRUSTED, 'security.'];

/** File capabilities. Changes of the file remove them. */
const CAPABILITY = 'security.capability';

/**
 * @returns undefined if there is no such attribute.
 * @throws EOPNOTSUPP, ERANGE, EINVAL for an invalid name
 */
export function getXattr(inode: Inode, name: string): Uint8Array | undefined {
  checkName(name);
  return inode.xattrs?.get(name);
}

/**
 * Names of an inode's xattrs. Those of `trusted.` are for a privileged caller only.
 * @throws E2BIG for more than Linux lists (listxattr(2)).
 */
export function listXattrs(inode: Inode, privileged: boolean): string[] {
  const names: string[] = [];
  let bytes = 0;
  for (const name of inode.xattrs?.keys() ?? []) {
    if (!privileged && name.startsWith(TRUSTED)) continue;
    bytes += nameLength(name) + 1;
    if (bytes > XATTR_LIST_MAX_BYTES) throw E2BIG;
    names.push(name);
  }
  return names;
}

/**
 * Sets an attribute. An access ACL also sets the mode.
 * @param killSgid clear the set-group-id bit with an access ACL, because the caller may not keep
 * it.
 */
export function setXattr(
  inode: Inode,
  name: string,
  value: Uint8Array,
  flags: number,
  killSgid: boolean,
  space: Space,
): void {
  checkName(name);
  if (value.length > XATTR_MAX_BYTES) throw E2BIG;
  const exists = inode.xattrs?.has(name) === true;
  if ((flags & XattrFlags.CREATE) !== 0 && exists) throw EEXIST;
  if ((flags & XattrFlags.REPLACE) !== 0 && !exists) throw ENODATA;
  if (name === ACCESS_ACL || name === DEFAULT_ACL) setAcl(inode, name, value, killSgid, space);
  else store(inode, name, value.slice(), space);
}

/** @throws ENODATA */
export function removeXattr(inode: Inode, name: string, space: Space): void {
  checkName(name);
  if (!drop(inode, name, space)) throw ENODATA;
}

/** Stores an attribute of any name, without copying `value`. @throws ENOSPC */
export function store(inode: Inode, name: string, value: Uint8Array, space: Space): void {
  space.takeXattr(nameLength(name) + value.length, isCounted(name));
  drop(inode, name, space);
  inode.xattrs ??= new Map();
  inode.xattrs.set(name, value);
  changed(inode, name);
}

/** For the recorder of the tree. */
function changed(inode: Inode, name: string): void {
  if (inode.isRecorded) (inode.changedXattrs ??= new Set()).add(name);
}

/** Removes all xattrs and frees their space. */
export function clearXattrs(inode: Inode, space: Space): void {
  if (inode.xattrs === undefined) return;
  for (const [name, value] of inode.xattrs) space.giveXattr(nameLength(name) + value.length, isCounted(name));
  inode.xattrs = undefined;
}

/** Updates the access ACL after a change of the permission bits. */
export function aclChmod(inode: Inode): void {
  const value = inode.xattrs?.get(ACCESS_ACL);
  if (value === undefined) return;
  const acl = Acl.decode(value);
  acl.setMode(inode.mode);
  inode.xattrs!.set(ACCESS_ACL, acl.encode());
  changed(inode, ACCESS_ACL);
}

/** Removes the file's capabilities, since the file has changed. */
export function dropCapabilities(inode: Inode, space: Space): void {
  if (inode.xattrs !== undefined) drop(inode, CAPABILITY, space);
}

/**
 * Sets an ACL. As in Linux (`simple_set_acl`), one that says no more than the mode is not stored.
 */
function setAcl(inode: Inode, name: string, value: Uint8Array, killSgid: boolean, space: Space): void {
  if (inode.type === FileType.SYMLINK) throw EOPNOTSUPP;
  const acl = Acl.decode(value);
  if (name === DEFAULT_ACL) {
    if (inode.entries === undefined) throw EACCES;
    store(inode, name, acl.encode(), space);
    return;
  }
  if (acl.isMinimal) drop(inode, name, space);
  else store(inode, name, acl.encode(), space);
  inode.mode = acl.applyTo(inode.mode);
  if (killSgid) inode.mode &= ~ModeBits.SETGID;
}

function drop(inode: Inode, name: string, space: Space): boolean {
  const value = inode.xattrs?.get(name);
  if (value === undefined) return false;
  space.giveXattr(nameLength(name) + value.length, isCounted(name));
  inode.xattrs!.delete(name);
  if (inode.xattrs!.size === 0) inode.xattrs = undefined;
  changed(inode, name);
  return true;
}

function isCounted(name: string): boolean {
  return name !== ACCESS_ACL && name !== DEFAULT_ACL;
}

/** Linux `xattr_resolve_name` and `setxattr_copy`. */
function checkName(name: string): void {
  if (nameLength(name) > XATTR_NAME_MAX) throw ERANGE;
  if (name === ACCESS_ACL || name === DEFAULT_ACL) return;
  const namespace = NAMESPACES.find((prefix) => name.startsWith(prefix));
  if (namespace === undefined) throw EOPNOTSUPP;
  if (name.length === namespace.length) throw EINVAL;
}
