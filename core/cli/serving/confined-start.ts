import { enterConfinement, type Confinement } from '../../plugins/confine.js';
import { codeCacheDirectory, fillCodeCache } from '../code-cache.js';
import type { Serving } from './serve-exports.js';

/**
 * Confines the process and serves until it is to end. Only the program that serves loads what is
 * needed for it.
 * @throws UsageError for a mistake in the options.
 */
export async function serveConfined(serving: Omit<Serving, 'entered'>, wanted: Confinement): Promise<void> {
  const { options, registry } = serving;
  const cache = codeCacheDirectory();
  const confinement = cache === undefined ? wanted : { ...wanted, reads: [...wanted.reads, cache] };
  const load = (): Promise<unknown> => Promise.all([import('./serve-exports.js'), registry.loadLater()]);
  const entered = await enterConfinement(options, registry, confinement, () => fillCodeCache(load));
  const { serveExports } = await import('./serve-exports.js');
  await serveExports({ ...serving, entered });
}
