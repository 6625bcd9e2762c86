/**
 * S3: a bucket as a file system with real file semantics. Objects are files one to one, so that
 * every other S3 tool reads the data; what is written is journalled on the local disk until the
 * bucket has it. README.md has the design; `backend.ts` serves the contract, `names.ts` finds,
 * `reader.ts` reads, `files.ts`, `staged.ts` and `upload.ts` write.
 */
import { accelerate } from '../../core/backend/accelerator.js';
import { definePlugin } from '../../core/backend/index.js';
import { ReadingBackend } from './reading-backend.js';
import { needsOf } from './service/machine-needs.js';
import { optionsSchema } from './options.js';
import type { Node } from './tree/nodes.js';
import type { OpenFile } from './write/files.js';
import { WritableBackend } from './writable-backend.js';

export default definePlugin({
  name: 's3',
  description: 'a bucket (S3 and compatible), journalled locally, readable by every other S3 tool',
  options: optionsSchema,
  create(options) {
    const backend = options.readOnly ? new ReadingBackend(options) : new WritableBackend(options);
    return accelerate<Node, OpenFile, ReadingBackend>(backend, { slots: true });
  },
  needs: (options) => needsOf(options),
});
