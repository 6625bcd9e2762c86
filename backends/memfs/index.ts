/**
 * memfs: an ephemeral file system in the daemon's memory, for sandboxes, scratch space and tests. To a guest it is a
 * tmpfs: `tree.ts` has the rules, `content.ts` the bytes, `backend.ts` serves both.
 */
import { definePlugin } from '../../core/backend/index.js';
import { Arena } from './arena.js';
import { MemfsBackend } from './backend.js';
import { PAGE } from './chunk.js';
import { options } from './options.js';
import { Space } from './space.js';
import { Tree } from './tree.js';

const arena = new Arena();

export default definePlugin({
  name: 'memfs',
  description: 'ephemeral file system in memory',
  options,
  create: ({ size, inodes }) => new MemfsBackend(new Tree(arena, new Space(Math.floor(size / PAGE), inodes))),
});
