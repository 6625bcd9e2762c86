import { existsSync, realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Errno, type BackendNeeds, type BackendSpec, type Logger } from '../backend/index.js';
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
import type { Layer } from './confinement-options.js';
import { check } from './schema.js';

export interface Confinement {
  readonly layers: readonly Layer[];
  readonly seccompAction: SeccompAction;
  /** Changes to the capabilities that are kept, such as `+sys_admin` and `-mknod`. */
  readonly capabilities: readonly string[];
  /** Further files that the daemon reads, such as its configuration. */
  readonly reads: readonly string[];
  /** Further folders in which it makes files; those of its sockets are known. */
  readonly writes?: readonly string[];
}

/** Environment variable that carries the report of what was done through execve(2). */
const DONE = 'VIRTIOFS_KIT_CONFINED';

/**
 * Paths that the program itself reads: the JavaScript engine, its libraries, settings of the
 * system. Missing ones do not matter.
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
 * Confines the daemon before it serves, by all layers that the kernel and its privileges allow, and
 * logs in one line what was done. Mount namespace, Landlock and capabilities belong to single
 * threads, and a JavaScript engine has several threads from the start. So they are set up on this
 * thread, which then executes the program again in the same process: all new threads inherit them.
 * The filter of system calls applies to all threads and comes last.
 *
 * - `mounts`: shared directories are remounted for this process alone, without devices, programs
 *   and set-id bits.
 * - `landlock`: only shared directories, sockets' folders and the program's own files are
 *   accessible.
 * - `capabilities`: those that no backend needs are given up for good.
 * - `seccomp`: system calls that a file server never makes are refused, and no privilege can be
 *   gained.
 *
 * If a backend runs programs of the operator, `landlock` is left out, and `seccomp` allows the
 * calls that start programs.
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
    // There is a mistake in the options, or a directory is missing. The start of the daemon will
    // report it with a better message.
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
 * Executes the program again, so that all its threads are confined as this one. Returns only if
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

/** Restricts the paths. @returns 0, minus the errno, or the reason why it is not done. */
function restrict(
  options: Omit<DaemonOptions, 'log' | 'registry'>,
  wanted: Confinement,
  needs: BackendNeeds | string,
): number | string {
  if (typeof needs === 'string') return needs;
  if (needs.programs === true) return 'a backend runs programs';
  return restrictPaths(pathsOf(options, wanted, needs));
}

/** Remounts the shared directories. @returns what was done, for the log. */
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
  // Capabilities must survive when a thread switches to another user. This is set now, since the
  // right to set it is given up with the other capabilities.
  keepCapabilities();
  const code = boundCapabilities(new Set([...names].map(capabilityNumber)));
  return code === 0 ? [...names].sort().join(' ') || 'none' : `all (errno ${-code})`;
}

/** All paths that the daemon may access. */
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
 * The folders from which a module and its imports are loaded: that of its package, or else its own,
 * and all `node_modules` above it (an installed package has its dependencies beside it).
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

/** What all backends together need, or the reason why that is not known. */
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
