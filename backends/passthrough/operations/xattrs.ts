import { type Context, decodeName, FsError } from '../../../core/backend/index.js';
import { fgetxattr, getxattr, listxattr, removexattr, setxattr } from '../../../core/system/calls/xattrs.js';
import { useFsetid } from '../calls/impersonation.js';
import type { Node } from '../nodes/nodes.js';
import { at, bytes, offset, putDescriptorPath, putText, XATTR_MAX_BYTES } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { ENODATA, ERANGE } from '../../../core/system/calls/negative-errno.js';

/**
 * Bytes that most values and lists fit into. The kernel takes and clears as much memory as a caller
 * has room, before it looks for the attribute, which mostly does not exist.
 */
const USUAL_BYTES = 256;

/**
 * Extended attributes. Those of files that are not open are reached by the descriptor's path below
 * /proc, because descriptors of O_PATH take no `f*xattr` call.
 */
export function xattrOperations(share: Share) {
  const map = share.xattrs.map;

  /** Linux asks for `security.capability` at the first write to each file, which is open then. */
  function read(node: Node, name: string, room = USUAL_BYTES): number {
    let size: number;
    if (node.open !== undefined) size = fgetxattr(node.open.fd, putText(name), at.xattr, room);
    else size = getxattr(putDescriptorPath(share.descriptor(node)), putText(name), at.xattr, room);
    return size === ERANGE && room < XATTR_MAX_BYTES ? read(node, name, XATTR_MAX_BYTES) : size;
  }

  function list(node: Node, room = USUAL_BYTES): number {
    const size = listxattr(putDescriptorPath(share.descriptor(node)), at.xattr, room);
    return size === ERANGE && room < XATTR_MAX_BYTES ? list(node, XATTR_MAX_BYTES) : size;
  }

  return {
    getxattr(node: Node, name: string, _context: Context): Uint8Array | undefined {
      const hostName = share.xattrs.toHost(name);
      if (share.xattrs.hides(hostName)) return undefined;
      const size = read(node, hostName);
      if (size === ENODATA) return undefined;
      if (size < 0) throw FsError.of(-size);
      return bytes.slice(offset.xattr, offset.xattr + size);
    },

    listxattr(node: Node, _context: Context): readonly string[] {
      const size = list(node);
      if (size < 0) throw FsError.of(-size);
      const names: string[] = [];
      let start = offset.xattr;
      for (let i = start; i < offset.xattr + size; i++) {
        if (bytes[i] !== 0) continue;
        const name = decodeName(bytes, start, i);
        start = i + 1;
        if (share.xattrs.hides(name)) continue;
        const shown = map === undefined ? name : map.toGuest(name);
        if (shown !== undefined) names.push(shown);
      }
      return names;
    },

    setxattr(
      node: Node,
      name: string,
      value: Uint8Array,
      flags: number,
      killSgid: boolean,
      _context: Context,
    ): void {
      const path = putDescriptorPath(share.descriptor(node));
      if (value.length > XATTR_MAX_BYTES) throw FsError.of('E2BIG');
      bytes.set(value, offset.xattr);
      // A change of the ACL must clear the set-group-id bit if the caller may not keep it. The
      // kernel does that for a thread without CAP_FSETID.
      useFsetid(!killSgid);
      const code = setxattr(path, putText(share.xattrs.toSet(name)), at.xattr, value.length, flags);
      if (code < 0) throw FsError.of(-code);
    },

    removexattr(node: Node, name: string, _context: Context): void {
      const code = removexattr(
        putDescriptorPath(share.descriptor(node)),
        putText(share.xattrs.toChange(name)),
      );
      if (code < 0) throw FsError.of(-code);
    },
  };
}
