import type { LogConfig } from '../../plugins/options/config-schema.js';
import { ServiceManager } from '../../system/descriptors/sd-notify.js';

/** The service manager. If it cannot be reached, that is a warning, and none is told anything. */
export async function serviceManager(log: LogConfig): Promise<ServiceManager | undefined> {
  try {
    return ServiceManager.open();
  } catch (error) {
    const { createLogger } = await import('../../plugins/logger.js');
    createLogger(log).warn(
      { reason: (error as Error).message },
      'the service manager cannot be told anything',
    );
    return undefined;
  }
}

/** What a program that serves says of itself. */
export function serving(exports: number): string {
  return `serving ${exports === 1 ? 'one export' : `${exports} exports`}`;
}
