import { setFlagsFromString } from 'node:v8';

/**
 * Raises the limits up to which V8's optimizing compiler inlines functions. It is meant for a
 * process whose main work is to serve requests: small requests then take 2 to 8% less CPU
 * (`docs/performance-log.md`). To be called early, since compiled code stays as it is.
 */
export function inlineMore(): void {
  // In bytes of bytecode: of all functions inlined into one, and of each. V8 has 920 and 460.
  setFlagsFromString('--max-inlined-bytecode-size-cumulative=3000');
  setFlagsFromString('--max-inlined-bytecode-size=900');
}

/**
 * Has V8 compile less, and later, in a process all of whose requests wait for another machine. They
 * are so few that compiling takes a quarter of the CPU time of the first thousand, beside what they
 * wait for (`docs/performance-log.md`). To be called before any is served.
 */
export function compileLater(): void {
  setFlagsFromString('--max-inlined-bytecode-size-cumulative=920');
  setFlagsFromString('--max-inlined-bytecode-size=460');
  // In bytes of bytecode that a function has run through before. V8 has 67,584.
  setFlagsFromString('--interrupt-budget=400000');
}
