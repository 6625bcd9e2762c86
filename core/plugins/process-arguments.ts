import { readFileSync } from 'node:fs';

/**
 * The words of this process's command line after Node's own, as the bytes that they are: the
 * program's file and its arguments. `process.argv` has them as UTF-8, with U+FFFD for what is none.
 */
export function commandLineWords(): Uint8Array[] {
  const whole = readFileSync('/proc/self/cmdline');
  const words: Uint8Array[] = [];
  for (let at = 0; at < whole.length;) {
    const end = whole.indexOf(0, at);
    words.push(whole.subarray(at, end < 0 ? whole.length : end));
    at = end < 0 ? whole.length : end + 1;
  }
  return words.slice(words.length - (process.argv.length - 1));
}
