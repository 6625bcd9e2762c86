import memfs from '../../backends/memfs/index.js';
import { pluginEnvironment, MountedExport } from './host-mount.js';

/* Mounts, says where, and ends without unmounting: `node mount-and-exit.js direct|fusermount`. */

const method = process.argv[2] === 'fusermount' ? 'fusermount' : 'direct';
const environment = pluginEnvironment();
const backend = await memfs.create(memfs.options.parse({ size: '1m' }), environment);
const mounted = await MountedExport.open(backend, { mount: { method } });
process.stdout.write(mounted.directory);
process.exit(3);
