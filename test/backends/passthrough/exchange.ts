import { join } from 'node:path';
import { host } from './host-calls.js';

/** A process that exchanges two names of a directory until it is ended. */
const [directory, first, second] = process.argv.slice(2) as [string, string, string];
const EXCHANGE = 2;
process.stdout.write('racing\n');
for (;;) host.rename(join(directory, first), join(directory, second), EXCHANGE);
