import { decodeName } from '../backend/index.js';
import { commandLineWords } from '../plugins/process-arguments.js';

/**
 * The words after the program's name, encoded as names are: paths and arguments of commands may
 * have any bytes.
 */
export function programWords(): string[] {
  return commandLineWords()
    .slice(1)
    .map((word) => decodeName(word));
}
