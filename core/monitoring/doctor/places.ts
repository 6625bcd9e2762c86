import { lstatSync, readdirSync, readFileSync, readlinkSync, type Stats, statfsSync } from 'node:fs';
import type { Finding } from './finding.js';

const LITTLE_FREE = 0.05;
const LEAST_FREE_BYTES = 2 ** 28;
/** `flags` of /proc/net/unix for one that listens: SO_ACCEPTCON, `include/linux/net.h`. */
const LISTENS = '00010000';

/**
 * Looks at the socket files that a configuration names. Nobody connects there: a daemon might end
 * with the connection.
 */
export function judgeSockets(paths: readonly string[], isRoot: boolean): Finding[] {
  const listening = listeners();
  return paths.map((path): Finding => {
    const about = path;
    let mode: number;
    let identity: string;
    try {
      const stats = lstatSync(path);
      if (!stats.isSocket()) {
        return {
          level: 'problem',
          about,
          text: 'what is there is no socket, so that the daemon does not start',
          advice: 'Move it away, or name another path.',
        };
      }
      ({ mode } = stats);
      identity = identityOf(stats);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        return { level: 'warning', about, text: (error as Error).message };
      return { level: 'note', about, text: 'nobody serves there' };
    }
    if (!listening.has(path) && !listening.has(identity)) {
      const text = 'a socket file on which nobody listens: its daemon is gone';
      // Another user's daemon may be confined, in a network of its own that only root sees.
      if (!isRoot) return { level: 'note', about, text: `${text}, or only root can see it` };
      return { level: 'warning', about, text, advice: 'Start the daemon; it replaces the file.' };
    }
    const text = `served, mode 0${(mode & 0o777).toString(8)}`;
    if ((mode & 0o022) === 0) {
      return {
        level: 'note',
        about,
        text: `${text}: only its owner can connect`,
        advice: 'Where QEMU runs as another user, as under libvirt: --socket-mode 0660 --socket-group kvm.',
      };
    }
    if ((mode & 0o002) === 0) return { level: 'ok', about, text };
    return {
      level: 'warning',
      about,
      text: `${text}: every user of the host can connect, and use the export as root of a guest`,
      advice: 'Use --socket-mode 0660 and --socket-group.',
    };
  });
}

function identityOf({ dev, ino }: Stats): string {
  return `${dev}:${ino}`;
}

/**
 * Paths, and identities, of all sockets that listen, in every network that this user sees. Some
 * have a path beside the one at which they listened first.
 */
function listeners(): Set<string> {
  const paths = new Set<string>();
  const seen = new Set<string>();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const network = readlinkSync(`/proc/${pid}/ns/net`);
      if (seen.has(network)) continue;
      const list = readFileSync(`/proc/${pid}/net/unix`, 'utf8');
      seen.add(network);
      for (const line of list.split('\n')) {
        const words = line.trim().split(/\s+/);
        if (words[3] !== LISTENS || words[7] === undefined) continue;
        const path = words.slice(7).join(' ');
        paths.add(path);
        const stats = path.startsWith('/') ? lstatSync(path, { throwIfNoEntry: false }) : undefined;
        if (stats !== undefined) paths.add(identityOf(stats));
      }
    } catch {
      // The process has ended, or is another user's.
    }
  }
  return paths;
}

/** Looks at the folders in which backends keep something. */
export function judgeFolders(paths: readonly string[]): Finding[] {
  return [...new Set(paths)].map((path): Finding => {
    try {
      const { bsize, blocks, bavail, files, ffree } = statfsSync(path);
      const free = bsize * bavail;
      const isFull = blocks > 0 && bavail / blocks < LITTLE_FREE && free < LEAST_FREE_BYTES * 16;
      if (isFull || free < LEAST_FREE_BYTES || (files > 0 && ffree / files < LITTLE_FREE)) {
        return {
          level: free < LEAST_FREE_BYTES || ffree === 0 ? 'problem' : 'warning',
          about: path,
          text: `${Math.round(free / 2 ** 20)} MiB and ${ffree} inodes are free`,
          advice: 'Make room there, before guests are told ENOSPC.',
        };
      }
      return { level: 'ok', about: path, text: `${Math.round(free / 2 ** 20)} MiB free` };
    } catch (error) {
      const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      return {
        level: 'warning',
        about: path,
        text: isAbsent ? 'there is no such folder' : (error as Error).message,
      };
    }
  });
}
