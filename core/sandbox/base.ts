import { type Backend, FileType, type Logger } from '../backend/index.js';
import type { BackendRegistry } from '../plugins/index.js';
import type { VolumeSnapshot } from '../../backends/memfs/index.js';
import type { Image } from './image/image.js';

/** How a sandbox's layers are put together. */
export const LAYERS = {
  upperPath: [],
  workPath: undefined,
  redirectDir: true,
  metacopy: true,
  xattrs: 'trusted',
  marks: 'auto',
} as const;

/** The layers of one sandbox. */
export interface OpenLayers {
  /** Top first. */
  readonly lowers: readonly Backend[];
  /** Frees what they need. */
  readonly close: () => void;
}

/** What sandboxes begin with. */
export interface Base {
  /** Makes the layers of one sandbox. */
  readonly open: (registry: BackendRegistry, log: Logger) => Promise<OpenLayers>;
  /** Keeps what all the layers share. @returns what ends that. */
  readonly hold: () => () => void;
  /** The image that the layers are of. Undefined: they are no image. */
  readonly image?: Image | undefined;
  /** What another sandbox has changed in them. Undefined: nothing. */
  readonly changes?: VolumeSnapshot | undefined;
}

const nothing = (): void => {};

/** A directory with nothing in it, in which nothing can be made. */
export function emptyFolder(): Backend<object> {
  const root = {};
  return {
    mount: () => root,
    lookup: () => undefined,
    getattr: () => ({ mode: FileType.DIRECTORY | 0o755 }),
    readdir: () => [],
  };
}

/** A directory of this host with a Linux system, mounts below it included. */
export function directoryBase(directory: string): Base {
  const source = { type: 'passthrough', sharedDir: directory, cache: 'always', submounts: 'cross' };
  return {
    hold: () => nothing,
    open: async (registry, log) => {
      const lower = await registry.create({ ...source, trustedXattrs: 'allow' }, { log });
      return { lowers: [lower], close: nothing };
    },
  };
}

/**
 * An image, whose files are read once for all sandboxes that begin with it. They are freed with the
 * last of these.
 */
export function imageBase(image: Image, files: VolumeSnapshot): Base {
  let holds = 0;
  const hold = (): (() => void) => {
    holds += 1;
    return () => {
      holds -= 1;
      if (holds === 0) files.discard();
    };
  };
  return {
    image,
    hold,
    open: () => {
      const release = hold();
      const volume = files.fork();
      const close = (): void => {
        volume.discard();
        release();
      };
      return Promise.resolve({ lowers: [volume.backend], close });
    },
  };
}

/** The files of a sandbox at one moment, from which others begin. */
export class SandboxSnapshot implements Base, Disposable {
  readonly open: Base['open'];
  readonly hold: Base['hold'];
  readonly image: Image | undefined;
  readonly changes: VolumeSnapshot;
  readonly #release: () => void;

  /** For {@link Sandbox.snapshot}. */
  constructor(base: Base, changes: VolumeSnapshot) {
    this.open = base.open;
    this.hold = base.hold;
    this.image = base.image;
    this.changes = changes;
    this.#release = base.hold();
  }

  /** Frees what only the snapshot needs. Sandboxes that began with it go on. */
  [Symbol.dispose](): void {
    this.changes.discard();
    this.#release();
  }
}
