/** One figure of a backend, as Prometheus has them. */
export interface Metric {
  /**
   * Lower-case words joined by `_`, with the unit: `disk_cache_bytes`. That of a counter ends in
   * `_total`. Monitoring puts `virtiofs_kit_` and the backend's kind before it.
   */
  readonly name: string;
  /** One sentence for the operator. */
  readonly help: string;
  /** A counter only grows, from the start of the backend on. */
  readonly kind: 'counter' | 'gauge';
  /** In the unit that the name says. */
  readonly value: number;
  /**
   * Tells figures of one name apart: `{ operation: 'GetObject' }`. There are few values of a label;
   * names of files are none.
   */
  readonly labels?: Readonly<Record<string, string>>;
}

/** What is now, and may grow or shrink. @param name as {@link Metric.name}. */
export function gauge(name: string, help: string, value: number): Metric {
  return { name, help, kind: 'gauge', value };
}

/** What has been counted since the start. @param name as {@link Metric.name}, without `_total`. */
export function counter(
  name: string,
  help: string,
  value: number,
  labels?: Readonly<Record<string, string>>,
): Metric {
  const metric: Metric = { name: `${name}_total`, help, kind: 'counter', value };
  return labels === undefined ? metric : { ...metric, labels };
}
