/**
 * The command line: thin commands over `core/plugins`. Flags are made from the same schemas as
 * configuration files and documentation; nothing here knows what an option means.
 *
 * - `commands/`: one file for each command.
 * - `virtiofsd/`: the command line of virtiofsd, both generations.
 */
export { runProgram } from './program.js';
