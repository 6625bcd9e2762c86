import type { Logger } from '../backend/index.js';
import { ServiceManager } from '../system/index.js';

/** The service manager. If it cannot be reached, that is a warning, and none is told anything. */
export function serviceManager(log: Logger): ServiceManager | undefined {
  try {
    return ServiceManager.open();
  } catch (error) {
    log.warn({ reason: (error as Error).message }, 'the service manager cannot be told anything');
    return undefined;
  }
}

/** What a program that serves says of itself. */
export function serving(exports: number): string {
  return `serving ${exports === 1 ? 'one export' : `${exports} exports`}`;
}
