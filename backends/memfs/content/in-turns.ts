import type { Awaitable } from '../../../core/backend/index.js';

/** Milliseconds of work in one turn of the event loop. */
const TURN_MS = 1;

/** Steps that are taken at once, whatever else is under way. */
const STEPS_AT_ONCE = 64;

/** Work under way. */
interface Job {
  /** Is called at the beginning of each of its turns. */
  begin(): void;
  /** Takes one step. @returns whether it was the last. */
  step(): boolean;
}

/** What is under way; the first has the next turn. */
const jobs: Job[] = [];

/** @returns whether the work has ended. */
function work(job: Job): boolean {
  const end = performance.now() + TURN_MS;
  job.begin();
  do if (job.step()) return true;
  while (performance.now() < end);
  return false;
}

function nextTurn(): void {
  const job = jobs.shift()!;
  if (!work(job)) jobs.push(job);
  if (jobs.length > 0) setImmediate(nextTurn);
}

/**
 * Does what may take long in steps of some microseconds each: few of them at once, then for a
 * millisecond in one turn of the event loop. So whatever guests ask for, all of it together holds
 * the thread no longer.
 * @param begin is called at the beginning of each turn: between turns there may be a snapshot.
 * @returns the result at once, if there are few steps.
 * @throws what a step throws, or the promise is rejected with it.
 */
export function inTurns<T>(steps: Iterator<void, T>, begin: () => void): Awaitable<T> {
  begin();
  for (let i = 0; i < STEPS_AT_ONCE; i++) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
  return new Promise<T>((resolve, reject) => {
    if (jobs.length === 0) setImmediate(nextTurn);
    jobs.push({
      begin,
      step() {
        try {
          const { done, value } = steps.next();
          if (done === true) resolve(value);
          return done === true;
        } catch (error) {
          reject(error as Error);
          return true;
        }
      },
    });
  });
}
