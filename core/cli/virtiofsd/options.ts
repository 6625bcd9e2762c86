import { availableParallelism } from 'node:os';
import { UsageError } from '../../backend/index.js';

/**
 * The command line of virtiofsd, both generations: the GNU-style options of the Rust daemon and of
 * the C daemon, and the list behind `-o` by which libvirt configures the C daemon.
 */

/** What a virtiofsd command line asks for, in this program's terms. */
export interface VirtiofsdRequest {
  readonly action: 'serve' | 'help' | 'version' | 'capabilities';
  /** Options of the passthrough backend. */
  readonly backend: Readonly<Record<string, unknown>>;
  /** Options of the export, as in a configuration file. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Cache times, if `timeout` gives them. */
  readonly cache: Readonly<Record<string, unknown>>;
  readonly logLevel: string;
  readonly sandbox: 'namespace' | 'chroot' | 'none';
  readonly seccomp: 'none' | 'kill' | 'log' | 'trap';
  readonly modcaps: string | undefined;
  /** Options that have no effect here, each with the reason. */
  readonly ignored: readonly string[];
}

interface Draft {
  action: VirtiofsdRequest['action'];
  backend: Record<string, unknown>;
  settings: Record<string, unknown>;
  cache: Record<string, unknown>;
  logLevel: string;
  sandbox: VirtiofsdRequest['sandbox'];
  seccomp: VirtiofsdRequest['seccomp'];
  modcaps: string | undefined;
  ignored: string[];
  translateUid: string[];
  translateGid: string[];
}

type Apply = (draft: Draft, value: string, name: string) => void;

interface Rule {
  /** Whether it takes a value. An `optional` one must follow after `=`. */
  readonly value: 'none' | 'needed' | 'optional';
  readonly apply: Apply;
}

const flag = (apply: (draft: Draft) => void): Rule => ({ value: 'none', apply });
const valued = (apply: Apply): Rule => ({ value: 'needed', apply });
const backend = (key: string, value: unknown): Rule => flag((draft) => (draft.backend[key] = value));
const setting = (key: string): Rule => valued((draft, value) => (draft.settings[key] = value));
const without = (value: 'none' | 'needed', why: string): Rule => ({
  value,
  apply: (draft, _, name) => draft.ignored.push(`${name}: ${why}`),
});

function choice<T extends string>(choices: readonly T[], apply: (draft: Draft, value: T) => void): Rule {
  return valued((draft, value, name) => {
    const found = choices.find((one) => one === value);
    if (found === undefined) throw new UsageError(`${name} ${value}: is not one of ${choices.join(', ')}`);
    apply(draft, found);
  });
}

function number(apply: (draft: Draft, value: number) => void): Rule {
  return valued((draft, value, name) => {
    if (!/^\d+(\.\d+)?$/.test(value)) throw new UsageError(`${name} ${value}: is not a number`);
    apply(draft, Number(value));
  });
}

const cache = choice(['auto', 'always', 'metadata', 'never', 'none'], (draft, value) => {
  draft.backend['cache'] = value === 'none' ? 'never' : value;
});
const sharedDir = valued((draft, value) => (draft.backend['sharedDir'] = value));
const xattrmap = valued((draft, value) => {
  draft.backend['xattrmap'] = value;
  draft.backend['xattr'] = true;
});
const modcaps = valued((draft, value) => {
  draft.modcaps = value;
  // What virtiofsd's manual gives the capability for.
  if (/(^|:)\+sys_admin(:|$)/i.test(value)) draft.backend['trustedXattrs'] = 'allow';
});
const logLevels = ['error', 'err', 'warn', 'info', 'debug', 'trace', 'off'] as const;
const logLevel = choice(logLevels, (draft, value) => {
  const ours: Partial<Record<typeof value, string>> = { err: 'error', trace: 'debug', off: 'silent' };
  draft.logLevel = ours[value] ?? value;
});
/** How a feature is agreed upon with a guest: `always` refuses guests that do not know it. */
const MODES = ['always', 'auto', 'never'] as const;
const negotiable =
  (key: 'posixAcl' | 'securityLabel', feature: 'posix-acl' | 'security-label') =>
  (draft: Draft, mode: (typeof MODES)[number]): void => {
    draft.backend[key] = mode !== 'never';
    if (mode !== 'never') draft.backend['xattr'] = true;
    const others = ((draft.backend['requires'] ?? []) as string[]).filter((one) => one !== feature);
    const requires = mode === 'always' ? [...others, feature] : others;
    if (requires.length > 0) draft.backend['requires'] = requires;
    else delete draft.backend['requires'];
  };
const posixAcl = negotiable('posixAcl', 'posix-acl');
const securityLabel = negotiable('securityLabel', 'security-label');
/** An option whose value is the mode. Alone it is `always`, as it was before it had values. */
const negotiation = (set: (draft: Draft, mode: (typeof MODES)[number]) => void): Rule => ({
  value: 'optional',
  apply: (draft, value, name) => {
    const mode = value === '' ? 'always' : MODES.find((one) => one === value);
    if (mode === undefined) throw new UsageError(`${name}=${value}: is not one of ${MODES.join(', ')}`);
    set(draft, mode);
  },
});
/** Shares both kinds of locks, although virtiofsd has one option for each. */
const sharedLocks = flag((draft) => (draft.settings['locks'] = 'shared'));
const LOCKS = 'a guest keeps its locks to itself unless asked otherwise';
const READDIRPLUS = 'guests choose for themselves';

/** Replaces the id map of a user namespace by a translation of ids. */
const idMap = (list: 'translateUid' | 'translateGid'): Rule =>
  valued((draft, value, name) => {
    const separator = value[0] ?? '';
    const [inside, outside, count, end] = value.slice(1).split(separator);
    if (count === undefined || end !== '')
      throw new UsageError(`${name} ${value}: must be like :0:100000:65536:`);
    draft[list].push(`map:${inside}:${outside}:${count}`);
  });

/** The most threads that are useful: one for each processor except that of the main thread. */
const mostThreads = (): number => Math.min(availableParallelism() - 1, 64);

/** Options with two dashes. */
const LONG: Readonly<Record<string, Rule>> = {
  help: flag((draft) => (draft.action = 'help')),
  version: flag((draft) => (draft.action = 'version')),
  'print-capabilities': flag((draft) => (draft.action = 'capabilities')),
  'shared-dir': sharedDir,
  'socket-path': setting('socket'),
  socket: setting('socket'),
  'socket-group': setting('socketGroup'),
  fd: number((draft, value) => (draft.settings['fd'] = value)),
  tag: setting('tag'),
  cache,
  readonly: flag((draft) => (draft.settings['readOnly'] = true)),
  writeback: flag((draft) => (draft.backend['writeback'] = true)),
  'allow-direct-io': backend('allowDirectIo', true),
  'allow-mmap': without('none', 'files can be mapped under every cache policy where the guest allows it'),
  'preserve-noatime': without('none', 'O_NOATIME is always passed on where it is allowed'),
  xattr: backend('xattr', true),
  xattrmap,
  'posix-acl': negotiation(posixAcl),
  'security-label': negotiation(securityLabel),
  'killpriv-v2': backend('killprivV2', true),
  'no-killpriv-v2': backend('killprivV2', false),
  'announce-submounts': backend('submounts', 'announce'),
  'no-announce-submounts': backend('submounts', 'cross'),
  'no-readdirplus': without('none', READDIRPLUS),
  'inode-file-handles': choice(['never', 'prefer', 'fallback', 'mandatory'], (draft, value) => {
    draft.backend['inodeFileHandles'] = value === 'fallback' ? 'prefer' : value;
  }),
  sandbox: choice(['namespace', 'chroot', 'none'], (draft, value) => (draft.sandbox = value)),
  seccomp: choice(['none', 'kill', 'log', 'trap'], (draft, value) => (draft.seccomp = value)),
  modcaps,
  'translate-uid': valued((draft, value) => draft.translateUid.push(value)),
  'translate-gid': valued((draft, value) => draft.translateGid.push(value)),
  'uid-map': idMap('translateUid'),
  'gid-map': idMap('translateGid'),
  'log-level': logLevel,
  syslog: without('none', 'lines go to standard error, which systemd and libvirt collect'),
  'thread-pool-size': number((draft, value) => {
    if (value > 1) draft.backend['ioThreads'] = Math.min(value, mostThreads());
  }),
  'rlimit-nofile': without('needed', 'files are remembered by handle; the limit is raised as far as it goes'),
  'migration-mode': choice(['find-paths', 'file-handles'], (draft, value) => {
    draft.backend['migrationMode'] = value;
  }),
  'migration-on-error': choice(['abort', 'guest-error'], (draft, value) => {
    draft.settings['migrationOnError'] = value;
  }),
  'migration-verify-handles': backend('migrationVerifyHandles', true),
  'migration-confirm-paths': without('none', 'paths are confirmed in any case'),
  daemonize: flag(() => {
    throw new UsageError('--daemonize: not supported; let a service manager start it');
  }),
};

/** Options in the list behind `-o`. */
const COMPATIBLE: Readonly<Record<string, Rule>> = {
  source: sharedDir,
  cache,
  timeout: number((draft, value) => {
    draft.cache['entryTimeout'] = value;
    draft.cache['attributeTimeout'] = value;
  }),
  log_level: logLevel,
  loglevel: logLevel,
  debug: flag((draft) => (draft.logLevel = 'debug')),
  sandbox: choice(['namespace', 'chroot', 'none'], (draft, value) => (draft.sandbox = value)),
  modcaps,
  xattr: backend('xattr', true),
  no_xattr: backend('xattr', false),
  xattrmap,
  posix_acl: flag((draft) => posixAcl(draft, 'always')),
  no_posix_acl: flag((draft) => posixAcl(draft, 'never')),
  security_label: flag((draft) => securityLabel(draft, 'always')),
  no_security_label: flag((draft) => securityLabel(draft, 'never')),
  killpriv_v2: backend('killprivV2', true),
  no_killpriv_v2: backend('killprivV2', false),
  writeback: flag((draft) => (draft.backend['writeback'] = true)),
  no_writeback: flag((draft) => (draft.backend['writeback'] = false)),
  allow_direct_io: backend('allowDirectIo', true),
  no_allow_direct_io: backend('allowDirectIo', false),
  announce_submounts: backend('submounts', 'announce'),
  readdirplus: without('none', READDIRPLUS),
  no_readdirplus: without('none', READDIRPLUS),
  flock: sharedLocks,
  no_flock: without('none', LOCKS),
  posix_lock: sharedLocks,
  no_posix_lock: without('none', LOCKS),
  allow_root: without('none', 'the guest decides who may use its mount'),
  max_idle_threads: without('needed', 'requests need no threads of their own'),
};

/** Reads a command line: the words after the program's name. @throws UsageError */
export function parseVirtiofsd(argv: readonly string[]): VirtiofsdRequest {
  const draft: Draft = {
    action: 'serve',
    backend: { xattr: false, posixAcl: false },
    settings: {},
    cache: {},
    logLevel: 'info',
    sandbox: 'namespace',
    seccomp: 'kill',
    modcaps: undefined,
    ignored: [],
    translateUid: [],
    translateGid: [],
  };
  for (let i = 0; i < argv.length; i++) i += word(draft, argv[i]!, argv[i + 1]);
  if (draft.action === 'serve') complete(draft);
  const { translateUid, translateGid, ...request } = draft;
  return { ...request, backend: { ...draft.backend, translateUid, translateGid } };
}

/** Applies one word. @returns 1 if it took the next word as its value, else 0. */
function word(draft: Draft, text: string, next: string | undefined): number {
  if (text === '-h') return applyRule(draft, LONG['help'], text, '', undefined);
  if (text === '-V') return applyRule(draft, LONG['version'], text, '', undefined);
  if (text === '-d') return applyRule(draft, COMPATIBLE['debug'], text, '', undefined);
  if (text === '-f') return 0;
  if (text.startsWith('-o')) {
    const list = text === '-o' ? next : text.slice(2);
    if (list === undefined)
      throw new UsageError('-o: needs a list of options, such as source=/srv,cache=auto');
    for (const item of splitList(list)) {
      const [name, ...value] = item.split('=');
      const given = value.length === 0 ? undefined : value.join('=');
      applyRule(draft, COMPATIBLE[name!], `-o ${name}`, name!, given);
    }
    return text === '-o' ? 1 : 0;
  }
  if (!text.startsWith('--')) throw new UsageError(`${text}: not an option of virtiofsd`);
  const equals = text.indexOf('=');
  const name = equals < 0 ? text.slice(2) : text.slice(2, equals);
  const rule = Object.hasOwn(LONG, name) ? LONG[name] : undefined;
  const given = equals < 0 ? undefined : text.slice(equals + 1);
  const takesNext = rule?.value === 'needed' && given === undefined;
  applyRule(draft, rule, `--${name}`, name, takesNext ? next : given);
  return takesNext ? 1 : 0;
}

function applyRule(
  draft: Draft,
  rule: Rule | undefined,
  shown: string,
  _name: string,
  value: string | undefined,
): number {
  if (rule === undefined) throw new UsageError(`${shown}: not an option of virtiofsd`);
  if (rule.value === 'needed' && value === undefined) throw new UsageError(`${shown}: needs a value`);
  if (rule.value === 'none' && value !== undefined) throw new UsageError(`${shown}: takes no value`);
  rule.apply(draft, value ?? '', shown);
  return 0;
}

/** Splits a list at commas. Two commas stand for one in a value, as libvirt writes it. */
function splitList(list: string): string[] {
  return list
    .split(/(?<!,),(?!,)/)
    .map((item) => item.replaceAll(',,', ','))
    .filter((item) => item !== '');
}

function complete(draft: Draft): void {
  const { settings } = draft;
  if (draft.backend['sharedDir'] === undefined)
    throw new UsageError('--shared-dir (or -o source=DIR) is required');
  if (settings['socket'] === undefined && settings['fd'] === undefined) {
    throw new UsageError('--socket-path or --fd is required');
  }
  if (settings['socket'] !== undefined && settings['fd'] !== undefined) {
    throw new UsageError('--socket-path and --fd: give one of them');
  }
  const { migrationMode, migrationVerifyHandles } = draft.backend;
  if (migrationMode === 'file-handles' && migrationVerifyHandles === true)
    throw new UsageError(
      '--migration-verify-handles: not with --migration-mode=file-handles, which finds nothing but the very same files',
    );
  settings['tag'] ??= 'virtiofs';
  settings['locks'] ??= 'local';
  settings['exitOnDisconnect'] = true;
  if (settings['socket'] !== undefined)
    settings['socketMode'] = settings['socketGroup'] === undefined ? '0700' : '0770';
}

/** The output of `--print-capabilities` (QEMU `docs/interop/vhost-user.json`). */
export const CAPABILITIES = {
  type: 'fs',
  features: [
    'migrate-precopy',
    'separate-options',
    'posix-acl-negotiation-mode',
    'security-label-negotiation-mode',
  ],
} as const;

export const VIRTIOFSD_HELP = `Usage: virtiofs-kit virtiofsd --shared-dir DIR --socket-path PATH | --fd N [OPTION]…

Serves a directory with virtiofsd's command line, for libvirt, Kata Containers and scripts. All options of virtiofsd are
taken, those behind -o too; ${Object.keys(LONG).length} long ones: --${Object.keys(LONG).sort().join(', --')}.

What they mean: docs/libvirt-kata.md. This program's own command, which has more: virtiofs-kit serve --help
`;
