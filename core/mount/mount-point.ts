import { realpath, stat } from 'node:fs/promises';
import { MountError } from './mount-error.js';

/**
 * Checks a directory to mount on. The calls run on another thread, since the directory may lie in a
 * mount that this process serves.
 */
export async function mountPoint(directory: string): Promise<string> {
  try {
    const path = await realpath(directory);
    if (!(await stat(path)).isDirectory()) throw new MountError(`${directory}: not a directory`);
    return path;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new MountError(`${directory}: no such directory`);
    if (code === 'ENOTCONN') {
      throw new MountError(
        `${directory}: a dead mount is there; remove it with: fusermount3 -u ${directory}`,
      );
    }
    if (error instanceof MountError) throw error;
    throw new MountError(`${directory}: ${code ?? String(error)}`);
  }
}
