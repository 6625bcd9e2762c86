import type { Fd } from './fd.js';
import { OwnedFd } from './owned-fd.js';

/**
 * A descriptor that this program was executed with.
 * @param variable the environment variable that has its number.
 * @returns undefined if the variable is not set, or has no number.
 */
export function inheritedFd(variable: string): OwnedFd | undefined {
  const text = process.env[variable];
  return text !== undefined && /^\d+$/.test(text) ? new OwnedFd(Number(text) as Fd) : undefined;
}
