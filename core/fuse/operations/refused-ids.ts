import { FsError } from '../../backend/index.js';

/** The id that is none: chown(2) and setresuid(2) take it for "as it is". */
const NO_ID = 0xffffffff;

/**
 * Refuses the id that stands for none where a guest must name a user or group. Elsewhere in a
 * request's header it is welcome: Linux sends it where an id has no meaning (FUSE_INVALID_UIDGID).
 * @throws EINVAL
 */
export function checkId(id: number): void {
  if (id === NO_ID) throw FsError.of('EINVAL');
}

const ACL_NAMES = new Set(['system.posix_acl_access', 'system.posix_acl_default']);
/** Linux `include/uapi/linux/posix_acl_xattr.h`: a version, then entries of tag, rights and id. */
const ACL_HEADER = 4;
const ACL_ENTRY = 8;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

/**
 * Refuses an access control list that gives rights to the id that is none. Whatever else is wrong
 * with a list is for the backend to find.
 * @throws EINVAL
 */
export function checkAcl(name: string, value: Uint8Array): void {
  if (!ACL_NAMES.has(name)) return;
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  for (let at = ACL_HEADER; at + ACL_ENTRY <= value.length; at += ACL_ENTRY) {
    const tag = view.getUint16(at, true);
    if (tag === ACL_USER || tag === ACL_GROUP) checkId(view.getUint32(at + 4, true));
  }
}
