import { Container, type ServiceIdentifier } from 'inversify';
import type { Logger } from '../backend/index.js';
import type { LogConfig } from './options/config-schema.js';
import { Daemon, type DaemonOptions } from './daemon.js';
import { createLogger } from './logger.js';
import { BackendRegistry } from './registry.js';

/** Starts a daemon with the program's registry and log. */
export type StartDaemon = (options: Omit<DaemonOptions, 'log' | 'registry'>) => Promise<Daemon>;

/** Identifiers of a program's services in its container. Rebind one to replace the service. */
export const Services = {
  LogConfig: Symbol('LogConfig') as ServiceIdentifier<LogConfig>,
  Logger: Symbol('Logger') as ServiceIdentifier<Logger>,
  Registry: Symbol('Registry') as ServiceIdentifier<BackendRegistry>,
  StartDaemon: Symbol('StartDaemon') as ServiceIdentifier<StartDaemon>,
};

/**
 * Wires the services of one program. The container is used only while the program starts, never
 * while a request is served.
 * @param backends the program's registry, where it has one already.
 */
export function createContainer(log: LogConfig, backends = new BackendRegistry()): Container {
  const container = new Container({ defaultScope: 'Singleton' });
  container.bind(Services.LogConfig).toConstantValue(log);
  container.bind(Services.Logger).toResolvedValue(createLogger, [Services.LogConfig]);
  container.bind(Services.Registry).toConstantValue(backends);
  container
    .bind(Services.StartDaemon)
    .toResolvedValue(
      (logger, registry) => (options) => Daemon.start({ ...options, log: logger, registry }),
      [Services.Logger, Services.Registry],
    );
  return container;
}
