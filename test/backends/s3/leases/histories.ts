/** What one worker has done under a lock: it has counted one further, and added a line to a log. */
export interface Step {
  /** Of this step alone. */
  readonly mark: string;
  /** When it began and ended, of one clock for all workers, in milliseconds. */
  readonly began: number;
  readonly ended: number;
  /** What it made of the counter; undefined where it has not come so far. */
  readonly value: number | undefined;
  /** Whether all calls succeeded, that which gave the lock up included. */
  readonly isDone: boolean;
}

/**
 * Whether a history can be that of steps one after the other, as their locks promise:
 *
 * - No two done steps made the same number, and one that began when another had ended made a larger
 *   one.
 * - Each done step is in the log once, each other at most once, and nothing else is.
 * - The log has done steps in the order of their numbers.
 * - The counter is as high as the last done step made it, and no higher than there were steps.
 *
 * @param counter what is in the counter at the end.
 * @param log the marks in the log at the end.
 * @returns what is wrong.
 */
export function violations(steps: readonly Step[], counter: number, log: readonly string[]): string[] {
  const found: string[] = [];
  const done = steps.filter(({ isDone }) => isDone).sort((a, b) => a.value! - b.value!);
  for (const [i, step] of done.entries()) {
    const next = done[i + 1];
    if (next?.value === step.value) found.push(`${step.mark} and ${next?.mark} both made ${step.value}`);
  }
  // In the order of their numbers, none may have ended before one with a smaller number began.
  let latest = done[0];
  for (const step of done) {
    if (step.ended < latest!.began)
      found.push(`${step.mark} (${step.value}) was over before ${latest!.mark}`);
    if (step.began > latest!.began) latest = step;
  }
  const places = new Map<string, number>();
  for (const [at, mark] of log.entries()) {
    if (places.has(mark)) found.push(`${mark} is in the log twice`);
    places.set(mark, at);
  }
  const known = new Set(steps.map(({ mark }) => mark));
  for (const mark of log) if (!known.has(mark)) found.push(`${mark} in the log is of nobody`);
  let before = -1;
  for (const { mark, value } of done) {
    const at = places.get(mark);
    if (at === undefined) found.push(`${mark} (${value}) is not in the log`);
    else if (at < before) found.push(`${mark} (${value}) is too early in the log`);
    before = at ?? before;
  }
  const last = done.at(-1)?.value ?? 0;
  if (counter < last) found.push(`the counter is ${counter}, and ${last} was made`);
  if (counter > steps.length) found.push(`the counter is ${counter} after ${steps.length} steps`);
  return found;
}
