/**
 * Random sequences of operations, compared with a model of a file system. A sequence that goes
 * wrong is made as short as it can be, and told as a script that repeats it in a mount.
 *
 * - `operation.ts`: what a sequence is made of.
 * - `random-sequence.ts`: one at random. `script.ts`: one as commands of a shell.
 * - `model.ts`: what each operation does in a file system that is right.
 * - `run.ts`: carries a sequence out and compares. `shorten.ts`: makes a failing one shorter.
 */
export { randomSequence } from './random-sequence.js';
export { script } from './script.js';
export { runSequence, Difference } from './run.js';
export { shorten } from './shorten.js';
