import { existsSync, realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Errno, UsageError, type BackendNeeds, type BackendSpec, type Logger } from '../backend/index.js';
import {
  boundCapabilities,
  capabilityNumber,
  keepCapabilities,
  setNoNewPrivileges,
} from '../system/calls/credentials.js';
import { execute } from '../system/confinement/execute.js';
import {
  type AllowedPath,
  landlockVersion,
  noteRestriction,
  restrictPaths,
} from '../system/confinement/landlock.js';
import { ownMounts, remountInert } from '../system/confinement/namespaces.js';
import { refuseSystemCalls, type SeccompAction } from '../system/confinement/seccomp.js';
import type { DaemonOptions } from './daemon.js';
import { isBackend, type BackendSource } from './exports.js';
import type { BackendRegistry } from './registry.js';
import { check } from './schema.js';

/** By what a daemon can lock itself in. */
export const LAYERS = ['mounts', 'landlock', 'capabilities', 'seccomp'] as const;
export type Layer = (typeof LAYERS)[number];

export interface Confinement {
  readonly layers: readonly Layer[];
  readonly seccompAction: SeccompAction;
  /** Changes to the capabilities that are kept: `+sys_admin`, `-mknod`. */
  readonly capabilities: readonly string[];
  /** Files that the daemon reads beside its program, such as its configuration. */
  readonly reads: readonly string[];
  /** Folders that it makes files in beside those of its sockets. */
  readonly writes?: readonly string[];
}

/** Reads a list of layers as a command line has it. @throws UsageError */
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
 * Reads changes to capabilities as virtiofsd's `--modcaps` has them: `+sys_admin:-chown`.
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

/** Carries what was done through execve. */
const DONE = 'VIRTIOFS_KIT_CONFINED';

/**
 * What the program itself reads: the engine, its libraries, settings of the system. Those that
 * there are.
 */
const SYSTEM_PATHS = [
  '/usr',
  '/lib',
  '/lib64',
  '/lib32',
  '/bin',
  '/etc',
  '/proc',
  '/sys',
  '/run/systemd/resolve',
];

/**
 * Locks the daemon in before it serves, by all that the kernel and its privileges allow, and says
 * so in one line. Mounts of its own, Landlock and capabilities belong to threads, of which a
 * JavaScript engine has several from the start: they are set up on this one, which then executes
 * the program anew, in the same process. The filter of system calls is for all threads and comes
 * last.
 *
 * - `mounts`: shared directories are mounted anew for this process alone, without devices, programs
 *   and set-id bits.
 * - `landlock`: only shared directories, sockets' folders and the program's own files can be
 *   reached.
 * - `capabilities`: those that no backend needs are given up for good.
 * - `seccomp`: system calls that a server of files never makes are refused, and no privilege can be
 *   gained.
 *
 * A backend that runs programs of the operator's leaves out `landlock`, and of `seccomp` what
 * starts programs.
 */
export async function confine(
  options: Omit<DaemonOptions, 'log' | 'registry'>,
  registry: BackendRegistry,
  wanted: Confinement,
  log: Logger,
): Promise<void> {
  const done = process.env[DONE];
  if (done === undefined && wanted.layers.length > 0) {
    const needs = await needsOf(options, registry).catch(() => undefined);
    // A mistake in the options, or a missing directory: what starts the daemon says so, better.
    if (needs === undefined) return;
    if (typeof needs !== 'string' && !needs.paths.every(({ path }) => existsSync(path))) return;
    const report = JSON.stringify(prepare(options, wanted, needs));
    if (wanted.layers.some((layer) => layer !== 'seccomp')) executeAnew(options, report, log);
    process.env[DONE] = report;
  }
  const report = JSON.parse(process.env[DONE] ?? '{}') as Record<string, unknown>;
  delete process.env[DONE];
  if (String(report['landlock']).startsWith('version')) noteRestriction();
  if (wanted.layers.includes('seccomp')) {
    const code = refuseSystemCalls(wanted.seccompAction, report['programs'] === 'allowed');
    report['seccomp'] = code === 0 ? wanted.seccompAction : `no (errno ${-code})`;
  }
  log.info(wanted.layers.length === 0 ? { by: 'nothing' } : report, 'confined');
}

/**
 * Executes the program anew, so that all its threads are confined as this one. Returns only where
 * that fails.
 */
function executeAnew(
  { exports }: Omit<DaemonOptions, 'log' | 'registry'>,
  report: string,
  log: Logger,
): void {
  const keep = exports.flatMap(({ fd }) => (fd === undefined ? [] : [fd]));
  const code = execute(
    process.execPath,
    [process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    { ...process.env, [DONE]: report },
    keep,
  );
  log.warn({ errno: -code }, 'the program cannot be executed anew: only its main thread is confined');
}

/** Confines this thread. @returns what was done, for the log. */
function prepare(
  options: Omit<DaemonOptions, 'log' | 'registry'>,
  wanted: Confinement,
  needs: BackendNeeds | string,
): Record<string, unknown> {
  const report: Record<string, unknown> = {};
  const shared = typeof needs === 'string' ? [] : needs.paths.filter((path) => path.shared === true);
  if (wanted.layers.includes('mounts')) {
    report['mounts'] = mountShared(shared.map(({ path }) => realpathSync(path)));
  }
  setNoNewPrivileges();
  if (typeof needs !== 'string' && needs.programs === true) report['programs'] = 'allowed';
  if (wanted.layers.includes('landlock')) {
    const code = restrict(options, wanted, needs);
    if (code === 0) report['landlock'] = `version ${landlockVersion()}`;
    else report['landlock'] = typeof code === 'string' ? `no (${code})` : `no (errno ${-code})`;
  }
  if (wanted.layers.includes('capabilities')) {
    report['capabilities'] = typeof needs === 'string' ? `all (${needs})` : dropCapabilities(wanted, needs);
  }
  return report;
}

/** Restricts the paths. @returns 0, minus the errno, or why it is not done. */
function restrict(
  options: Omit<DaemonOptions, 'log' | 'registry'>,
  wanted: Confinement,
  needs: BackendNeeds | string,
): number | string {
  if (typeof needs === 'string') return needs;
  if (needs.programs === true) return 'a backend runs programs';
  return restrictPaths(pathsOf(options, wanted, needs));
}

/** Mounts the shared directories anew. @returns what was done, for the log. */
function mountShared(directories: readonly string[]): string {
  const code = ownMounts();
  if (code === -Errno.EINVAL) return 'no (the root directory is no mount point)';
  if (code < 0) return `no (errno ${-code})`;
  const failed = directories.map(remountInert).find((result) => result < 0);
  return failed === undefined ? 'own' : `no (errno ${-failed})`;
}

function dropCapabilities(wanted: Confinement, needs: BackendNeeds): string {
  if (process.geteuid?.() !== 0) return 'none to give up';
  const names = new Set(needs.capabilities);
  for (const change of wanted.capabilities) {
    if (change.startsWith('-')) names.delete(change.slice(1));
    else names.add(change.slice(1));
  }
  // A thread's switches between users must not touch them; the right to say so is given up with the
  // others.
  keepCapabilities();
  const code = boundCapabilities(new Set([...names].map(capabilityNumber)));
  return code === 0 ? [...names].sort().join(' ') || 'none' : `all (errno ${-code})`;
}

/** All that the daemon may reach. */
function pathsOf(
  options: Omit<DaemonOptions, 'log' | 'registry'>,
  wanted: Confinement,
  needs: BackendNeeds,
): AllowedPath[] {
  const read = [
    ...SYSTEM_PATHS,
    dirname(process.execPath),
    ...programFolders(fileURLToPath(import.meta.url)),
    ...wanted.reads,
  ];
  const sockets = options.exports.flatMap(({ socket }) =>
    socket === undefined ? [] : [dirname(resolve(socket))],
  );
  return [
    ...read.map((path) => ({ path, write: false })),
    ...['/dev', ...sockets, ...(wanted.writes ?? [])].map((path) => ({ path, write: true })),
    ...needs.paths,
  ];
}

/**
 * Folders that a module is loaded from with all that it imports: its package's, without which its
 * own, and those above in which packages are looked up (an installed package has its dependencies
 * beside it).
 */
export function programFolders(file: string): string[] {
  const above = [dirname(file)];
  for (let folder = above[0]!; folder !== '/';) above.push((folder = dirname(folder)));
  const own = above.find((folder) => existsSync(join(folder, 'package.json'))) ?? dirname(file);
  return [own, ...above.map((folder) => join(folder, 'node_modules')).filter((folder) => existsSync(folder))];
}

/** The part of a daemon's options that names its backends. */
interface NeedyOptions extends Pick<DaemonOptions, 'backends' | 'folder'> {
  readonly exports: readonly { readonly backend: BackendSource | string }[];
}

/** What all backends need together, or why that is not known. */
export async function needsOf(
  { exports, backends, folder }: NeedyOptions,
  registry: BackendRegistry,
): Promise<BackendNeeds | string> {
  const paths: AllowedPath[] = [];
  const capabilities = new Set<string>();
  let programs = false;
  const pending = [...exports.map(({ backend }) => backend), ...Object.values(backends ?? {})].filter(
    (source) => typeof source !== 'string',
  );
  for (const source of pending) {
    if (isBackend(source)) return 'a backend of your own';
    const plugin = await registry.load(source.type, folder);
    if (plugin.needs === undefined) return `backend ${source.type} does not say what it needs`;
    const { type, ...given } = source;
    const needs = plugin.needs(check(plugin.options, given, `backend ${type}`));
    paths.push(...needs.paths);
    const file = registry.fileOf(type, folder);
    if (file !== undefined) {
      for (const path of programFolders(realpathSync(file))) paths.push({ path, write: false });
    }
    for (const name of needs.capabilities ?? []) capabilities.add(name);
    programs ||= needs.programs === true;
    pending.push(...((needs.backends ?? []) as BackendSpec[]));
  }
  return { paths, capabilities: [...capabilities], programs };
}
