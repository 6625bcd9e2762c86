/** The raw results of one run of a scenario. */
export interface Sample {
  /** Operations, or entries if these are the scenario's unit. */
  readonly operations: number;
  readonly seconds: number;
  /** CPU seconds of the daemon, or NaN if its process is not known. */
  readonly cpu: number;
  /** Microseconds from the beginning of each operation to its last reply, sorted. */
  readonly latencies: Float64Array;
}

/** A scenario's figures for one daemon: of one run, or the medians of several. */
export interface Figures {
  readonly operationsPerSecond: number;
  /** Microseconds. */
  readonly medianLatency: number;
  /** Microseconds. */
  readonly p99Latency: number;
  /** Microseconds of the daemon's CPU time; null if its process is not known. */
  readonly cpuPerOperation: number | null;
}

/** A ratio over several rounds. */
export interface Ratio {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Figures of one run. @param perOperation units (such as entries) that each latency stands for. */
export function figuresOf({ operations, seconds, cpu, latencies }: Sample): Figures {
  return {
    operationsPerSecond: operations / seconds,
    medianLatency: percentile(latencies, 0.5),
    p99Latency: percentile(latencies, 0.99),
    cpuPerOperation: Number.isNaN(cpu) ? null : (cpu * 1e6) / operations,
  };
}

/** The median of each figure over all rounds. */
export function medianFigures(rounds: readonly Figures[]): Figures {
  const cpu = rounds.map((figures) => figures.cpuPerOperation).filter((value) => value !== null);
  return {
    operationsPerSecond: median(rounds.map((figures) => figures.operationsPerSecond)),
    medianLatency: median(rounds.map((figures) => figures.medianLatency)),
    p99Latency: median(rounds.map((figures) => figures.p99Latency)),
    cpuPerOperation: cpu.length === 0 ? null : median(cpu),
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

/** A percentile of values in order, from 0 to 1; NaN of none. */
export function percentile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
