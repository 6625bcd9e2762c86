import { readFileSync } from 'node:fs';

/**
 * Descriptors that this process may have open: the soft limit, getrlimit(2), which Node raises to
 * the hard one when it starts.
 */
export function descriptorLimit(): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
  return soft === undefined ? 1024 : Number(soft);
}
