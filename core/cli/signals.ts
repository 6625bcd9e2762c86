/** Exit code of a process that a signal ended, as shells have it. */
const CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** The first SIGINT or SIGTERM. A second one ends the process at once. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const onSignal = (signal: keyof typeof CODES): void => {
    if (controller.signal.aborted) process.exit(CODES[signal]);
    controller.abort(new Stopped(CODES[signal]));
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return controller.signal;
}

/** A signal asked for the end. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
  /** Exit code for what was cut short. */
  readonly exitCode: number;

  constructor(exitCode: number) {
    super('stopped by a signal');
    this.exitCode = exitCode;
  }
}

/** Resolves when a signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
