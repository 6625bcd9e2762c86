/** Milliseconds of work in one turn of the event loop. */
const TURN_MS = 1;

/** Steps that are taken at once, whatever else is under way. */
const STEPS_AT_ONCE = 64;

/** Items that are done at once, whatever else is under way, if each is small. */
const ITEMS_AT_ONCE = 1024;

/** Items between two looks at the clock. */
const BETWEEN_LOOKS = 16;

/** Work under way. */
interface Job {
  /** Is called at the beginning of each of its turns. */
  begin(): void;
  /** Takes one step. @returns whether it was the last. */
  step(): boolean;
  resolve(): void;
  reject(error: Error): void;
}

/** What is under way; the first has the next turn. */
const jobs: Job[] = [];
let isNextSet = false;

/** @returns whether the work has ended. */
function work(job: Job): boolean {
  const until = performance.now() + TURN_MS;
  job.begin();
  do if (job.step()) return true;
  while (performance.now() < until);
  return false;
}

function nextTurn(): void {
  isNextSet = false;
  const job = jobs.shift()!;
  try {
    if (work(job)) job.resolve();
    else jobs.push(job);
  } catch (error) {
    job.reject(error as Error);
  }
  setNext();
}

function add(job: Job): void {
  jobs.push(job);
  setNext();
}

/** Once: a step may begin other work while no job waits. */
function setNext(): void {
  if (isNextSet || jobs.length === 0) return;
  isNextSet = true;
  setImmediate(nextTurn);
}

/**
 * Does what may take long in steps of some microseconds each: few of them at once, then for a
 * millisecond in one turn of the event loop. All that is done so holds the thread no longer
 * together, whatever guests ask for, since only one goes on in a turn.
 * @param begin is called at the beginning of each turn.
 * @returns the result at once, if there are few steps.
 * @throws what a step throws, or the promise is rejected with it.
 */
export function inTurns<T>(steps: Iterator<void, T>, begin: () => void): T | Promise<T> {
  begin();
  for (let i = 0; i < STEPS_AT_ONCE; i++) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
  return new Promise<T>((resolve, reject) => {
    let result: T;
    add({
      begin,
      step() {
        const { done, value } = steps.next();
        if (done === true) result = value;
        return done === true;
      },
      resolve: () => resolve(result),
      reject,
    });
  });
}

/**
 * Calls `each` for the numbers from `start` up to, but not including, `end`, as {@link inTurns}.
 * @param atOnce how many are done at once.
 * @returns undefined if all was done at once.
 * @throws what `each` throws, or the promise is rejected with it. The rest is left out then.
 */
export function eachInTurns(
  start: number,
  end: number,
  each: (item: number) => void,
  atOnce = ITEMS_AT_ONCE,
): Promise<void> | undefined {
  const first = Math.min(end, start + atOnce);
  for (let item = start; item < first; item++) each(item);
  if (first >= end) return undefined;
  return new Promise((resolve, reject) => {
    let next = first;
    add({
      begin: nothing,
      step() {
        const last = Math.min(end, next + BETWEEN_LOOKS);
        while (next < last) each(next++);
        return next >= end;
      },
      resolve,
      reject,
    });
  });
}

function nothing(): void {}
