import type { FileLocks, Owner } from './records.js';

/** What is wanted and can't be had now. */
export interface Wish<N> {
  readonly file: FileLocks<N>;
  readonly owner: Owner<N>;
  readonly start: bigint;
  readonly end: bigint;
  readonly type: number;
}

/**
 * Holders looked at before a search gives up and takes it that there is no deadlock. Linux gives up after ten owners
 * (`fs/locks.c`, MAX_DEADLK_ITERATIONS).
 */
const SEARCH_LIMIT = 20_000;

/**
 * Whether waiting for `wish` would close a circle: its owner waits for the holders of the locks in the way, each of
 * which waits, and so on, back to the owner (POSIX `fcntl`, EDEADLK). An owner of which any thread waits counts as
 * waiting, as in Linux. flock has no deadlock detection (`flock(2)`), so only record locks count.
 */
export function wouldDeadlock<N>(wish: Wish<N>): boolean {
  const seen = new Set<Owner<N>>();
  const wishes = [wish];
  let looks = 0;
  for (let next = wishes.pop(); next !== undefined; next = wishes.pop()) {
    for (const [holder, holding] of next.file.posix) {
      if (++looks > SEARCH_LIMIT) return false;
      if (holder === next.owner || seen.has(holder)) continue;
      if (holder !== wish.owner && holder.waits.size === 0) continue;
      if (holding.list.conflict(next.start, next.end, next.type) === undefined) continue;
      if (holder === wish.owner) return true;
      seen.add(holder);
      for (const wait of holder.waits) if (wait.kind === 'posix') wishes.push(wait);
    }
  }
  return false;
}
