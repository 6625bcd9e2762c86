import { definePlugin } from '../../core/backend/index.js';
import { passthrough } from './backend.js';
import { options } from './options.js';

/**
 * Passthrough: a directory of the host, with exactly the semantics that the host gives it.
 * Operations are system calls relative to descriptors, never paths of more than one component;
 * files are remembered by file handle; data moves between page cache and guest memory without a
 * stop. Nothing outside the directory is reachable.
 */
export default definePlugin({
  name: 'passthrough',
  description: 'A directory of the host',
  options,
  create: (given, environment) => passthrough(given, environment.log),
  needs: ({ sharedDir }) => ({
    paths: [{ path: sharedDir, write: true, shared: true }],
    capabilities: [
      'chown',
      'dac_override',
      'dac_read_search',
      'fowner',
      'fsetid',
      'mknod',
      'setfcap',
      'setgid',
      'setuid',
    ],
  }),
});
