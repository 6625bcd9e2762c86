import type { Fd } from '../descriptors/fd.js';
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { close, O, open } from './files.js';

interface OwnMount {
  /** Where it is mounted, without symbolic links. */
  readonly directory: string;
  /** An O_PATH descriptor of the directory beneath. */
  readonly fd: Fd;
  /** The mount id, as statx(2) gives it. It is read when it is first needed. */
  id: number | undefined;
}

/**
 * The FUSE mounts that this process serves itself. A system call on such a mount waits for the
 * engine's thread to answer. If the engine's thread makes that call, it waits for ever. So code on
 * that thread that walks directories of the host asks {@link ownMounts} first. It then goes on in
 * the directory that the mount covers.
 */
class OwnMounts {
  readonly #mounts = new Set<OwnMount>();

  /** Whether there are any. If not, the other methods need not be called. */
  get any(): boolean {
    return this.#mounts.size > 0;
  }

  /**
   * The directory that an own mount covers.
   * @param id a mount id, as statx(2) gives it.
   * @returns an O_PATH descriptor, which is open as long as the mount exists; -1 if this process
   * does not serve the mount.
   */
  beneath(id: number): Fd {
    for (const mount of this.#mounts) {
      mount.id ??= mountAt(mount.directory);
      if (mount.id === id) return mount.fd;
    }
    return -1 as Fd;
  }

  /**
   * The directory of the own mount at or above a path; undefined if there is none. Only the texts
   * are compared.
   */
  above(path: string): string | undefined {
    for (const { directory } of this.#mounts) if (isAtOrBelow(path, directory)) return directory;
    return undefined;
  }

  /**
   * Adds a mount. It is called before the mount is made, so that no walk meets an unknown mount.
   * @param directory where it will be mounted, without symbolic links.
   * @returns a function that removes it, to be called after the unmount.
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

/** The one instance: mounts belong to the whole process, not to an export or a backend. */
export const ownMounts = new OwnMounts();

/** Whether an absolute path is `directory` or lies below it. Only the texts are compared. */
export function isAtOrBelow(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
}

/** A line of /proc/self/mountinfo, proc_pid_mountinfo(5). */
export interface MountInfo {
  readonly id: number;
  /** Of the mount that it lies on. */
  readonly parent: number;
  /** Where it is mounted. */
  readonly directory: string;
  /** Type of the file system; after a dot, its subtype. */
  readonly type: string;
  /** Directory of the file system that is mounted: `/`, or another by a bind. */
  readonly root: string;
  /** What this mount has, such as `nodev`. */
  readonly flags: readonly string[];
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
        parent: Number(fields[1]),
        directory: unescapePath(fields[4] ?? ''),
        type: back.split(' ')[0] ?? '',
        root: unescapePath(fields[3] ?? ''),
        flags: (fields[5] ?? '').split(','),
      };
    });
}

/** {@link readMounts}, without those to which no path leads, since another covers theirs. */
export function reachableMounts(): MountInfo[] {
  const mounts = readMounts();
  const places = new Set(mounts.map(({ parent, directory }) => `${parent} ${directory}`));
  const isCovered = ({ parent, directory }: MountInfo): boolean => {
    for (let above = directory; above !== '/';) {
      above = dirname(above);
      if (places.has(`${parent} ${above}`)) return true;
    }
    return false;
  };
  const hidden = new Set(mounts.filter(isCovered).map(({ id }) => id));
  // What lies on a hidden mount is hidden: until nothing more is found.
  for (let before = -1; before < hidden.size;) {
    before = hidden.size;
    for (const { id, parent } of mounts) if (hidden.has(parent)) hidden.add(id);
  }
  return mounts.filter(({ id }) => !hidden.has(id));
}

/** Id of the FUSE mount at a directory, if there is one. */
function mountAt(directory: string): number | undefined {
  return readMounts().findLast((mount) => mount.directory === directory && mount.type.startsWith('fuse'))?.id;
}

function unescapePath(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)));
}
