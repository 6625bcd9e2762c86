import { fromNodeVfs, type NodeVfs } from '../../core/adapters/index.js';
import { checkBackend } from '../../core/contract/index.js';
import { keepingLog } from '../support/host-mount.js';

/*
 * Checks a file system of `node:vfs`, which Node has with --experimental-vfs only, and prints how
 * many rules hold, and which do not.
 */

const { create } = (await import('node:vfs' as string)) as { create(): NodeVfs };
const { results, passed } = await checkBackend({ create: () => fromNodeVfs(create()), log: keepingLog() });
const broken = results.filter(({ outcome }) => outcome === 'failed').map(({ name }) => name);
process.stdout.write(JSON.stringify({ passed, broken }));
