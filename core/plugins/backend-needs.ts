import { realpathSync } from 'node:fs';
import type { BackendNeeds, BackendSpec } from '../backend/index.js';
import type { AllowedPath } from '../system/confinement/landlock.js';
import { type BackendSource, isBackend } from './backend-source.js';
import type { DaemonOptions } from './daemon.js';
import { programFolders } from './program-folders.js';
import type { BackendRegistry } from './registry.js';

/** The part of a daemon's options that names its backends. */
interface NeedyOptions extends Pick<DaemonOptions, 'backends' | 'folder'> {
  readonly exports: readonly { readonly backend: BackendSource | string }[];
}

/** What all backends together need, or the reason why that is not known. */
export async function needsOf(
  { exports, backends, folder }: NeedyOptions,
  registry: BackendRegistry,
): Promise<BackendNeeds | string> {
  const paths: AllowedPath[] = [];
  const capabilities = new Set<string>();
  let programs = false;
  let network = false;
  let machineCode = false;
  const pending = [...exports.map(({ backend }) => backend), ...Object.values(backends ?? {})].filter(
    (source) => typeof source !== 'string',
  );
  for (const source of pending) {
    if (isBackend(source)) return 'a backend of your own';
    const plugin = await registry.load(source.type, folder);
    if (plugin.needs === undefined) return `backend ${source.type} does not say what it needs`;
    const { type } = source;
    const needs = plugin.needs(await registry.check(source, { folder }));
    paths.push(...needs.paths);
    const file = registry.fileOf(type, folder);
    if (file !== undefined) {
      for (const path of programFolders(realpathSync(file))) paths.push({ path, write: false });
    }
    for (const name of needs.capabilities ?? []) capabilities.add(name);
    programs ||= needs.programs === true;
    network ||= needs.network === true;
    machineCode ||= needs.machineCode === true;
    pending.push(...((needs.backends ?? []) as BackendSpec[]));
  }
  return { paths, capabilities: [...capabilities], programs, network, machineCode };
}
