import type { Claim, Owner } from './records.js';

/**
 * After so many waiting owners, or so many conflicting locks, the search gives up and reports no
 * deadlock. Linux gives up after ten owners (`fs/locks.c`, MAX_DEADLK_ITERATIONS).
 */
const OWNERS_LIMIT = 64;
const LOCKS_LIMIT = 10_000;

/**
 * Whether waiting for `claim` would be a deadlock (POSIX `fcntl`, EDEADLK): its owner would wait
 * for the holders of conflicting locks, some of these wait for others, and so on, back to the
 * owner. An owner counts as waiting if any of its threads waits, as in Linux. Only record locks
 * count: flock has no deadlock detection (`flock(2)`).
 */
export function wouldDeadlock<N>(claim: Claim<N>): boolean {
  const seen = new Set<Owner<N>>();
  const claims = [claim];
  let conflicts = 0;
  for (let next = claims.pop(); next !== undefined; next = claims.pop()) {
    const { file, owner, start, end, type } = next;
    for (const { owner: holder } of file.ranges.conflicts(owner, start, end, type)) {
      if (holder === claim.owner) return true;
      if (++conflicts > LOCKS_LIMIT || seen.size > OWNERS_LIMIT) return false;
      if (holder.waits.size === 0 || seen.has(holder)) continue;
      seen.add(holder);
      for (const wait of holder.waits) if (wait.claim.kind === 'posix') claims.push(wait.claim);
    }
  }
  return false;
}
