import { CONFINED } from '../plugins/confinement-claim.js';
import { inlineMore } from '../plugins/v8-inlining.js';

/**
 * Runs the program. The flags of V8 come first, since compiled code stays as it is. A program that
 * was executed to serve by a plan loads no command line; see `serving/start.ts`.
 * @param toArguments makes the program's words of those that the process was given.
 */
export async function begin(toArguments: (words: readonly string[]) => readonly string[]): Promise<void> {
  inlineMore();
  if (process.env[CONFINED] !== undefined) {
    const { serveAsPlanned } = await import('./serving/planned-start.js');
    if (await serveAsPlanned()) return;
  }
  const [{ runProgram }, { programWords }] = await Promise.all([
    import('./program.js'),
    import('./program-arguments.js'),
  ]);
  await runProgram(toArguments(programWords()));
}
