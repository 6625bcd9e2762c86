/** Exit code for a mistake in the command line. */
export const USAGE = 2;

/**
 * Says on standard error why the program ends: a mistake in what it was given in one line, a fault
 * of the program with its stack.
 * @param isDebug whether the cause is shown, too.
 * @param program its name.
 * @returns the exit code.
 */
export function report(error: unknown, isDebug: boolean, program = 'virtiofs-kit'): number {
  if (!(error instanceof Error)) return report(new Error(String(error)), isDebug, program);
  // A plugin with its own copy of this package throws that copy's `UsageError`.
  const isUsage = error.name === 'UsageError';
  const isPlain = isUsage || error.name === 'GuestError' || error.name === 'ControlError';
  process.stderr.write(`${program}: ${isPlain ? error.message : error.stack}\n`);
  const { cause } = error;
  if (isDebug && cause instanceof Error) process.stderr.write(`${cause.stack}\n`);
  return isUsage ? USAGE : 1;
}
