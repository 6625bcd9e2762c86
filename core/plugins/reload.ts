import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { UsageError, type Logger } from '../backend/index.js';
import { isAtOrBelow } from '../system/index.js';
import { needsOf } from './backend-needs.js';
import { checkedExports } from './checked-exports.js';
import { configOf, type Config, type ReadConfig } from './options/config-schema.js';
import type { Daemon } from './daemon.js';
import { setLogLevel } from './logger.js';
import type { BackendRegistry } from './registry.js';

/** What a daemon was started with. */
export interface Started {
  /** The file's absolute path. */
  readonly file: string;
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
  const exports = checkedExports(config.exports);
  const lines = [...(await change({ ...config, exports, areChecked: true }))];
  const odd: string[] = OF_THE_PROCESS.filter((key) => !isDeepStrictEqual(config[key], started.config[key]));
  if (config.log.format !== started.config.log.format) odd.push('log.format');
  if (lines.length === 0) lines.push('no export has changed');
  return [...lines, ...odd.map((key) => `${key}: has changed, and needs a restart`)];
}

/** Takes changed configurations up in a daemon that serves. */
export class Reloading {
  readonly #change: Daemon['change'];
  readonly #registry: BackendRegistry;
  readonly #started: Started;
  readonly #log: Logger;
  /** The mount that shows a confined process the file, as the kernel describes it. */
  readonly #shown: string | undefined;
  /** The level of the log that the configuration file names. */
  #level: Config['log']['level'];
  #exports: number;

  constructor(daemon: Pick<Daemon, 'change'>, registry: BackendRegistry, started: Started, log: Logger) {
    this.#change = (options) => daemon.change(options);
    this.#registry = registry;
    this.#started = started;
    this.#log = log;
    this.#shown = mountOf(started.file);
    this.#level = started.config.log.level;
    this.#exports = started.config.exports.length;
  }

  /** How many exports are configured. */
  get exports(): number {
    return this.#exports;
  }

  /**
   * Has the daemon serve another configuration.
   * @returns lines that say what was done, and what needs a restart.
   * @throws UsageError if nothing was done.
   */
  async take(config: ReadConfig): Promise<readonly string[]> {
    const lines = await reload(this.#change, this.#registry, this.#started, config);
    // A level of the command line, or of another request, holds until the file's has changed.
    const { level } = config.log;
    if (level !== this.#level) setLogLevel(level);
    this.#level = level;
    this.#exports = config.exports.length;
    this.#log.info({ changes: lines }, 'reloaded');
    return lines;
  }

  /**
   * As {@link take}, with the file that the daemon was started with, as it is now.
   * @throws UsageError also where the file is another one now, which a confined process cannot see.
   */
  async takeFile(): Promise<readonly string[]> {
    const { file, isConfined } = this.#started;
    const hidden = `${file}: is another file now, and a confined daemon sees only the one of its start: virtiofs-kit reload --config sends it along`;
    // The kernel shows where that file is now: renamed, or deleted.
    if (isConfined && mountOf(file) !== this.#shown) throw new UsageError(hidden);
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      throw new UsageError(isConfined && code === 'EACCES' ? hidden : message, { cause: error });
    }
    return this.take(configOf(text, file));
  }
}

/** What /proc tells of the mount at a path, proc_pid_mountinfo(5); undefined if there is none. */
function mountOf(path: string): string | undefined {
  const escaped = path.replaceAll(
    /[ \t\n\\]/g,
    (one) => `\\${one.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .findLast((line) => line.split(' ')[4] === escaped);
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
