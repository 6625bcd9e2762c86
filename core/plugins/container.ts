import { Container, type ServiceIdentifier } from 'inversify';
import type { Logger } from '../backend/index.js';
import type { LogConfig } from './config.js';
import { Daemon, type DaemonOptions } from './daemon.js';
import { createLogger } from './log.js';
import { BackendRegistry } from './registry.js';

/** Starts a daemon with the program's registry and log. */
export type StartDaemon = (options: Omit<DaemonOptions, 'log' | 'registry'>) => Promise<Daemon>;

/** What a program's parts are bound to; rebind one to replace it. */
export const Parts = {
  LogConfig: Symbol('LogConfig') as ServiceIdentifier<LogConfig>,
  Logger: Symbol('Logger') as ServiceIdentifier<Logger>,
  Registry: Symbol('Registry') as ServiceIdentifier<BackendRegistry>,
  StartDaemon: Symbol('StartDaemon') as ServiceIdentifier<StartDaemon>,
};

/**
 * Wires the parts of one program. Used while it starts; nothing on the way of a request asks a
 * container.
 */
export function createContainer(log: LogConfig): Container {
  const container = new Container({ defaultScope: 'Singleton' });
  container.bind(Parts.LogConfig).toConstantValue(log);
  container.bind(Parts.Logger).toResolvedValue(createLogger, [Parts.LogConfig]);
  container.bind(Parts.Registry).toResolvedValue(() => new BackendRegistry());
  container
    .bind(Parts.StartDaemon)
    .toResolvedValue(
      (logger, registry) => (options) => Daemon.start({ ...options, log: logger, registry }),
      [Parts.Logger, Parts.Registry],
    );
  return container;
}
