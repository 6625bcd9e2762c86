/**
 * memfs: an ephemeral file system in the daemon's memory, for sandboxes, scratch space and tests.
 * To a guest it is a tmpfs.
 *
 * `backend.ts` serves guests, `commands.ts` has the commands, `limits.ts` a volume's limits where
 * nobody says them, `saved-state.ts` is the saved form of a tree. `tree/` has the inodes, every
 * change to them with tmpfs's rules, and snapshots. `content/` stores the bytes of files.
 * `lasting/` keeps a volume when its process is killed. `import/` fills a tree from a directory or
 * archive and saves one. `host-api/` is what a host program uses: volumes with the API of the npm
 * package memfs.
 */
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackendNeeds, definePlugin, type Logger, UsageError } from '../../core/backend/index.js';
import { commands } from './commands.js';
import { type MemfsOptions, options } from './options.js';
import { baseNamed, register, unregister } from './host-api/registry.js';
import { MemfsVolume } from './host-api/volume.js';

export { memoryInUse, MemfsVolume, VolumeSnapshot } from './host-api/volume.js';
export type { Change } from './tree/changes.js';
export type { VolumeLimits } from './limits.js';

/** The plugin: `memfs` on the command line and in configuration files. */
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
  async create({ from, save, base, name, mode, uid, gid, ...limits }, { log, continues }) {
    if (from !== undefined && base !== undefined) {
      throw new UsageError('backend memfs: from and base: give one of them');
    }
    const volume = base === undefined ? new MemfsVolume(limits) : baseNamed(base).fork(limits);
    const { backend } = volume;
    try {
      if (continues !== true) {
        if (from !== undefined) await volume.load(from, log);
        const root = volume.statSync('/');
        if (uid !== undefined || gid !== undefined) volume.chownSync('/', uid ?? root.uid, gid ?? root.gid);
        if (mode !== undefined) volume.chmodSync('/', mode);
      }
      if (name !== undefined) register(name, volume);
    } catch (error) {
      volume.discard();
      throw error;
    }
    backend.onUnmount = async () => {
      if (name !== undefined) unregister(name);
      if (save !== undefined) {
        await saveSurely(volume, save, log);
      }
      // The next process may have to go on with it.
      if (!backend.isKept) volume.discard();
    };
    backend.onLost = () => {
      if (name !== undefined) unregister(name);
    };
    return backend;
  },
});

/** Between two attempts to save a volume, in milliseconds, and for how long it is tried. */
const RETRY_MS = 1000;
const PATIENCE_MS = 60_000;

/**
 * Saves a volume that is about to end. Where there is no room it is tried again for a minute. What
 * cannot be saved where it should is saved in the folder for temporary files.
 * @throws Error if it was not saved at its path: where it is now, or why it is nowhere.
 */
async function saveSurely(volume: MemfsVolume, path: string, log: Logger): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      await volume.save(path);
      log.info({ save: path }, 'saved');
      return;
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (!['ENOSPC', 'EDQUOT'].includes(code) || performance.now() > end) {
        return saveElsewhere(volume, path, error as Error);
      }
      log.error({ err: error, save: path }, 'no room to save the volume: make some, it is tried again');
    }
    await sleep(RETRY_MS);
  }
}

async function saveElsewhere(volume: MemfsVolume, path: string, cause: Error): Promise<void> {
  const other = join(tmpdir(), `virtiofs-kit-${process.pid}-${basename(path)}`);
  try {
    await volume.save(other);
  } catch (error) {
    const reasons = `${cause.message}; ${(error as Error).message}`;
    throw new Error(`the volume was saved neither to ${path} nor to ${other}: ${reasons}`, { cause: error });
  }
  throw new Error(`the volume could not be saved to ${path} (${cause.message}): it was saved to ${other}`, {
    cause,
  });
}
