import { existsSync, fstatSync, readSync, realpathSync, writeSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import { Errno, UsageError, type BackendNeeds, type Logger } from '../backend/index.js';
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
import { isAtOrBelow, reachableMounts, readMounts, type MountInfo } from '../system/calls/own-mounts.js';
import {
  allowChanges,
  forbidChanges,
  forbidDevices,
  hideProcesses,
  leaveMount,
  mountOverItself,
  unshareMounts,
  unshareNetwork,
} from '../system/confinement/namespaces.js';
import {
  hideIoUring,
  refuseSystemCalls,
  sealSystemCalls,
  type SeccompAction,
} from '../system/confinement/seccomp.js';
import { refuseWebAssembly } from '../system/confinement/web-assembly.js';
import { threadsStarted } from '../system/started-threads.js';
import type { Fd } from '../system/descriptors/fd.js';
import { OwnedFd } from '../system/descriptors/owned-fd.js';
import { SpareListeners } from '../system/descriptors/spare-listeners.js';
import { memfd } from '../system/memory/memfd.js';
import { CallList } from '../system/batches/call-list.js';
import { prepareFaultGuard } from '../system/memory/fault-guard.js';
import { interfaces, isRefused, mappedFiles, startTicks, threadStates } from '../system/confinement/state.js';
import { keeperDescriptor } from '../keeper/inherited.js';
import { needsOf } from './backend-needs.js';
import { CONFINED } from './confinement-claim.js';
import type { DaemonOptions } from './daemon.js';
import { commandLineWords } from './process-arguments.js';
import { inheritedSocket } from './inherited-socket.js';
import { programFolders } from './program-folders.js';
import type { BackendRegistry } from './registry.js';
import { LAYERS, type Layer } from './options/confinement-options.js';

export interface Confinement {
  readonly layers: readonly Layer[];
  readonly seccompAction: SeccompAction;
  /** What becomes of a layer that cannot be had: the end of the start, or a warning in the log. */
  readonly missingLayers: 'error' | 'warn';
  /** Changes to the capabilities that are kept, such as `+sys_admin` and `-mknod`. */
  readonly capabilities: readonly string[];
  /** Further files that the daemon reads, such as its configuration. */
  readonly reads: readonly string[];
  /** Further folders in which it makes files; those of its sockets are known. */
  readonly writes?: readonly string[];
  /** Descriptors that it goes on with when it has executed its program anew. */
  readonly descriptors?: readonly number[];
  /** Whether it goes on to make sockets to listen on when it has started, as for its commands. */
  readonly listens?: boolean;
  /** The descriptor by which it tells a service manager how it is doing: it only writes there. */
  readonly notifier?: number | undefined;
}

/** A process whose threads are what they will be, and which has not loaded what serves. */
export interface Entered {
  /**
   * Confines the process further, all that is left but {@link Confined.seal}, and logs in one line
   * what was done.
   * @throws UsageError if a layer cannot be had, unless `missingLayers` is `warn`.
   */
  confine(log: Logger): Confined;
}

/** A process that has confined itself. */
export interface Confined {
  /**
   * To be called when the daemon has started, with its threads: from here on it makes no sockets
   * but those that it goes on to need, and no executable memory.
   * @throws UsageError if that cannot be had, unless `missingLayers` is `warn`.
   */
  seal(): Promise<void>;
}

/**
 * Threads of libuv's pool, if the environment does not say how many. Half of them are one guest's
 * at most (passthrough's `Turns`): as many as libuv has by default.
 */
const POOL_THREADS = '8';

/**
 * Paths that the program itself reads: the JavaScript engine, its libraries, settings of the
 * system. Missing ones do not matter.
 */
const SYSTEM_PATHS = [
  '/usr',
  '/lib',
  '/lib64',
  '/lib32',
  // As a whole: a rule on what lies in it is lost when the kernel drops that from memory. The layer
  // of mounts hides what is about other processes.
  '/proc',
  '/sys/devices/system',
  '/sys/fs/cgroup',
  '/sys/kernel/mm',
  '/run/systemd/resolve',
  // Below /etc there are secrets: only what the C library and TLS read.
  '/etc/ld.so.cache',
  '/etc/localtime',
  '/etc/nsswitch.conf',
  '/etc/host.conf',
  '/etc/hosts',
  '/etc/resolv.conf',
  '/etc/gai.conf',
  '/etc/services',
  '/etc/protocols',
  '/etc/passwd',
  '/etc/group',
  '/etc/ssl/certs',
  '/etc/ssl/openssl.cnf',
  '/etc/pki/tls/certs',
  '/etc/pki/tls/openssl.cnf',
  '/etc/pki/ca-trust/extracted',
  '/etc/crypto-policies',
];

/** Devices that give and take nothing of the machine's. */
const DEVICES = ['null', 'zero', 'full', 'random', 'urandom', 'tty'].map((name) => `/dev/${name}`);

/** What was done: by layer, and what the filter of system calls has to allow. */
interface Report {
  mounts?: string;
  network?: string;
  landlock?: string;
  capabilities?: string;
  seccomp?: string;
  programs?: 'allowed';
}

type ConfinedOptions = Omit<DaemonOptions, 'log' | 'registry'>;

/** What the process is confined for. */
interface Purpose {
  readonly wanted: Confinement;
  readonly needs: BackendNeeds | string;
  /** The folders of the exports' sockets. */
  readonly socketFolders: readonly string[];
  /** Where its keeper has mounts. */
  readonly mounts: readonly string[];
}

/** What the first program leaves for the one that it executes. */
interface Left extends Purpose {
  readonly report: Report;
  readonly given: unknown;
}

/**
 * Begins to confine the daemon before it serves. Mount namespace, Landlock and capabilities belong
 * to single threads, and a JavaScript engine has several threads from the start. So they are set up
 * on this thread, which then executes the program again in the same process: all new threads
 * inherit them. So this does not return, and the second program begins with {@link
 * inheritedConfinement}. The filter of system calls applies to all threads and comes last.
 *
 * - `mounts`: a mount namespace of its own, in which nothing can be changed but where the daemon
 *   writes, no device be opened and no set-id bit be honoured there, and /proc shows no other
 *   processes.
 * - `network`: a network of its own with nothing in it, unless a backend connects to others.
 * - `landlock`: only shared directories, sockets' folders and the program's own files are
 *   accessible.
 * - `capabilities`: those that no backend needs are given up for good.
 * - `seccomp`: only system calls that the JavaScript engine and a file server make are allowed, and
 *   no privilege can be gained. See {@link Confined.seal} for what follows when the daemon has
 *   started.
 *
 * If a backend runs programs of the operator, `landlock` is left out, and `seccomp` refuses only
 * what no program should do.
 * @returns only if nothing is to be done, or undefined if nothing was done, since the options are
 * wrong or a path is missing: the start of the daemon says it better, and must not succeed.
 * @param beforeExecution called while nothing is confined yet. What it returns is left for the
 * second program, as structured data.
 * @throws UsageError if the program cannot be executed again.
 */
export async function enterConfinement(
  options: ConfinedOptions,
  registry: BackendRegistry,
  wanted: Confinement,
  beforeExecution: () => Promise<unknown> = () => Promise.resolve(undefined),
): Promise<Entered | undefined> {
  if (wanted.layers.length === 0) {
    return {
      confine: (log) => {
        log.info({ by: 'nothing' }, 'confined');
        return { seal: () => Promise.resolve() };
      },
    };
  }
  const needs = await needsOf(options, registry).catch(() => undefined);
  if (needs === undefined) return undefined;
  if (typeof needs !== 'string' && !needs.paths.every(({ path }) => existsSync(path))) return undefined;
  const socketFolders = options.exports.flatMap(({ socket }) =>
    socket === undefined ? [] : [dirname(resolve(socket))],
  );
  const mounts = options.exports.flatMap(({ mountedAt }) => mountedAt ?? []);
  const purpose: Purpose = { wanted, needs, socketFolders, mounts };
  const given = await beforeExecution();
  throw executeAnew(options, { ...purpose, given, report: prepare(purpose) });
}

/**
 * What {@link enterConfinement} has left for this program. What is said of the confinement is
 * verified by {@link Entered.confine}: nothing of it is believed that the kernel does not confirm.
 * @returns undefined for a program that was not executed by it.
 * @throws UsageError if it cannot be read.
 */
export function inheritedConfinement(): { readonly entered: Entered; readonly given: unknown } | undefined {
  const claim = process.env[CONFINED];
  delete process.env[CONFINED];
  const [pid, ticks, fd] = (claim ?? '').split(' ');
  if (Number(pid) !== process.pid || ticks !== startTicks()) return undefined;
  const { given, report, ...purpose } = readLeft(Number(fd) as Fd);
  return { given, entered: { confine: (log) => confine(purpose, { ...report }, log) } };
}

function readLeft(number: Fd): Left {
  if (!Number.isInteger(number)) return untrue('it cannot be read');
  const fd = new OwnedFd(number);
  try {
    const bytes = Buffer.alloc(fstatSync(number).size);
    readSync(number, bytes, 0, bytes.length, 0);
    const left = deserialize(bytes) as Partial<Left>;
    const { wanted, report } = left;
    return typeof report === 'object' && Array.isArray(wanted?.layers)
      ? (left as Left)
      : untrue('it cannot be read');
  } catch (error) {
    if (error instanceof UsageError) throw error;
    return untrue(`it cannot be read (${(error as Error).message})`);
  } finally {
    fd.close();
  }
}

/** Memory that the program which is executed inherits. */
function leave(left: Left): OwnedFd {
  const bytes = serialize(left);
  const fd = memfd('virtiofs-kit start', bytes.length);
  writeSync(fd.value, bytes, 0, bytes.length, 0);
  return fd;
}

/** @param report what was done before, as it is claimed. */
function confine(purpose: Purpose, report: Report, log: Logger): Confined {
  const { wanted, needs } = purpose;
  verify(purpose, report);
  if (report.landlock?.startsWith('version') === true) noteRestriction();
  if (wanted.layers.includes('seccomp')) {
    const programs = report.programs === 'allowed';
    const code = refuseSystemCalls(wanted.seccompAction, { programs, network: hasNetwork(needs) });
    const filtered = code === 0 && threadStates().every(({ seccomp }) => seccomp === 2);
    report.seccomp = filtered ? wanted.seccompAction : absent(code);
  }
  settle(wanted, report, log);
  warnOfBinds(purpose, log);
  log.info({ ...report }, 'confined');
  return { seal: () => seal(purpose, report, log) };
}

/** Whether a backend connects to other machines, as far as that is known. */
function hasNetwork(needs: BackendNeeds | string): boolean {
  return typeof needs === 'string' || needs.programs === true || needs.network === true;
}

async function seal(purpose: Purpose, report: Report, log: Logger): Promise<void> {
  const { wanted, needs } = purpose;
  if (report.seccomp !== wanted.seccompAction || typeof needs === 'string' || needs.programs === true) return;
  // Code that would else be made at first use.
  prepareFaultGuard();
  CallList.prepare();
  await threadsStarted();
  const { network = false, machineCode = false } = needs;
  const { listens = false, notifier } = wanted;
  // A filter sees no addresses: who may connect to other machines makes no unix sockets.
  if (network && listens) {
    SpareListeners.use(spareListeners(purpose, needs), (folder, made, err) =>
      log.warn(
        { folder, made, err },
        'exports that are added later cannot have more sockets in this folder: they could not be made',
      ),
    );
  }
  const options = { network, machineCode, listens: listens && !network, notifier };
  const code = sealSystemCalls(wanted.seccompAction, options);
  if (code === 0 && !machineCode) refuseWebAssembly();
  if (code < 0) settle(wanted, { seccomp: absent(code) }, log);
  else log.debug(options, 'sealed');
}

/** How many unix sockets a daemon may come to listen on beside those of its start, in a folder. */
const SPARE_LISTENERS = 64;

/** Of those, how many are made before, by folder. */
function spareListeners({ wanted, socketFolders }: Purpose, { paths }: BackendNeeds): Map<string, number> {
  const own = paths.flatMap(({ path, listens }) => (listens === true ? [path] : []));
  return new Map([
    // A backend that is opened anew makes its own anew.
    ...own.map((path) => [path, 1] as const),
    ...[...socketFolders, ...(wanted.writes ?? [])].map((path) => [path, SPARE_LISTENERS] as const),
  ]);
}

/** Refuses to go on with a daemon that has started although it could not be confined. */
export function mustBeConfined(confined: Confined | undefined): asserts confined is Confined {
  if (confined !== undefined) return;
  throw new UsageError('what the backends need has changed during the start; start again');
}

/** How a layer that cannot be had is reported. */
const ABSENT = 'no (';
const absent = (why: number | string): string =>
  `${ABSENT}${typeof why === 'string' ? why : `errno ${-why}`})`;

/** Ends the start, or warns, if a layer is wanted that the kernel or the privileges don't give. */
function settle({ missingLayers }: Confinement, report: Report, log: Logger): void {
  const missing = LAYERS.find((layer) => report[layer]?.startsWith(ABSENT) === true);
  if (missing === undefined) return;
  const text = `--confine ${missing}: cannot be had: ${report[missing]!}`;
  if (missingLayers === 'error') {
    throw new UsageError(
      `${text}; leave it out of --confine, or accept what can be had with --missing-layers warn`,
    );
  }
  log.warn({ ...report }, text);
}

function untrue(what: string): never {
  throw new UsageError(`${CONFINED} is in the environment, but ${what}: unset it and start again`);
}

/**
 * Asks the kernel whether what the report says is so, for every thread.
 * @throws UsageError if it is not: someone else made the report.
 */
function verify(purpose: Purpose, report: Report): void {
  const { wanted, needs } = purpose;
  const threads = threadStates();
  if (!threads.every(({ noNewPrivs }) => noNewPrivs)) untrue('privileges can be gained');
  for (const layer of wanted.layers) {
    if (layer !== 'seccomp' && report[layer] === undefined) untrue(`it does not know of ${layer}`);
  }
  const leftOut = typeof needs === 'string' || needs.programs === true;
  if (!leftOut && report.landlock?.startsWith('left out') === true) untrue('paths are not restricted');
  if (
    report.mounts === OWN &&
    !withoutDevices(mountsOf(sharedPaths(needs))).every(({ flags }) => flags.includes('nodev'))
  ) {
    untrue('a shared directory has devices');
  }
  if (report.network === OWN && interfaces().some((name) => name !== 'lo')) untrue('there is a network');
  if (report.landlock?.startsWith('version') === true) {
    const allowed = typeof needs === 'string' ? [] : pathsOf(purpose, needs);
    if (!isRefused(allowed.map(({ path }) => path))) untrue('paths are not restricted');
  }
  if (wanted.layers.includes('capabilities') && typeof needs !== 'string') {
    const kept = keptCapabilities(wanted, needs).reduce((bits, name) => bits | (1n << name), 0n);
    const isMore = ({ bounding, permitted }: { bounding: bigint; permitted: bigint }): boolean =>
      ((report.capabilities === NO_PRIVILEGES ? permitted : bounding | permitted) & ~kept) !== 0n;
    if (!report.capabilities!.startsWith(ABSENT) && threads.some(isMore))
      untrue('there are more capabilities');
  }
}

/**
 * Executes the program again, so that all its threads are confined as this one.
 * @returns only if that fails: what to say.
 */
function executeAnew({ exports }: ConfinedOptions, left: Left): UsageError {
  const { descriptors = [] } = left.wanted;
  const keeper = keeperDescriptor();
  const memory = leave(left);
  const keep = [memory.value, ...exports.flatMap((one) => inheritedSocket(one) ?? []), ...descriptors];
  if (keeper !== undefined) keep.push(keeper);
  const code = execute(
    process.execPath,
    [process.execPath, ...process.execArgv, ...commandLineWords()],
    {
      UV_THREADPOOL_SIZE: POOL_THREADS,
      ...process.env,
      [CONFINED]: `${process.pid} ${startTicks()} ${memory.value}`,
    },
    keep,
  );
  return new UsageError(
    `${process.execPath}: cannot be executed anew to confine all its threads (errno ${-code}): ` +
      'mount its file system without noexec, or start with --confine none',
  );
}

/** Confines this thread. @returns what was done, for the log. */
function prepare(purpose: Purpose): Report {
  const { wanted, needs } = purpose;
  const report: Report = {};
  if (wanted.layers.includes('mounts')) report.mounts = isolateMounts(purpose);
  if (wanted.layers.includes('network')) report.network = leaveNetwork(needs);
  setNoNewPrivileges();
  if (typeof needs !== 'string' && needs.programs === true) report.programs = 'allowed';
  if (wanted.layers.includes('landlock')) {
    const code = restrict(purpose);
    if (typeof code === 'string') report.landlock = `left out (${code})`;
    else report.landlock = code === 0 ? `version ${landlockVersion()}` : absent(code);
  }
  if (wanted.layers.includes('capabilities')) {
    report.capabilities = typeof needs === 'string' ? `left out (${needs})` : dropCapabilities(wanted, needs);
  }
  if (wanted.layers.includes('seccomp')) {
    const code = hideIoUring();
    if (code < 0) report.seccomp = absent(code);
  }
  return report;
}

/** Restricts the paths. @returns 0, minus the errno, or the reason why it is not done. */
function restrict(purpose: Purpose): number | string {
  const { needs } = purpose;
  if (typeof needs === 'string') return needs;
  if (needs.programs === true) return 'a backend runs programs';
  return restrictPaths(pathsOf(purpose, needs), needs.network === true);
}

const OWN = 'own';
const NO_PRIVILEGES = 'none to give up';

function sharedPaths(needs: BackendNeeds | string): string[] {
  if (typeof needs === 'string') return [];
  return needs.paths.flatMap(({ path, shared }) =>
    shared === true && existsSync(path) ? [realpathSync(path)] : [],
  );
}

/** The mount that a path lies on. */
function mountOf(path: string, mounts: readonly MountInfo[]): MountInfo | undefined {
  return mounts
    .filter((mount) => isAtOrBelow(path, mount.directory))
    .reduce<MountInfo | undefined>(
      (best, mount) => (best !== undefined && best.directory.length > mount.directory.length ? best : mount),
      undefined,
    );
}

/** The mounts that directories lie on, and those below them. */
function mountsOf(directories: readonly string[]): MountInfo[] {
  const mounts = reachableMounts();
  const found = new Set<MountInfo>();
  for (const directory of directories) {
    const own = mountOf(directory, mounts);
    if (own !== undefined) found.add(own);
    for (const mount of mounts) {
      if (isAtOrBelow(mount.directory, directory) && mountOf(mount.directory, mounts) === mount)
        found.add(mount);
    }
  }
  return [...found];
}

/** As {@link mountsOf}, without that of the system's devices. */
function withoutDevices(mounts: readonly MountInfo[]): MountInfo[] {
  const devices = mountOf('/dev', reachableMounts());
  return mounts.filter(({ directory }) => directory !== devices?.directory);
}

/** @returns what was done, for the log. */
function leaveNetwork(needs: BackendNeeds | string): string {
  if (hasNetwork(needs)) return 'left out (a backend may connect to other machines)';
  if (threadStates().every(({ permitted }) => permitted === 0n)) return 'not needed (no privileges)';
  const code = unshareNetwork();
  return code < 0 ? absent(code) : OWN;
}

/** Takes devices and other processes out of sight. @returns what was done, for the log. */
function isolateMounts(purpose: Purpose): string {
  const { needs, mounts } = purpose;
  if (threadStates().every(({ permitted }) => permitted === 0n)) return 'not needed (no privileges)';
  const code = unshareMounts();
  if (code === -Errno.EINVAL) return absent('the root directory is no mount point');
  if (code < 0) return absent(code);
  // What this process is to serve is the keeper's. A mount here would stay when that has ended.
  for (const directory of mounts) leaveMount(directory);
  const isKnown = typeof needs !== 'string' && needs.programs !== true;
  const results = isKnown
    ? narrowMounts(purpose, needs)
    : withoutDevices(mountsOf(sharedPaths(needs))).map((mount) => unlessGone(mount, forbidDevices));
  const failed = [...results, hideProcesses()].find((result) => result < 0);
  return failed === undefined ? OWN : absent(failed);
}

/**
 * Leaves nothing to be changed but where the daemon writes, and no devices there. Where it may open
 * files by handle, that is the whole mount.
 * @returns 0 or minus the errno, several times.
 */
function narrowMounts(purpose: Purpose, needs: BackendNeeds): number[] {
  const { wanted, socketFolders } = purpose;
  const written = needs.paths.filter(({ write }) => write).map(({ path }) => path);
  const folders = [...written, ...socketFolders, ...(wanted.writes ?? [])]
    .filter((path) => existsSync(path))
    .map((path) => realpathSync(path));
  const outermost = folders.filter(
    (path) => !folders.some((other) => other !== path && isAtOrBelow(path, other)),
  );
  const byHandle =
    !wanted.layers.includes('capabilities') || capabilityNames(wanted, needs).includes('dac_read_search');
  const results: number[] = [];
  if (!byHandle) {
    const mounts = reachableMounts();
    for (const path of new Set(outermost))
      if (mountOf(path, mounts)?.directory !== path) results.push(mountOverItself(path));
  }
  const changed = mountsOf(outermost);
  results.push(forbidChanges());
  for (const mount of changed) if (!mount.flags.includes('ro')) results.push(unlessGone(mount, allowChanges));
  for (const mount of withoutDevices(changed)) results.push(unlessGone(mount, forbidDevices));
  return results;
}

/** Does something to a mount, which the host may unmount. @returns 0 or minus the errno. */
function unlessGone({ directory }: MountInfo, act: (directory: string) => number): number {
  const code = act(directory);
  return code < 0 && readMounts().every((mount) => mount.directory !== directory) ? 0 : code;
}

/** Numbers of the capabilities that are kept. */
function keptCapabilities(wanted: Confinement, needs: BackendNeeds): bigint[] {
  return capabilityNames(wanted, needs).map((name) => BigInt(capabilityNumber(name)));
}

function capabilityNames(wanted: Confinement, needs: BackendNeeds): string[] {
  const names = new Set(needs.capabilities);
  for (const change of wanted.capabilities) {
    if (change.startsWith('-')) names.delete(change.slice(1));
    else names.add(change.slice(1));
  }
  return [...names].sort();
}

function dropCapabilities(wanted: Confinement, needs: BackendNeeds): string {
  if (process.geteuid?.() !== 0) return NO_PRIVILEGES;
  // Capabilities must survive when a thread switches to another user. This is set now, since the
  // right to set it is given up with the other capabilities.
  keepCapabilities();
  const code = boundCapabilities(new Set(keptCapabilities(wanted, needs).map(Number)));
  return code === 0 ? capabilityNames(wanted, needs).join(' ') || 'none' : absent(code);
}

/**
 * Warns where Landlock does not hold. Through a directory of a file system that is mounted by a
 * bind, a process that may open files by handle reaches the whole file system: Landlock takes what
 * lies elsewhere on it to lie below that directory.
 */
function warnOfBinds(purpose: Purpose, log: Logger): void {
  const { wanted, needs } = purpose;
  if (typeof needs === 'string' || !wanted.layers.includes('landlock')) return;
  const byHandle = threadStates().some(({ permitted }) => (permitted & (1n << DAC_READ_SEARCH)) !== 0n);
  if (!byHandle) return;
  const allowed = pathsOf(purpose, needs).filter(({ path }) => existsSync(path));
  const paths = allowed.map(({ path }) => realpathSync(path));
  const mounts = readMounts().filter(({ root, type }) => root !== '/' && !PSEUDO.test(type));
  const binds = mounts.filter(({ directory }) => paths.some((path) => isAtOrBelow(directory, path)));
  const around = mounts.filter(({ directory }) =>
    paths.some((path) => withoutDevices(mountsOf([path])).some((mount) => mount.directory === directory)),
  );
  const places = [...new Set([...binds, ...around].map(({ directory }) => directory))];
  if (places.length === 0) return;
  log.warn(
    { mounts: places },
    'a part of a file system is mounted here: an intruder who opens files by handle reaches all of it; ' +
      'with --inode-file-handles never for each share, none can',
  );
}

const DAC_READ_SEARCH = BigInt(capabilityNumber('dac_read_search'));
/** File systems whose files cannot be opened by handle, or are the kernel's own. */
const PSEUDO = /^(proc|sysfs|cgroup2?|devpts|mqueue|nsfs|debugfs|tracefs|securityfs)$/;

/** All paths that the daemon may access. */
function pathsOf({ wanted, socketFolders }: Purpose, needs: BackendNeeds): AllowedPath[] {
  const read = [
    ...SYSTEM_PATHS,
    process.execPath,
    ...mappedFiles(),
    ...programFolders(fileURLToPath(import.meta.url)),
    ...wanted.reads,
  ];
  return [
    ...read.map((path) => ({ path, write: false })),
    ...[...DEVICES, ...socketFolders, ...(wanted.writes ?? [])].map((path) => ({ path, write: true })),
    ...needs.paths,
  ];
}
