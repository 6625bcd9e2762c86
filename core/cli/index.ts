/**
 * The command line: thin commands over composition. Flags come from the same schemas as
 * configuration files and documentation; nothing here knows what an option means.
 */
export { runProgram } from './program.js';
