/** Counts the turns of the event loop that something takes. @returns its result, and how many. */
export async function countTurns<T>(use: () => Promise<T>): Promise<readonly [result: T, turns: number]> {
  let turns = 0;
  let isOver = false;
  const turn = (): void => {
    turns += 1;
    if (!isOver) setImmediate(turn);
  };
  setImmediate(turn);
  try {
    return [await use(), turns];
  } finally {
    isOver = true;
  }
}
