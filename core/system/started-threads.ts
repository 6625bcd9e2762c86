import type { Worker } from 'node:worker_threads';

/*
 * A thread that starts makes machine code of its own. A process that is about to forbid that waits
 * for the threads which are still starting.
 */

const starting = new Set<Promise<void>>();

/** Notes a thread that will send a message when its modules are loaded. */
export function noteStart(worker: Worker): void {
  const started = new Promise<void>((resolve) => {
    for (const event of ['message', 'error', 'exit']) worker.once(event, () => resolve());
  });
  starting.add(started);
  void started.then(() => starting.delete(started));
}

/** Resolves when each thread that was noted has started, or ended. */
export async function threadsStarted(): Promise<void> {
  await Promise.all(starting);
}
