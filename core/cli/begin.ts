import { CONFINED } from '../plugins/confinement-claim.js';
import { inlineMore } from '../plugins/v8-inlining.js';
import { useCodeCache } from './code-cache.js';

/**
 * Runs the program. The flags of V8 come first, and then the cache of compiled code, which holds
 * only for the same flags; so all other modules are imported after that. A program that was
 * executed to serve by a plan loads no command line; see `serving/start.ts`.
 * @param toArguments makes the program's words of those that the process was given.
 */
export async function begin(toArguments: (words: readonly string[]) => readonly string[]): Promise<void> {
  inlineMore();
  useCodeCache();
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
