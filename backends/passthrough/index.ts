import { definePlugin } from '../../core/backend/index.js';
import { options } from './options.js';

/**
 * Passthrough: serves a directory of the host with exactly the semantics that the host's file
 * system gives it. Operations are system calls relative to descriptors, never on paths of more than
 * one component. Nothing outside the directory is reachable.
 *
 * `backend.ts` puts the methods together, and `share.ts` holds what they have in common. `calls/`
 * makes the system calls: memory for arguments, stat results, the caller's identity. `nodes/`
 * remembers files by file handle or descriptor. `operations/` are the methods of the contract by
 * subject, and `batches/` carries out many requests at once. `watches.ts` tells what others change.
 * `maps/` translates owners and xattr names.
 */
export default definePlugin({
  name: 'passthrough',
  description: 'A directory of the host',
  options,
  // Who only asks what it needs does not load what serves.
  create: async (given, environment) => (await import('./backend.js')).create(given, environment),
  needs: ({ sharedDir, inodeFileHandles, trustedXattrs, xattr }) => ({
    paths: [{ path: sharedDir, write: true, shared: true }],
    capabilities: [
      'chown',
      'dac_override',
      // For open_by_handle_at(2); all else that it gives, dac_override does too.
      ...(inodeFileHandles === 'never' ? [] : ['dac_read_search']),
      'fowner',
      'fsetid',
      'mknod',
      'setfcap',
      'setgid',
      'setuid',
      ...(trustedXattrs === 'allow' && xattr ? ['sys_admin'] : []),
    ],
  }),
});
