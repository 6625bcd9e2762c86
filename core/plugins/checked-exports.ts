import { UsageError } from '../backend/index.js';
import { isNamed, type BackendSource } from './backend-source.js';
import type { CheckedExport, ServedExport } from './served-export.js';
import { exportSchema, type ExportConfig } from './options/config-schema.js';
import { check } from './options/option-descriptions.js';

const settingsSchema = exportSchema.omit({ backend: true });

/**
 * Exports as they are to be served. Those that have been checked once stay as they are.
 * @throws UsageError for a mistake in them.
 */
export function checkedExports(exports: readonly ServedExport[]): CheckedExport[] {
  return exports.map((one, index) => checkedExport(one, `exports[${index}]`, isCommon(one.backend, exports)));
}

/**
 * One of them.
 * @param isShared whether other exports have the same backend.
 * @throws UsageError
 */
export function checkedExport(
  { backend, optionName, mountedAt, ...rest }: ServedExport,
  what = '',
  isShared = false,
): CheckedExport {
  const settings = check(settingsSchema, rest, what);
  if (settings.queueThreads > 0 && Object.keys(settings.rate ?? {}).length > 0)
    throw new UsageError(`${what}.rate: not with queueThreads, whose requests nobody counts in time`);
  if (settings.isolate !== 'none')
    throw new UsageError(`${what}.isolate: a daemon is one process; the command serve starts others`);
  return { ...withLocks(settings, isShared), backend, optionName, mountedAt };
}

/**
 * Decides whether locks are shared, if the settings do not. A process in a Linux guest takes no
 * signal while it waits for a shared lock. So locks stay in the guest if no other guest can share
 * them.
 */
function withLocks<T extends Pick<ExportConfig, 'locks' | 'maxConnections'>>(
  settings: T,
  common: boolean,
): T {
  const { locks = common || settings.maxConnections > 1 ? 'shared' : 'local' } = settings;
  return { ...settings, locks };
}

/** Whether several exports refer to this backend by its name. */
function isCommon(backend: string | BackendSource, exports: readonly ServedExport[]): boolean {
  return isNamed(backend) && exports.filter((one) => one.backend === backend).length > 1;
}
