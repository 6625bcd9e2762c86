/** A kind of backend for tests: an empty directory that has no durable key. */
import { z } from 'zod';
import { type Backend, definePlugin, FileType } from '../../core/backend/index.js';

export default definePlugin({
  name: 'keyless',
  description: 'an empty directory without a key',
  options: z.strictObject({}),
  create(): Backend {
    const root = { mode: FileType.DIRECTORY | 0o755 };
    return { mount: () => root, lookup: () => undefined, getattr: () => root, readdir: () => [] };
  },
});
