import type { Claim, Owner } from './records.js';

/**
 * A search that followed so many waiting owners, or saw so many locks in the way, gives up and
 * takes it that there is no deadlock. Linux gives up after ten owners (`fs/locks.c`,
 * MAX_DEADLK_ITERATIONS).
 */
const OWNERS_LIMIT = 64;
const LOCKS_LIMIT = 10_000;

/**
 * Whether waiting for `claim` would close a circle: its owner waits for the holders of the locks in
 * the way, each of which waits, and so on, back to the owner (POSIX `fcntl`, EDEADLK). An owner of
 * which any thread waits counts as waiting, as in Linux. flock has no deadlock detection
 * (`flock(2)`), so only record locks count.
 */
export function wouldDeadlock<N>(claim: Claim<N>): boolean {
  const seen = new Set<Owner<N>>();
  const claims = [claim];
  let looks = 0;
  for (let next = claims.pop(); next !== undefined; next = claims.pop()) {
    const { file, owner, start, end, type } = next;
    for (const { owner: holder } of file.ranges.conflicts(owner, start, end, type)) {
      if (holder === claim.owner) return true;
      if (++looks > LOCKS_LIMIT || seen.size > OWNERS_LIMIT) return false;
      if (holder.waits.size === 0 || seen.has(holder)) continue;
      seen.add(holder);
      for (const wait of holder.waits) if (wait.claim.kind === 'posix') claims.push(wait.claim);
    }
  }
  return false;
}
