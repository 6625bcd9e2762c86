/** Milliseconds of work in one turn of the event loop. */
const TURN_MS = 1;

/** Items that are done at once, whatever else is under way, if each is small. */
const AT_ONCE = 1024;

/** Items between two looks at the clock. */
const BETWEEN_LOOKS = 16;

interface Job {
  next: number;
  readonly end: number;
  readonly each: (item: number) => void;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** What is under way; the first has the next turn. */
const jobs: Job[] = [];

/** @returns whether all is done. */
function work(job: Job): boolean {
  const until = performance.now() + TURN_MS;
  do {
    const end = Math.min(job.end, job.next + BETWEEN_LOOKS);
    while (job.next < end) job.each(job.next++);
    if (job.next >= job.end) return true;
  } while (performance.now() < until);
  return false;
}

function nextTurn(): void {
  const job = jobs.shift()!;
  try {
    if (work(job)) job.resolve();
    else jobs.push(job);
  } catch (error) {
    job.reject(error as Error);
  }
  if (jobs.length > 0) setImmediate(nextTurn);
}

/**
 * Calls `each` for the numbers from `start` up to, but not including, `end`: few of them at once,
 * then for a millisecond in one turn of the event loop. All that is done so holds the thread no
 * longer together, since only one goes on in a turn.
 * @param atOnce how many are done at once.
 * @returns undefined if all was done at once.
 * @throws what `each` throws, or the promise is rejected with it. The rest is left out then.
 */
export function inTurns(
  start: number,
  end: number,
  each: (item: number) => void,
  atOnce = AT_ONCE,
): Promise<void> | undefined {
  const first = Math.min(end, start + atOnce);
  for (let item = start; item < first; item++) each(item);
  if (first >= end) return undefined;
  return new Promise((resolve, reject) => {
    if (jobs.length === 0) setImmediate(nextTurn);
    jobs.push({ next: first, end, each, resolve, reject });
  });
}
