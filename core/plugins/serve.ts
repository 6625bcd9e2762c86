import type { Logger } from '../backend/index.js';
import { Daemon } from './daemon.js';
import type { ServedExport } from './served-export.js';
import { createLogger } from './logger.js';
import { BackendRegistry } from './registry.js';

/** What a program serves from within itself. */
export interface ServeOptions extends ServedExport {
  /** Default: warnings and errors, on standard error. */
  readonly log?: Logger | undefined;
}

/**
 * Serves one backend from within a program: `const daemon = await serve({ socket, tag, backend })`.
 * `await daemon.close()` ends it.
 * @throws UsageError for a mistake in the options.
 */
export function serve(options: ServeOptions): Promise<Daemon> {
  const { log = createLogger({ level: 'warn', format: 'auto' }), ...one } = options;
  return Daemon.start({ exports: [one], log, registry: new BackendRegistry() });
}
