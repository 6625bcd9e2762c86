import { type Backing, FileType, type StatIdentity } from '../../core/backend/index.js';
import type { Node } from './nodes/nodes.js';
import type { OpenFile } from './nodes/open-file.js';
import type { Share } from './share.js';

/** Descriptors by which threads that serve queues make system calls for themselves. */
export function backingOperations(share: Share) {
  const { nodes } = share;
  const attributes = !share.translates;
  return {
    backing(node: Node, file: OpenFile | undefined): Backing | undefined {
      if (file !== undefined) {
        if (!file.cached) return undefined;
        const writes = file.writable && !file.append && !file.synchronous && !share.mapsCapability;
        return { fd: file.fd, attributes, readFlags: file.nowait, writes, names: false };
      }
      return {
        // A node that has none would have another one lose its own, again and again where there are
        // many.
        fd: nodes.isAnchored(node) ? nodes.descriptor(node) : -1,
        attributes,
        readFlags: 0,
        writes: false,
        names: attributes && nodes.fileType(node) === FileType.DIRECTORY,
        identity: identityOf(node),
      };
    },
  };

  function identityOf(node: Node): StatIdentity | undefined {
    const { id } = share.mountOf(node);
    return id < 0 || id >= 2 ** 32 ? undefined : nodes.statIdentity(node, id);
  }
}
