import type { Backend, Logger } from '../backend/index.js';
import type { BackendRegistry } from '../plugins/index.js';
import type { VolumeSnapshot } from '../../backends/memfs/index.js';

/** What sandboxes begin with. */
export interface Base {
  /** Makes the layers of one sandbox, top first. */
  readonly lowers: (registry: BackendRegistry, log: Logger) => Promise<Backend[]>;
  /** What another sandbox has changed in them. Undefined: nothing. */
  readonly changes?: VolumeSnapshot | undefined;
}

/** A directory of this host with a Linux system, mounts below it included. */
export function directoryBase(directory: string): Base {
  return {
    lowers: async (registry, log) => [
      await registry.create(
        {
          type: 'passthrough',
          sharedDir: directory,
          cache: 'always',
          submounts: 'cross',
          trustedXattrs: 'allow',
        },
        { log },
      ),
    ],
  };
}

/** The files of a sandbox at one moment, from which others begin. */
export class SandboxSnapshot implements Base, Disposable {
  readonly lowers: Base['lowers'];
  readonly changes: VolumeSnapshot;

  /** For {@link Sandbox.snapshot}. */
  constructor(base: Base, changes: VolumeSnapshot) {
    this.lowers = base.lowers;
    this.changes = changes;
  }

  /** Frees what only the snapshot needs. Sandboxes that began with it go on. */
  discard(): void {
    this.changes.discard();
  }

  [Symbol.dispose](): void {
    this.discard();
  }
}
