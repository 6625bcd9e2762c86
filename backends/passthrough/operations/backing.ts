import type { Fd } from '../../../core/system/index.js';
import type { Backing, StatIdentity } from '../../../core/backend/accelerator.js';
import { FileType } from '../../../core/backend/index.js';
import type { Node } from '../nodes/nodes.js';
import type { OpenFile } from '../nodes/open-file.js';
import type { Share } from '../share.js';
import { statDescriptor, statDeviceNumber } from '../calls/stat.js';

/**
 * Descriptors for queue threads, which serve some requests without this backend: see
 * `Backend.backing`. `attributes` is false where owners are translated, since a thread shows them
 * as they are on the host.
 */
export function backingOperations(share: Share) {
  const { nodes } = share;
  const attributes = !share.translates;
  return {
    backing(node: Node, file: OpenFile | undefined): Backing | undefined {
      if (file !== undefined) {
        if (!file.cached) return undefined;
        // A write to a file that was opened for reading is EBADF either way.
        const writes = !file.append && !file.synchronous && !share.xattrs.hasMappedCapability;
        return {
          fd: file.fd,
          attributes: attributes && isNumberedAlike(file.fd),
          readFlags: file.nowait,
          writes,
          names: false,
        };
      }
      const fd = nodes.isAnchored(node) ? nodes.descriptor(node) : (-1 as Fd);
      const isShownAlike = attributes && (fd < 0 ? nodes.mountIndex(node) === 0 : isNumberedAlike(fd));
      return {
        // Only a node that has a descriptor already gives one. Opening one here would push another
        // out of the cache, again and again where a guest knows many files.
        fd,
        attributes: isShownAlike,
        readFlags: 0,
        writes: false,
        names: attributes && nodes.fileType(node) === FileType.DIRECTORY,
        // A thread that finds the file by a name would tell the host's inode number.
        identity: isShownAlike ? identityOf(node) : undefined,
      };
    },
  };

  /** Whether guests see inode numbers of a file's device as they are on the host. */
  function isNumberedAlike(fd: Fd): boolean {
    return statDescriptor(fd) === 0 && share.inodeNumbers.isOwn(statDeviceNumber());
  }

  function identityOf(node: Node): StatIdentity | undefined {
    const { id } = share.mountOf(node);
    return id < 0 || id >= 2 ** 32 ? undefined : nodes.statIdentity(node, id);
  }
}
