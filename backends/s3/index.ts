/**
 * S3: serves a bucket as a file system with real file semantics. Objects are files one to one, so
 * every other S3 tool reads the data. What is written is journalled on the local disk until the
 * bucket has it. README.md has the design.
 *
 * `reading-backend.ts` and `writable-backend.ts` serve the contract, `leased-backend.ts` with locks
 * that hold between hosts, by `leases/`. `client/` makes the requests,
 * `objects/` maps keys and metadata to names and attributes, `tree/` has the nodes, look-up,
 * renames, watches, and where nodes are for a process that follows. `read/` reads and caches
 * blocks, `write/` stages and uploads, `journal/` is what survives a crash. `service/` puts a mount
 * together, takes guests to other hosts, and has the commands.
 */
import { accelerate } from '../../core/backend/accelerator.js';
import { definePlugin, UsageError } from '../../core/backend/index.js';
import { LeasedBackend } from './leased-backend.js';
import { ReadingBackend } from './reading-backend.js';
import { commands } from './service/commands.js';
import { machineNeeds } from './service/machine-needs.js';
import { optionsSchema, type S3Options } from './options.js';
import type { Node } from './tree/nodes.js';
import type { OpenFile } from './write/files.js';
import { WritableBackend } from './writable-backend.js';

function backendOf(options: S3Options): ReadingBackend {
  if (options.sharing === 'leases' && options.readOnly)
    throw new UsageError('sharing leases: locks are kept by writing to the bucket; leave --read-only out');
  if (options.sharing === 'leases') return new LeasedBackend(options);
  return options.readOnly ? new ReadingBackend(options) : new WritableBackend(options);
}

export default definePlugin({
  name: 's3',
  description: 'a bucket (S3 and compatible), journalled locally, readable by every other S3 tool',
  options: optionsSchema,
  commands,
  create(options) {
    const backend = backendOf(options);
    return accelerate<Node, OpenFile, ReadingBackend>(backend, {
      slots: true,
      // Whoever changes nothing renames nothing: keys are paths.
      tracesHelp: options.readOnly,
      ...backend.recovery,
      ...backend.migration,
    });
  },
  needs: (options) => machineNeeds(options),
});
