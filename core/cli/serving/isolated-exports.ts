import { UsageError } from '../../backend/index.js';
import type { ServedExport } from '../../plugins/index.js';

/* What every start of `serve` needs of isolated exports; `isolate.ts` is loaded for them only. */

/**
 * The flag that tells a process which exports it serves: their numbers in the configuration file,
 * from 0.
 */
export const ISOLATED = 'isolated-exports';

/** Whether an export asks for a process of its own. */
export function isIsolated({ isolate }: ServedExport): boolean {
  return isolate === 'process';
}

/** What a process serves, with the backends to which its exports refer by name. */
interface Part {
  readonly exports: readonly ServedExport[];
  readonly backends?: Readonly<Record<string, unknown>> | undefined;
}

/** What one process serves. @param numbers as its flag has them. @throws UsageError */
export function partOf<T extends Part>(whole: T, numbers: string): T {
  const exports = numbers.split(',').map((number) => {
    const one = whole.exports[Number(number)];
    if (one === undefined) throw new UsageError(`--${ISOLATED} ${numbers}: there is no export ${number}`);
    return { ...one, isolate: 'none' as const };
  });
  const names = new Set(exports.map(({ backend }) => backend));
  const backends = Object.entries(whole.backends ?? {}).filter(([name]) => names.has(name));
  return { ...whole, exports, backends: Object.fromEntries(backends) };
}

/** Ends this process in order when the one that has started it is gone. */
export function endWithParent(): void {
  process.stdin.on('end', () => process.kill(process.pid, 'SIGTERM'));
  process.stdin.on('error', () => process.kill(process.pid, 'SIGTERM'));
  process.stdin.resume();
  if ('unref' in process.stdin) process.stdin.unref();
}
