import { readOnly, UsageError, type Backend } from '../backend/index.js';
import { hostBuffer } from '../memory/index.js';
import {
  Export,
  type ExportLimits,
  type ExportOptions,
  type HeldDescriptors,
  type Left,
  recoverExport,
  restoreExport,
  type Restored,
} from '../state/index.js';
import { type BackendSource, isBackend } from './backend-source.js';
import type { ExportConfig } from './options/config-schema.js';
import type { BackendRegistry, CreateBackendOptions } from './registry.js';

/** The settings of an export that do not depend on its transport. */
export type ExportSettings = Pick<ExportConfig, 'readOnly' | 'locks' | 'cache' | 'limits'> &
  Partial<Pick<ExportConfig, 'watch'>>;

/** What {@link openExport} needs. */
export interface OpenExportOptions extends CreateBackendOptions {
  readonly registry: BackendRegistry;
  /** See {@link ExportOptions.contentsMemory}. */
  readonly contentsMemory?: ExportOptions['contentsMemory'];
}

/**
 * Makes a backend, mounts it and opens it to sessions.
 * @throws UsageError for a mistake in its options.
 */
export async function openExport(
  source: BackendSource,
  settings: ExportSettings,
  options: OpenExportOptions,
): Promise<Export> {
  return open(source, settings, options, (backend, exportOptions) => Export.open(backend, exportOptions));
}

/**
 * As {@link openExport}, with the state that another process has saved.
 * @param held descriptors that go along with the state.
 * @throws also RangeError for a state that cannot be restored.
 */
export async function reopenExport(
  source: BackendSource,
  settings: ExportSettings,
  options: OpenExportOptions,
  state: Uint8Array,
  held: HeldDescriptors,
): Promise<Restored> {
  return open(source, settings, { ...options, continues: true }, (backend, exportOptions) =>
    restoreExport(backend, state, exportOptions, held),
  );
}

/** As {@link openExport}, with what another process has left that was killed. */
export async function takeOverExport(
  source: BackendSource,
  settings: ExportSettings,
  options: OpenExportOptions,
  left: Left,
): Promise<Restored> {
  return open(source, settings, { ...options, continues: true }, (backend, exportOptions) =>
    recoverExport(backend, left, exportOptions),
  );
}

async function open<T>(
  source: BackendSource,
  settings: ExportSettings,
  options: OpenExportOptions,
  mount: (backend: Backend, exportOptions: ExportOptions) => Promise<T>,
): Promise<T> {
  const { registry, log, contentsMemory } = options;
  try {
    const backend = isBackend(source) ? source : await registry.create(source, options);
    // The agent's touch must come by, also where nothing can be changed.
    const seen = settings.readOnly ? readOnly(backend) : backend;
    return await mount(settings.watch === true ? await watched(seen) : seen, {
      cache: withoutAbsent(settings.cache),
      limits: withoutAbsent<Partial<ExportLimits>>(settings.limits),
      localLocks: settings.locks === 'local',
      log,
      createBuffer: hostBuffer,
      ...(contentsMemory === undefined ? {} : { contentsMemory }),
    });
  } catch (error) {
    if (error instanceof RangeError) throw error;
    if (isBackend(source)) throw error;
    const what = error instanceof Error ? error.message : String(error);
    // A plugin with its own copy of this package throws that copy's `UsageError`.
    if (error instanceof Error && error.name === 'UsageError') throw error;
    throw new UsageError(`backend ${source.type}: ${what}`, { cause: error });
  }
}

/** Only exports that are watched load what watches. */
async function watched(backend: Backend): Promise<Backend> {
  const wrapper = await import('../wrappers/watched/watched.js');
  return wrapper.watched(backend);
}

type Given<T> = { [K in keyof T]: Exclude<T[K], undefined> };

function withoutAbsent<T extends object>(options: { [K in keyof T]: T[K] | undefined }): Given<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Given<T>;
}
