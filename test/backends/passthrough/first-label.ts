import { join } from 'node:path';
import { host } from './host-calls.js';

/**
 * A process that waits for the names `0`, `1` and so on of a directory, one after the other. It
 * prints how many files had no attribute when it first found them.
 */
const [directory, attribute, count] = process.argv.slice(2) as [string, string, string];
const ENOENT = -2;
let without = 0;
process.stdout.write('looking\n');
for (let i = 0; i < Number(count); i++) {
  let size = ENOENT;
  while (size === ENOENT) size = host.xattrSize(join(directory, `${i}`), attribute);
  if (size < 0) without += 1;
}
process.stdout.write(`${without}\n`);
