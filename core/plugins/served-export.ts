import type * as z from 'zod';
import type { BackendSource } from './backend-source.js';
import type { ExportConfig, exportSchema } from './options/config-schema.js';
import type { OptionName } from './registry.js';

/** One socket to serve. Defaults are those of a configuration file. */
export interface ServedExport extends Omit<z.input<typeof exportSchema>, 'backend'> {
  /** A name under `backends`, a kind with its options, or a backend itself. */
  readonly backend: string | BackendSource;
  /** Names the backend's options in errors. Default: `backend TYPE: option`. */
  readonly optionName?: OptionName | undefined;
  /** In the place of a socket: where on this host the keeper mounts it, without symbolic links. */
  readonly mountedAt?: string | undefined;
}

/** An export with all its settings. */
export type CheckedExport = Omit<ExportConfig, 'backend'> &
  Pick<ServedExport, 'backend' | 'optionName' | 'mountedAt'>;
