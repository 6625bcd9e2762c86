import { runProgram } from '../../core/cli/index.js';

/*
 * Prints the help of commands, each after a NUL: a process of its own for each would take long.
 *
 *   node help-of.js '[["serve"], ["guest", "--backend", "memfs"]]'
 */

for (const words of JSON.parse(process.argv[2]!) as readonly (readonly string[])[]) {
  process.stdout.write('\0');
  await runProgram([...words, '--help']);
}
process.exitCode = 0;
