import { LATENCY_BOUNDS_US } from '../fuse/index.js';
import type { ExportStatus } from './status-json.js';
import { sum } from './sum.js';

/** Timed requests of an opcode that tell something. */
const LEAST_TIMED = 10;
/** Half of the requests of an opcode take longer than this on a slow disk, in microseconds. */
const SLOW_US = 20_000;
/** The same for what waits for the disk. */
const SLOW_SYNC_US = 200_000;
/** Opcodes that make data durable. */
const SYNCS = new Set(['FSYNC', 'FSYNCDIR', 'SYNCFS', 'FLUSH', 'RELEASE']);
/** Opcodes that wait for other programs. */
const WAITS = new Set(['SETLKW', 'POLL']);

/** An opcode whose requests take long. */
export interface SlowOpcode {
  readonly opcode: string;
  /** Half of them take no longer; Infinity: longer than any bucket tells. */
  readonly halfUs: number;
  /** Whether that is so just now, and not only since the start. */
  readonly isLately: boolean;
}

/**
 * What took long lately, or, where little happens, since the start.
 * @param old an earlier look, if there is one.
 */
export function slowOpcodes(old: ExportStatus | undefined, { latencies }: ExportStatus): SlowOpcode[] {
  return Object.entries(latencies).flatMap(([opcode, { buckets }]) => {
    if (WAITS.has(opcode)) return [];
    const earlier = old?.latencies[opcode]?.buckets ?? [];
    const lately = buckets.map((value, index) => value - (earlier[index] ?? 0));
    const isLately = old !== undefined && sum(lately) >= LEAST_TIMED;
    const told = isLately ? lately : buckets;
    const halfUs = halfWithin(told);
    const isSlow = halfUs > (SYNCS.has(opcode) ? SLOW_SYNC_US : SLOW_US);
    return isSlow && sum(told) >= LEAST_TIMED ? [{ opcode, halfUs, isLately }] : [];
  });
}

export function slowText({ opcode, halfUs, isLately }: SlowOpcode): string {
  const time = halfUs === Infinity ? 'more than 30 s' : `up to ${halfUs / 1000} ms`;
  return `half of all ${opcode} take ${time}${isLately ? ' just now' : ''}`;
}

/** The bound of the bucket in which the middle request is. */
function halfWithin(buckets: readonly number[]): number {
  const half = sum(buckets) / 2;
  let seen = 0;
  for (const [index, value] of buckets.entries()) {
    seen += value;
    if (seen >= half) return LATENCY_BOUNDS_US[index] ?? Infinity;
  }
  return 0;
}
