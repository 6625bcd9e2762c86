import type { Logger } from '../../backend/index.js';
import { KeeperGone, keeperDescriptor, KeptEngine } from '../../keeper/index.js';
import type { LogConfig } from '../../plugins/options/config-schema.js';
import { type Entered, mustBeConfined } from '../../plugins/confine.js';
import { ControlSocket } from '../../plugins/control-socket.js';
import type { Daemon, DaemonOptions } from '../../plugins/daemon.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import { Reloading, type Started } from '../../plugins/reload.js';
import { createContainer, Services } from '../../plugins/service-container.js';
import type { ServiceManager } from '../../system/index.js';
import type { AccessLogTarget } from './open-access-log.js';
import type { ControlTarget } from './control.js';
import type { MetricsListener } from './metrics.js';
import { serving } from './systemd-notices.js';
import { aborted, type EarlyRequest, surviveRejections } from './signals.js';

/** What a daemon is started with that {@link serveExports} serves. */
export interface Serving {
  readonly options: Omit<DaemonOptions, 'log' | 'registry' | 'keeper'>;
  /** How far the process is confined; see `enterConfinement`. */
  readonly entered: Entered | undefined;
  readonly logConfig: LogConfig;
  readonly registry: BackendRegistry;
  /** Aborted when the daemon is to end. */
  readonly stop: AbortSignal;
  /** Where metrics are served. */
  readonly listener?: MetricsListener | undefined;
  /** Where each request has its line. */
  readonly accessLog?: AccessLogTarget | undefined;
  /** Is told when the daemon serves and when it ends. */
  readonly manager?: ServiceManager | undefined;
  /** The configuration file, where there is one, so that it can be reloaded. */
  readonly started?: Started | undefined;
  /** Asks for the configuration file to be taken up anew. */
  readonly hangup?: EarlyRequest | undefined;
  /** The socket for commands. */
  readonly control?: ControlTarget | undefined;
  /** Options to be told of in the log, since they have no effect. */
  readonly ignored?: readonly string[];
  /** A line for the log when front-ends may connect. */
  readonly ready?: string;
}

/**
 * Serves exports over vhost-user sockets until a signal, or until the last front-end or the keeper
 * needs this process no more. All that serves is loaded with this file, which the command line
 * therefore imports only when the process is confined.
 * @throws UsageError for a mistake in the options.
 */
export async function serveExports(given: Serving): Promise<void> {
  const { options, entered, logConfig, registry, stop, listener, manager, control } = given;
  const { ignored = [], ready, accessLog, started, hangup } = given;
  const container = createContainer(logConfig, registry);
  const log = container.get(Services.Logger);
  surviveRejections(log);
  const confined = entered?.confine(log);
  if (ignored.length > 0) log.info({ options: ignored }, 'options without effect');
  const keeperFd = keeperDescriptor();
  const keeper = keeperFd === undefined ? undefined : new KeptEngine(keeperFd);
  stop.addEventListener('abort', () => keeper?.leave());
  let daemon: Daemon;
  try {
    daemon = await container.get(Services.StartDaemon)({ ...options, keeper });
  } catch (error) {
    if (error instanceof KeeperGone) return;
    throw error;
  }
  if (ready !== undefined) log.info({}, ready);
  try {
    mustBeConfined(confined);
    const reloading = started && new Reloading(daemon, registry, started, log);
    const listening =
      control === undefined
        ? undefined
        : await ControlSocket.listen(control.fd ?? control.path, daemon, registry, log, reloading);
    const requests = await accessLog?.begin(daemon.tracing);
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
