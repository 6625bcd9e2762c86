import { isBackend, isNamed } from '../../plugins/backend-source.js';
import { checkedExports } from '../../plugins/checked-exports.js';
import { enterConfinement, type Confinement } from '../../plugins/confine.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import { codeCacheDirectory, fillCodeCache } from '../code-cache.js';
import { type LeftForServing, openForPlan, socketFolders, type Opened, type Plan } from './plan.js';

/**
 * Starts a daemon. A start is:
 *
 * 1. `begin.ts` sets flags of V8, has compiled code kept, and loads the command line. A command
 *    reads and checks all that the operator has said, and makes a {@link Plan} of it.
 * 2. Here, what must not be opened by a confined process is opened. The thread confines itself as
 *    far as that belongs to single threads, and executes the program once more in the same process,
 *    so that all threads are confined. The plan is left in memory that the second one inherits.
 * 3. In the second, `begin.ts` finds that memory and loads `planned-start.ts` in the place of the
 *    command line. Nothing is parsed or checked again, and neither the command line nor the schemas
 *    are loaded.
 * 4. `serve-exports.ts` confines the process for good and serves.
 *
 * Where there is nothing to confine, 4 follows 2 in the same program.
 * @param wanted how far the process confines itself, without what the plan needs for itself.
 * @throws UsageError for a mistake in the options.
 */
export async function start(given: Plan, wanted: Confinement, registry: BackendRegistry): Promise<void> {
  const exports = checkedExports(given.options.exports);
  const plan: Plan = { ...given, options: { ...given.options, exports, areChecked: true } };
  const opened = await openForPlan(plan);
  const confinement = { ...wanted, ...leftOpen(opened), reads: readsOf(wanted) };
  const entered = await enterConfinement(plan.options, registry, confinement, async () => {
    await fillCodeCache(() => Promise.all([...loadServing(), registry.loadMakers()]));
    return leave(plan, registry);
  });
  const { serveExports } = await import('./serve-exports.js');
  await serveExports({ plan, opened, registry, entered });
}

/** What the second program loads, beside what it makes backends of. */
function loadServing(): Promise<unknown>[] {
  return [
    import('./planned-start.js'),
    import('./serve-exports.js'),
    import('../../plugins/control-socket.js'),
    import('../../plugins/reload.js'),
    import('../../keeper/index.js'),
  ];
}

async function leave(plan: Plan, registry: BackendRegistry): Promise<LeftForServing> {
  const { exports, backends, folder } = plan.options;
  const sources = [...Object.values(backends ?? {}), ...exports.map(({ backend }) => backend)];
  const specs = sources.flatMap((source) => (isNamed(source) || isBackend(source) ? [] : source));
  return {
    // Functions cannot be left: names of options are for errors that can come no more.
    plan: {
      ...plan,
      options: { ...plan.options, exports: exports.map((one) => ({ ...one, optionName: undefined })) },
    },
    checked: await registry.checkOnce(specs, folder),
  };
}

function readsOf({ reads }: Confinement): readonly string[] {
  const cache = codeCacheDirectory();
  return cache === undefined ? reads : [...reads, cache];
}

/** What is open, for the program that serves. */
function leftOpen(opened: Opened): Pick<Confinement, 'descriptors' | 'writes' | 'listens' | 'notifier'> {
  const { hangup, listener, manager, accessLogTarget, controlTarget } = opened;
  const descriptors = [listener?.fd, manager?.fd, accessLogTarget?.fd, controlTarget?.fd?.value];
  return {
    descriptors: descriptors.filter((fd) => fd !== undefined),
    writes: socketFolders(opened),
    notifier: manager?.fd,
    // By a new configuration there may be further sockets, and by commands.
    listens: hangup !== undefined || (controlTarget !== undefined && controlTarget.fd === undefined),
  };
}
