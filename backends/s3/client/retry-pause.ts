/** The first and the longest pause before something is tried again, in milliseconds. */
export interface RetryPauses {
  readonly firstMs: number;
  readonly maxMs: number;
}

/**
 * Milliseconds until the next try, after so many failures in a row (1 or more). The pause doubles
 * with each failure up to the longest. A random part of up to a half is taken off, so that many
 * clients whose server was away do not come back at the same moment.
 */
export function retryPauseMs({ firstMs, maxMs }: RetryPauses, failures: number): number {
  const most = Math.min(maxMs, firstMs * 2 ** (failures - 1));
  return most * (1 - Math.random() / 2);
}
