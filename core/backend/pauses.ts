/** Routines that pause, first come first served. */
const pausing: (() => void)[] = [];

function goOn(): void {
  pausing.shift()!();
  if (pausing.length > 0) setImmediate(goOn);
}

/**
 * Makes room for others in the midst of long work on the one thread. However many routines pause,
 * one of them goes on in each turn of the event loop.
 */
export function pause(): Promise<void> {
  return new Promise((resolve) => {
    if (pausing.length === 0) setImmediate(goOn);
    pausing.push(resolve);
  });
}
