import { dirname, resolve } from 'node:path';
import type { LogConfig, AccessLogConfig } from '../../plugins/options/config-schema.js';
import type { DaemonOptions } from '../../plugins/daemon.js';
import type { CheckedSpec } from '../../plugins/registry.js';
import type { Started } from '../../plugins/reload.js';
import type { ServiceManager } from '../../system/descriptors/sd-notify.js';
import type { AccessLogTarget } from './access-log-target.js';
import type { ControlTarget } from './control.js';
import { endWithParent } from './isolated-exports.js';
import type { MetricsListener } from './metrics.js';
import { EarlyRequest, stopSignal } from './signals.js';
import { serviceManager } from './systemd-notices.js';

/**
 * What a daemon is to serve, checked: what the command line and the configuration file come
 * to. It is plain data, since one program leaves it to another ({@link start}).
 */
export interface Plan {
  /** The exports have all their settings. */
  readonly options: Omit<DaemonOptions, 'log' | 'registry' | 'keeper'>;
  readonly logConfig: LogConfig;
  /** Whether the service manager is told how it goes. */
  readonly notifies: boolean;
  /** Whether the daemon ends with the process that has started it. */
  readonly endsWithParent?: boolean;
  /** Where metrics are served. */
  readonly metrics?: string | undefined;
  /** Where each request has its line. */
  readonly accessLog?: AccessLogConfig | undefined;
  /** The path of the socket for commands. */
  readonly control?: string | undefined;
  /** The configuration file, where there is one, so that it can be reloaded. */
  readonly started?: Omit<Started, 'folders'> | undefined;
  /** Whether SIGHUP has that file taken up anew. */
  readonly takesHangup?: boolean;
  /** Options to be told of in the log, since they have no effect. */
  readonly ignored?: readonly string[];
  /** A line for the log when front-ends may connect. */
  readonly ready?: string;
}

/** What the first program of a confined daemon leaves for the second. */
export interface LeftForServing {
  readonly plan: Plan;
  readonly checked: readonly CheckedSpec[];
}

/** What a plan needs of the host beside its exports. Both programs have the same of it. */
export interface Opened {
  /** Aborted when the daemon is to end. */
  readonly stop: AbortSignal;
  /** Asks for the configuration file to be taken up anew. */
  readonly hangup: EarlyRequest | undefined;
  readonly listener: MetricsListener | undefined;
  readonly accessLogTarget: AccessLogTarget | undefined;
  readonly controlTarget: ControlTarget | undefined;
  readonly manager: ServiceManager | undefined;
}

/**
 * Opens that. In a program that was executed anew these are the descriptors which the one before
 * has opened; the environment names them.
 * @throws UsageError
 */
export async function openForPlan(plan: Plan): Promise<Opened> {
  const { logConfig, notifies, metrics, accessLog, control } = plan;
  if (plan.endsWithParent === true) endWithParent();
  const hangup = plan.takesHangup === true ? new EarlyRequest() : undefined;
  const stop = stopSignal(hangup?.ask, true);
  // Only who asks for figures or a log pays for the modules.
  const listener = metrics === undefined ? undefined : (await import('./metrics.js')).openMetrics(metrics);
  const log =
    accessLog === undefined
      ? undefined
      : (await import('./access-log-target.js')).openAccessLogTarget(accessLog);
  return {
    stop,
    hangup,
    manager: notifies ? await serviceManager(logConfig) : undefined,
    listener: await listener,
    accessLogTarget: await log,
    controlTarget:
      control === undefined ? undefined : (await import('./control.js')).findControlTarget(control),
  };
}

/** The folders in which sockets are made beside those of exports. A keeper has made an engine's. */
export function socketFolders({ controlTarget, listener }: Opened): string[] {
  const made = [controlTarget?.fd === undefined ? controlTarget?.path : undefined, listener?.path];
  return made.flatMap((path) => (path === undefined ? [] : [dirname(resolve(path))]));
}
