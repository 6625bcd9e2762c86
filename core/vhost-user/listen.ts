import { chmodSync, chownSync, lstatSync } from 'node:fs';
import { dirname } from 'node:path';
import { SystemError, UnixListener } from '../system/index.js';

/** A socket cannot be served. The text says why, and what to do, in one line. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** How a socket file is made. */
export interface ListenOptions {
  /** Permission bits of the socket file, such as 0o660. Default: what the umask leaves. */
  readonly mode?: number | undefined;
  /** Group id of the socket file. */
  readonly group?: number | undefined;
}

const Errno = {
  ENOENT: 2,
  EACCES: 13,
  ENOTDIR: 20,
  ENAMETOOLONG: 36,
  EADDRINUSE: 98,
};

/**
 * Makes the socket file and listens on it. A stale one, on which nobody listens, is replaced.
 * @throws ListenError
 */
export function bindSocket(path: string, options: ListenOptions): UnixListener {
  let listener: UnixListener | undefined;
  // The umask closes the moment between bind and chmod in which others could connect.
  const umask = options.mode === undefined ? undefined : process.umask(0o777 & ~options.mode);
  try {
    listener = UnixListener.listen(path);
    if (options.mode !== undefined) chmodSync(path, options.mode);
    if (options.group !== undefined) chownSync(path, -1, options.group);
    return listener;
  } catch (error) {
    listener?.close();
    throw new ListenError(`--socket-path ${path}: ${explain(path, error)}`, { cause: error });
  } finally {
    if (umask !== undefined) process.umask(umask);
  }
}

function explain(path: string, error: unknown): string {
  const directory = dirname(path);
  const errno = error instanceof SystemError ? error.errno : 0;
  switch (errno) {
    case Errno.EADDRINUSE:
      return lstatSync(path, { throwIfNoEntry: false })?.isSocket()
        ? 'another process listens on it; stop that one or choose another path'
        : 'there is a file that is not a socket; remove it or choose another path';
    case Errno.ENOENT:
      return `no such directory: ${directory}; create it first`;
    case Errno.ENOTDIR:
      return `${directory} is not a directory; choose another path`;
    case Errno.EACCES:
      return `no permission to create a socket in ${directory}; choose another path or another user`;
    case Errno.ENAMETOOLONG:
      return 'too long for a socket (107 bytes at most); choose a shorter path';
    default:
      return (error as Error).message;
  }
}
