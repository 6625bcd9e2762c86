import { accelerate } from '../../core/backend/accelerator.js';
import {
  type Awaitable,
  type Backend,
  FsError,
  gauge,
  type BackendHost,
  type CachePolicy,
  type Logger,
  type NodeKey,
  type PluginEnvironment,
  type Semantics,
  UsageError,
} from '../../core/backend/index.js';
import { lseek } from '../../core/system/calls/files.js';
import { backingOperations } from './operations/backing.js';
import { canImpersonate } from './calls/impersonation.js';
import { creationOperations } from './operations/creation.js';
import { dataOperations } from './operations/data.js';
import { directoryOperations } from './operations/directory.js';
import { identityOperations, isKey } from './nodes/durable-keys.js';
import { migrationOperations } from './nodes/migration.js';
import { traceOperations } from './nodes/last-seen.js';
import { lookupOperations } from './operations/lookup.js';
import type { Node } from './nodes/nodes.js';
import type { OpenFile } from './nodes/open-file.js';
import type { Options } from './options.js';
import { rangeOperations } from './operations/ranges.js';
import { setattrOperations } from './operations/setattr.js';
import { Share } from './share.js';
import { Watches } from './watches.js';
import { xattrOperations } from './operations/xattrs.js';

const DAY_SECONDS = 86400;
const NOT_ROOT =
  'without CAP_SETUID and CAP_SETGID, new files belong to the user that runs this; translate-uid and translate-gid can show them as guests expect';

const policies: Record<Options['cache'], Omit<CachePolicy, 'writeback'>> = {
  auto: { entryTimeout: 1, negativeTimeout: 0, attributeTimeout: 1, data: 'auto' },
  always: {
    entryTimeout: DAY_SECONDS,
    negativeTimeout: DAY_SECONDS,
    attributeTimeout: DAY_SECONDS,
    data: 'always',
  },
  metadata: {
    entryTimeout: DAY_SECONDS,
    negativeTimeout: DAY_SECONDS,
    attributeTimeout: DAY_SECONDS,
    data: 'never',
  },
  never: { entryTimeout: 0, negativeTimeout: 0, attributeTimeout: 0, data: 'never' },
};

const SEEK_END = 2;

/**
 * The copy domain of all shares: open files are descriptors of this host, so `copy_file_range`
 * works between any two of them.
 */
const DESCRIPTORS = Symbol('descriptors of the host');

/** Makes the plugin's backend of options that are checked. */
export function create(options: Options, { log }: PluginEnvironment): Backend<Node, OpenFile> {
  return passthrough(options, log);
}

/**
 * A backend for one shared directory. @throws UsageError if an option cannot be honoured or the
 * directory cannot be shared.
 */
export function passthrough(options: Options, log: Logger): Backend<Node, OpenFile> {
  const share = new Share(options, log);
  const cache: CachePolicy = { ...policies[options.cache], writeback: options.writeback };
  const semantics: Semantics = {
    posixAcl: usesAcls(options, share),
    killPriv: options.killprivV2,
    securityContext: options.securityLabel && options.xattr,
    submounts: options.submounts === 'announce',
    required: options.requires.map((name) => (name === 'posix-acl' ? 'posixAcl' : 'securityContext')),
  };
  const { gather, startThreads, stopThreads, held, adoptFile, ...data } = dataOperations(share);
  const { adoptNode, recover, finding, places, ...identity } = identityOperations(share);
  const { recoverByName, ...traces } = traceOperations(share, places);
  const watches = new Watches(share, log);
  const backend: Backend<Node, OpenFile> = {
    cache,
    semantics,
    // Under Landlock and without handles a node has its name.
    nodeBytes: 512,
    mount(host: BackendHost): Node {
      watches.mounted(host);
      if (!canImpersonate()) log.warn({ uid: process.geteuid!() }, NOT_ROOT);
      startThreads();
      return share.root;
    },
    watch: (directory) => watches.watch(directory),
    unmount(): Awaitable<void> {
      watches.close();
      if (options.ioThreads === 0) share.close();
      else return stopThreads().then(() => share.close());
    },
    metrics: () => [
      gauge('node_descriptors', 'Descriptors kept for files that guests know.', share.nodes.descriptors),
    ],
    ...identity,
    ...lookupOperations(share),
    ...directoryOperations(share),
    ...data,
    ...creationOperations(share),
    ...rangeOperations(share),
    ...setattrOperations(share),
    ...(options.xattr ? xattrOperations(share) : {}),
  };
  const recoverAny = (key: NodeKey): Node => (isKey(key) ? recoverByName(key) : undefined) ?? recover(key);
  return accelerate(backend, {
    slots: true,
    descriptors: true,
    copyDomain: DESCRIPTORS,
    ...gather,
    ...backingOperations(share),
    size: ({ fd }) => {
      const end = lseek(fd, 0, SEEK_END);
      if (end < 0) throw FsError.of(-end);
      return end;
    },
    held,
    recover: recoverAny,
    ...traces,
    ...migrationOperations(share, finding, recoverAny),
    descriptor: (node) => share.nodes.descriptor(node),
    adoptNode,
    adoptFile: (node, fd, flags) => {
      // The descriptor must be of this very node.
      if (adoptNode(identity.key(node), fd) !== node) throw FsError.of('ESTALE');
      return adoptFile(node, fd, flags);
    },
  });
}

/**
 * Whether guests get POSIX ACLs. ACLs contain ids as they are on the host, so they would be wrong
 * where owners are translated.
 */
function usesAcls(options: Options, share: Share): boolean {
  const { translates } = share;
  if (options.posixAcl !== true) return options.posixAcl === undefined && options.xattr && !translates;
  if (translates)
    throw new UsageError('--posix-acl: cannot be combined with --translate-uid or --translate-gid');
  if (!options.xattr) throw new UsageError('--posix-acl: needs extended attributes; leave --no-xattr out');
  return true;
}
