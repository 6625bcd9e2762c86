/**
 * A kind of backend for tests: an empty directory that says when it is to be saved, by a file, and
 * fails to once somebody has removed that.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { type Backend, definePlugin, FileType } from '../../core/backend/index.js';

export default definePlugin({
  name: 'unsaved',
  description: 'an empty directory that cannot be saved',
  options: z.strictObject({ mark: z.string().describe('the file') }),
  create({ mark }): Backend {
    const root = { mode: FileType.DIRECTORY | 0o755 };
    return {
      mount: () => root,
      lookup: () => undefined,
      getattr: () => root,
      readdir: () => [],
      key: () => 'root',
      resolve: () => root,
      async save() {
        writeFileSync(mark, '');
        while (existsSync(mark)) await sleep(10);
        throw new Error('it cannot be saved');
      },
    };
  },
});
