import { dirname, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { UsageError } from '../backend/index.js';
import { isAtOrBelow } from '../system/index.js';
import { needsOf } from './confine.js';
import type { Config, ReadConfig } from './options/config-schema.js';
import type { Daemon } from './daemon.js';
import type { BackendRegistry } from './registry.js';

/** What a daemon was started with. */
export interface Started {
  readonly config: ReadConfig;
  /** Whether the process is confined to what that configuration names. */
  readonly isConfined: boolean;
  /** Folders of further sockets, in which it may make others. */
  readonly folders: readonly string[];
}

/** Settings that only a new process takes up. */
const OF_THE_PROCESS = [
  'confine',
  'metrics',
  'accessLog',
  'keep',
] as const satisfies readonly (keyof Config)[];

/**
 * Serves another configuration than the one that a daemon was started with, as far as that is
 * possible while it runs.
 * @param change the daemon's.
 * @returns lines that say what was done, and what needs a restart.
 * @throws UsageError if nothing was done.
 */
export async function reload(
  change: Daemon['change'],
  registry: BackendRegistry,
  started: Started,
  config: ReadConfig,
): Promise<readonly string[]> {
  if (started.isConfined) await mustBeReachable(started, config, registry);
  for (const backend of Object.values(config.backends)) await registry.check(backend, config);
  for (const { backend } of config.exports)
    if (typeof backend !== 'string') await registry.check(backend, config);
  const lines = [...(await change(config))];
  const odd: string[] = OF_THE_PROCESS.filter((key) => !isDeepStrictEqual(config[key], started.config[key]));
  if (config.log.format !== started.config.log.format) odd.push('log.format');
  if (lines.length === 0) lines.push('no export has changed');
  return [...lines, ...odd.map((key) => `${key}: has changed, and needs a restart`)];
}

function refuse(what: string): never {
  throw new UsageError(`${what}: the daemon has confined itself to what it needed at its start: restart it`);
}

/**
 * A confined process cannot reach more than at its start.
 * @throws UsageError for exports that need more.
 */
async function mustBeReachable(
  started: Started,
  config: ReadConfig,
  registry: BackendRegistry,
): Promise<void> {
  const [now, then] = [await needsOf(config, registry), await needsOf(started.config, registry)];
  if (typeof then === 'string') return;
  if (typeof now === 'string') return refuse(now);
  const given = then.paths;
  for (const { path, write } of now.paths) {
    if (!given.some((one) => (one.write || !write) && isAtOrBelow(resolve(path), resolve(one.path))))
      refuse(path);
  }
  for (const key of ['network', 'programs', 'machineCode'] as const)
    if (now[key] === true && then[key] !== true) refuse(key);
  const more = (now.capabilities ?? []).find((name) => !(then.capabilities ?? []).includes(name));
  if (more !== undefined) refuse(`capability ${more}`);
  const sockets = started.config.exports.flatMap(({ socket }) =>
    socket === undefined ? [] : [dirname(socket)],
  );
  const folders = [...sockets, ...started.folders];
  for (const { socket } of config.exports) {
    if (socket === undefined || folders.some((folder) => isAtOrBelow(socket, folder))) continue;
    refuse(socket);
  }
}
