/** The raw results of one run of a scenario. */
export interface Sample {
  /** Operations that have ended, or entries if these are the scenario's unit. */
  readonly operations: number;
  readonly seconds: number;
  /** CPU time of the daemon; NaN if its process is not known. */
  readonly cpuSeconds: number;
  /** From the beginning of each operation to its last reply, without think times; sorted. */
  readonly latenciesUs: Float64Array;
}

/** A scenario's figures for one daemon: of one run, or the medians of several. */
export interface Figures {
  readonly operationsPerSecond: number;
  readonly medianLatencyUs: number;
  readonly p99LatencyUs: number;
  /** CPU time of the daemon; null if its process is not known. */
  readonly cpuUsPerOperation: number | null;
}

/** A ratio of two daemons, over several rounds. */
export interface Ratio {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Figures of one run. */
export function figuresOf({ operations, seconds, cpuSeconds, latenciesUs }: Sample): Figures {
  return {
    operationsPerSecond: operations / seconds,
    medianLatencyUs: percentile(latenciesUs, 0.5),
    p99LatencyUs: percentile(latenciesUs, 0.99),
    cpuUsPerOperation: Number.isNaN(cpuSeconds) ? null : (cpuSeconds * 1e6) / operations,
  };
}

/** The median of each figure over all rounds. */
export function medianFigures(rounds: readonly Figures[]): Figures {
  const cpu = rounds.map((figures) => figures.cpuUsPerOperation).filter((value) => value !== null);
  return {
    operationsPerSecond: median(rounds.map((figures) => figures.operationsPerSecond)),
    medianLatencyUs: median(rounds.map((figures) => figures.medianLatencyUs)),
    p99LatencyUs: median(rounds.map((figures) => figures.p99LatencyUs)),
    cpuUsPerOperation: cpu.length === 0 ? null : median(cpu),
  };
}

/** The ratio of two series, round by round. Noise that both had in a round cancels out. */
export function ratioOf(numerators: readonly number[], denominators: readonly number[]): Ratio {
  const ratios = numerators.map((value, i) => value / denominators[i]!).sort((a, b) => a - b);
  return { median: median(ratios), least: ratios[0]!, most: ratios.at(-1)! };
}

/** The middle value; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle]!;
  return (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A percentile of sorted values; NaN of none. @param share from 0 to 1. */
export function percentile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
