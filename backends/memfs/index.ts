/**
 * memfs: an ephemeral file system in the daemon's memory, for sandboxes, scratch space and tests.
 * To a guest it is a tmpfs.
 *
 * `backend.ts` serves guests, `state.ts` is the saved form of a tree. `tree/` has the inodes, every
 * change to them with tmpfs's rules, and snapshots. `content/` stores the bytes of files. `import/`
 * fills a tree from a directory or archive and saves one. `host-api/` is what a host program uses:
 * volumes with the API of the npm package memfs.
 */
import { dirname, resolve } from 'node:path';
import { type BackendNeeds, definePlugin, UsageError } from '../../core/backend/index.js';
import { commands } from './commands.js';
import { type MemfsOptions, options } from './options.js';
import { baseNamed, register, unregister } from './host-api/registry.js';
import { MemfsVolume } from './host-api/volume.js';

export { memoryInUse, MemfsVolume, VolumeSnapshot } from './host-api/volume.js';
export type { Change } from './tree/changes.js';
export type { VolumeLimits } from './host-api/volume.js';

export default definePlugin({
  name: 'memfs',
  description: 'ephemeral file system in memory',
  options,
  commands,
  needs: ({ from, save }: MemfsOptions): BackendNeeds => ({
    paths: [
      ...(from === undefined ? [] : [{ path: resolve(from), write: false }]),
      ...(save === undefined ? [] : [{ path: dirname(resolve(save)), write: true }]),
    ],
  }),
  async create({ from, save, base, name, ...limits }, { log }) {
    if (from !== undefined && base !== undefined) {
      throw new UsageError('backend memfs: from and base: give one of them');
    }
    const volume = base === undefined ? new MemfsVolume(limits) : baseNamed(base).fork(limits);
    const { backend } = volume;
    try {
      if (from !== undefined) await volume.load(from, log);
      if (name !== undefined) register(name, volume);
    } catch (error) {
      volume.discard();
      throw error;
    }
    backend.onUnmount = async () => {
      if (name !== undefined) unregister(name);
      if (save !== undefined) {
        await volume.save(save);
        log.info({ save }, 'saved');
      }
      volume.discard();
    };
    return backend;
  },
});
