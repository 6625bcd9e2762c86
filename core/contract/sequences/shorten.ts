import type { Operation } from './operation.js';

/** Most sequences that are tried on the way to the shortest. */
const ATTEMPTS = 200;

/**
 * Leaves out of a failing sequence what it does not need to fail: first halves, then ever smaller
 * parts, at last single operations (delta debugging).
 * @param fails tries a sequence
 * @returns the shortest that was found within a number of attempts.
 */
export async function shorten(
  sequence: readonly Operation[],
  fails: (shorter: readonly Operation[]) => Promise<boolean>,
): Promise<readonly Operation[]> {
  let shortest = sequence;
  let attempts = 0;
  for (let part = Math.ceil(shortest.length / 2); part >= 1 && attempts < ATTEMPTS;) {
    let isShorter = false;
    for (let at = 0; at < shortest.length && attempts < ATTEMPTS;) {
      const shorter = [...shortest.slice(0, at), ...shortest.slice(at + part)];
      attempts += 1;
      if (await fails(shorter)) {
        shortest = shorter;
        isShorter = true;
      } else at += part;
    }
    if (part === 1 && !isShorter) break;
    if (part > 1) part = Math.ceil(part / 2);
  }
  return shortest;
}
