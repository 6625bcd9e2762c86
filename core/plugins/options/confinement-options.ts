import { UsageError } from '../../backend/index.js';
import { capabilityNumber } from '../../system/calls/credentials.js';

/** The layers by which a daemon can confine itself; see `confine`. */
export const LAYERS = ['mounts', 'network', 'landlock', 'capabilities', 'seccomp'] as const;
export type Layer = (typeof LAYERS)[number];

/** Reads a list of layers from the command line, separated by commas. @throws UsageError */
export function parseLayers(text: string): Layer[] {
  if (text === 'none') return [];
  return text.split(',').map((name) => {
    const layer = LAYERS.find((known) => known === name.trim());
    if (layer === undefined)
      throw new UsageError(`--confine ${name}: is not none or some of ${LAYERS.join(',')}`);
    return layer;
  });
}

/**
 * Reads changes to capabilities in the form of virtiofsd's `--modcaps`: `+sys_admin:-chown`.
 * @throws UsageError
 */
export function parseCapabilities(text: string): string[] {
  return text.split(':').map((change) => {
    if (!/^[+-][a-z_]+$/i.test(change))
      throw new UsageError(`--modcaps ${text}: must be like +sys_admin:-chown`);
    try {
      capabilityNumber(change.slice(1));
    } catch {
      throw new UsageError(`--modcaps ${text}: no capability ${change.slice(1)}`);
    }
    return change.toLowerCase();
  });
}
