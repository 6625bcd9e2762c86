/**
 * memfs: an ephemeral file system in the daemon's memory, for sandboxes, scratch space and tests. To a guest it is a
 * tmpfs. `tree.ts` has the rules, `content.ts` the bytes, `backend.ts` serves both to guests and `superblock.ts` to the
 * host program, through the API of the npm package memfs; `volume.ts` is what a host program begins with.
 */
import { definePlugin, UsageError } from '../../core/backend/index.js';
import { named, register, unregister } from './names.js';
import { options } from './options.js';
import { MemfsVolume } from './volume.js';

export { memoryInUse, MemfsVolume, VolumeSnapshot } from './volume.js';
export type { VolumeLimits } from './volume.js';

export default definePlugin({
  name: 'memfs',
  description: 'ephemeral file system in memory',
  options,
  async create({ from, save, base, name, ...limits }, { log }) {
    if (from !== undefined && base !== undefined)
      throw new UsageError('backend memfs: from and base: give one');
    const volume = base === undefined ? new MemfsVolume(limits) : named(base).fork(limits);
    if (name !== undefined) register(name, volume);
    const { backend } = volume;
    backend.onUnmount = async () => {
      if (name !== undefined) unregister(name);
      if (save !== undefined) {
        await volume.save(save);
        log.info({ save }, 'saved');
      }
      volume.discard();
    };
    try {
      if (from !== undefined) await volume.load(from, log);
    } catch (error) {
      if (name !== undefined) unregister(name);
      volume.discard();
      throw error;
    }
    return backend;
  },
});
