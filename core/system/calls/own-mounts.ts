import { readFileSync } from 'node:fs';
import { close, O, open } from './files.js';

interface OwnMount {
  /** Where it is mounted, without symbolic links. */
  readonly directory: string;
  /** An O_PATH descriptor of the directory beneath. */
  readonly fd: number;
  /** As statx(2) gives it; unknown until it was asked for. */
  id: number | undefined;
}

/**
 * The FUSE mounts that this process serves itself. A system call that asks one of them anything
 * waits for the engine's thread; made on that thread, it waits for ever. So whoever walks
 * directories of the host there asks {@link ownMounts} first, and goes on in the directory beneath.
 */
class OwnMounts {
  readonly #mounts = new Set<OwnMount>();

  /** Whether there are any. Where there are none, nothing else here needs to be asked. */
  get any(): boolean {
    return this.#mounts.size > 0;
  }

  /**
   * The directory beneath an own mount.
   * @param id a mount id, as statx(2) gives it.
   * @returns an O_PATH descriptor, open as long as the mount is there; -1 for another's mount.
   */
  beneath(id: number): number {
    for (const mount of this.#mounts) {
      mount.id ??= mountAt(mount.directory);
      if (mount.id === id) return mount.fd;
    }
    return -1;
  }

  /** The own mount at or above a path, by its words, or nothing. */
  above(path: string): string | undefined {
    for (const { directory } of this.#mounts) if (isAtOrBelow(path, directory)) return directory;
    return undefined;
  }

  /**
   * Enters a mount, before it is made: nobody can then meet one that is not known.
   * @param directory where it will be mounted, without symbolic links.
   * @returns what takes it out again, to be called when it is unmounted.
   */
  enter(directory: string): () => void {
    const fd = open(directory, O.PATH | O.DIRECTORY);
    const mount: OwnMount = { directory, fd, id: undefined };
    this.#mounts.add(mount);
    return () => {
      if (this.#mounts.delete(mount) && fd >= 0) close(fd);
    };
  }
}

/** The mounts of this process, whichever copy of an export or a backend asks. */
export const ownMounts = new OwnMounts();

/** Whether an absolute path is a directory's or lies below it, by its words. */
export function isAtOrBelow(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
}

/** A line of /proc/self/mountinfo, proc_pid_mountinfo(5). */
interface MountInfo {
  readonly id: number;
  /** Where it is mounted. */
  readonly directory: string;
  /** Type of the file system; after a dot, its subtype. */
  readonly type: string;
}

/** What is mounted in this process's mount namespace; of two at one place, the upper comes last. */
export function readMounts(): MountInfo[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [front = '', back = ''] = line.split(' - ');
      const fields = front.split(' ');
      return {
        id: Number(fields[0]),
        directory: unescapePath(fields[4] ?? ''),
        type: back.split(' ')[0] ?? '',
      };
    });
}

/** Id of the FUSE mount at a directory, if there is one. */
function mountAt(directory: string): number | undefined {
  return readMounts().findLast((mount) => mount.directory === directory && mount.type.startsWith('fuse'))?.id;
}

function unescapePath(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)));
}
