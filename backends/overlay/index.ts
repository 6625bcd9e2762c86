/**
 * The overlay backend: a writable upper over read-only lowers, each any backend, with the
 * semantics and the on-disk format of Linux overlayfs.
 *
 * `backend.ts` puts an overlay together, with `settings.ts`, which all parts share. `layers/` is
 * what one layer knows: nodes that are in use, whiteouts and other marks, the work area, where
 * content is. `tree/` is the union: its nodes, look-up, listings, and the queue of changes.
 * `changes/` copies up, creates, renames and removes. `operations/` are the contract's methods,
 * thin. `offline/` has the commands, which list, export and commit the differences.
 * `saved-state.ts` is the state for a restart, `recovery.ts` for one after the process was killed.
 * `transfer.ts` takes all to another host, with `upper-contents.ts`, what is in an upper.
 * `headed-bytes.ts` is the form of both states.
 * `host-files.ts` is for the program that serves it: files by path.
 */
import { definePlugin } from '../../core/backend/index.js';
import { commands } from './offline/commands.js';
import { createOverlay, layerBackend, options } from './options.js';

export { overlay, type OverlayBackend } from './backend.js';
export { type HostChange, HostFiles, type HostEntry, type NewFileOptions, pathOf } from './host-files.js';
export type { OverlayFile, OverlayNode } from './tree/node.js';
export { differences, type Difference } from './offline/diff.js';
export { writeLayer } from './offline/layer-archive.js';
export type { OverlaySettings } from './settings.js';

export default definePlugin({
  name: 'overlay',
  description: 'a writable layer over read-only ones, each any backend',
  options,
  commands,
  create: createOverlay,
  needs: ({ lowers, upper, xattrs }) => ({
    paths: [],
    capabilities: xattrs === 'trusted' ? ['sys_admin', 'mknod'] : ['mknod'],
    backends: [...lowers, ...(upper === undefined ? [] : [upper])].map((layer) =>
      layerBackend(layer, xattrs),
    ),
  }),
});
