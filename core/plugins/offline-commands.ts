import type { Logger, OfflineEnvironment } from '../backend/index.js';
import { hostBuffer } from '../memory/index.js';
import type { BackendRegistry } from './registry.js';

/** What commands of backends that run in this process may use. */
export function offlineEnvironment(registry: BackendRegistry, log: Logger): OfflineEnvironment {
  return {
    log,
    createBackend: (spec) => registry.create(spec, { log }),
    createBuffer: hostBuffer,
    output: process.stdout,
  };
}
