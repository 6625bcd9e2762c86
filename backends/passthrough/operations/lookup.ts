import {
  type Attributes,
  type Context,
  decodeName,
  type Entry,
  type FsStatistics,
  FsError,
  SYMLINK_MAX,
} from '../../../core/backend/index.js';
import { fstatfs, readlinkat } from '../../../core/system/calls/files.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import { at, bytes, getLong, offset, putName } from '../calls/call-memory.js';
import type { Share } from '../share.js';
import { statDescriptor } from '../calls/stat.js';

/** LOOKUP, GETATTR, READLINK, STATFS and FORGET. */
export function lookupOperations(share: Share) {
  const { nodes } = share;
  return {
    forget(node: Node): void {
      if (node !== share.root) nodes.forget(node);
    },

    lookup(parent: Node, name: string, _context: Context): Entry<Node> | undefined {
      return share.lookUp(parent, share.descriptor(parent), putName(name), name);
    },

    getattr(node: Node, file: OpenFile | undefined, context: Context): Attributes {
      if (file === undefined && !nodes.isAnchored(node)) {
        share.finder.statUnanchored(node);
        return share.attributes();
      }
      const fd = file !== undefined ? file.fd : share.descriptor(node);
      if (context.birth !== true) return share.attributesOf(fd);
      const code = statDescriptor(fd);
      if (code < 0) throw FsError.of(-code);
      return share.attributes();
    },

    readlink(node: Node, _context: Context): string {
      // An empty path reads the link that the descriptor stands for, readlinkat(2).
      const size = readlinkat(share.descriptor(node), at.empty, at.target, SYMLINK_MAX);
      if (size < 0) throw FsError.of(-size);
      return decodeName(bytes, offset.target, offset.target + size);
    },

    statfs(node: Node, _context: Context): FsStatistics {
      const code = fstatfs(share.descriptor(node), at.statfs);
      if (code < 0) throw FsError.of(-code);
      const s = offset.statfs;
      return {
        blockSize: getLong(s + 72),
        blocks: getLong(s + 16),
        blocksFree: getLong(s + 24),
        blocksAvailable: getLong(s + 32),
        files: getLong(s + 40),
        filesFree: getLong(s + 48),
        nameMax: getLong(s + 64),
      };
    },
  };
}
