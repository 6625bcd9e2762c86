import { z } from 'zod';
import { definePlugin, FileType } from '../../core/backend/index.js';

/** A backend with a mistake: it lists a file that its lookup does not find. */
const root = { mode: FileType.DIRECTORY | 0o555 };

export default definePlugin({
  name: 'lossy',
  description: 'lists what is not there',
  options: z.strictObject({}),
  create: () => ({
    mount: () => root,
    lookup: () => undefined,
    getattr: () => root,
    readdir: () => [{ name: 'ghost', type: FileType.REGULAR }],
  }),
});
