import type { Logger } from '../../backend/index.js';
import { keeperDescriptor } from '../../keeper/inherited.js';
import { isBackend, isNamed } from '../../plugins/backend-source.js';
import { type Entered, mustBeConfined } from '../../plugins/confine.js';
import { Daemon } from '../../plugins/daemon.js';
import { createLogger } from '../../plugins/logger.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import type { Reloading } from '../../plugins/reload.js';
import { compileLater } from '../../plugins/v8-inlining.js';
import type { ServiceManager } from '../../system/index.js';
import { socketFolders, type Opened, type Plan } from './plan.js';
import { serving } from './systemd-notices.js';
import { aborted, startedBefore, surviveRejections } from './signals.js';

/** What {@link serveExports} needs. */
export interface Serving {
  readonly plan: Plan;
  readonly opened: Opened;
  readonly registry: BackendRegistry;
  /** How far the process is confined; see `enterConfinement`. */
  readonly entered: Entered | undefined;
}

/**
 * Serves exports over vhost-user sockets until a signal, or until the last front-end or the keeper
 * needs this process no more. All that serves is loaded with this file, which the command line
 * therefore imports only when the process is confined.
 * @throws UsageError for a mistake in the options.
 */
export async function serveExports(given: Serving): Promise<void> {
  const { plan, opened, registry, entered } = given;
  const { options, logConfig, started, ignored = [], ready } = plan;
  const { stop, manager, hangup, listener, accessLogTarget, controlTarget } = opened;
  const sources = options.exports.map(({ backend }) => backend);
  if (sources.every((source) => !isNamed(source) && !isBackend(source) && source.type === 's3'))
    compileLater();
  // Without the container of services: it is an eighth of what a daemon would load.
  const log = createLogger(logConfig);
  surviveRejections(log);
  const confined = entered?.confine(log);
  if (ignored.length > 0) log.info({ options: ignored }, 'options without effect');
  const keeperFd = keeperDescriptor();
  // Only engines of a keeper pay for the modules; so with commands and configuration files.
  const keeping = keeperFd === undefined ? undefined : await import('../../keeper/index.js');
  const keeper = keeping && new keeping.KeptEngine(keeperFd!);
  stop.addEventListener('abort', () => keeper?.leave());
  let daemon: Daemon;
  try {
    const starting = Daemon.start({ ...options, keeper, log, registry });
    daemon = await startedBefore(starting, stop, keeper?.over);
  } catch (error) {
    // Its connection would have this process live on.
    keeper?.end();
    if (keeping !== undefined && error instanceof keeping.KeeperGone) return;
    throw error;
  }
  if (ready !== undefined) log.info({}, ready);
  try {
    mustBeConfined(confined);
    const whole = started && { ...started, folders: socketFolders(opened) };
    const reloading =
      whole && new (await import('../../plugins/reload.js')).Reloading(daemon, registry, whole, log);
    const listening =
      controlTarget === undefined
        ? undefined
        : (await import('../../plugins/control-socket.js')).ControlSocket.listen(
            controlTarget.fd ?? controlTarget.path,
            daemon,
            registry,
            log,
            reloading,
          );
    const requests = await accessLogTarget?.begin(daemon.tracing);
    const monitoring = await listener?.serve(() => daemon.figures(), log);
    await confined.seal();
    manager?.ready(serving(options.exports.length));
    hangup?.answer(() => void reloadFile(reloading!, manager, log));
    // One with a keeper ends when that has another one.
    await Promise.race([...(keeper === undefined ? [aborted(stop)] : []), daemon.ended()]);
    manager?.stopping();
    if (keeper === undefined) log.info({}, stop.aborted ? 'stopping' : 'the last front-end has gone');
    await monitoring?.close();
    requests?.close();
    await listening?.close();
  } finally {
    await daemon.close();
    manager?.close();
  }
}

/** Takes the configuration file up anew. Never rejects. */
async function reloadFile(
  reloading: Reloading,
  manager: ServiceManager | undefined,
  log: Logger,
): Promise<void> {
  manager?.reloading();
  try {
    await reloading.takeFile();
  } catch (error) {
    log.error({ reason: (error as Error).message }, 'nothing was reloaded');
  } finally {
    manager?.ready(serving(reloading.exports));
  }
}
