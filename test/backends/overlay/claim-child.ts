import { join } from 'node:path';
import type { Backend } from '../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { defaults, Paths, share } from './support.js';

/** Mounts an overlay of `upper` over `lower` and keeps it: `node claim-child.js DIRECTORY`. */
const [directory = ''] = process.argv.slice(2);
const [upper, lower] = ['upper', 'lower'].map((name) => share(join(directory, name)));
await Paths.mount(createOverlay({ ...defaults, upper, lowers: [lower!] }) as Backend);
process.stdout.write('mounted\n');
setInterval(() => {}, 60_000);
