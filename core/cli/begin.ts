import { inlineMore } from '../plugins/v8-inlining.js';
import { useCodeCache } from './code-cache.js';

/**
 * Runs the program. The flags of V8 come first, and then the cache of compiled code, which holds
 * only for the same flags; so all other modules are imported after that.
 * @param toArguments makes the program's words of those that the process was given.
 */
export async function begin(toArguments: (words: readonly string[]) => readonly string[]): Promise<void> {
  inlineMore();
  useCodeCache();
  const [{ runProgram }, { programWords }] = await Promise.all([
    import('./program.js'),
    import('./program-arguments.js'),
  ]);
  await runProgram(toArguments(programWords()));
}
