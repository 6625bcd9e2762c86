import { UsageError } from '../../backend/index.js';
import { type Fd, inheritedFd, type OwnedFd, UnixListener } from '../../system/index.js';

/** Environment variable with the descriptor of a control socket that listens, through execve(2). */
export const CONTROL_FD = 'VIRTIOFS_KIT_CONTROL_FD';

/** Where commands are taken. */
export interface ControlTarget {
  readonly path: string;
  /** The descriptor that listens already, in an engine: its keeper has made the socket. */
  readonly fd: OwnedFd | undefined;
}

/** The socket at a path, or the one that a keeper has made there. */
export function findControlTarget(path: string): ControlTarget {
  return { path, fd: inheritedFd(CONTROL_FD) };
}

/** What the engines of a keeper inherit. */
export interface KeptControl {
  readonly fd: Fd;
  /** Removes the socket. */
  close(): void;
}

/**
 * Listens in the place of engines, of which one at a time answers: what is asked between two of
 * them waits. Only the owner may open the socket.
 * @param inheritedAs the descriptor's number in an engine.
 * @throws UsageError
 */
export function keepControl(path: string, inheritedAs: number): KeptControl {
  const umask = process.umask(0o177);
  try {
    const kept = UnixListener.listen(path);
    process.env[CONTROL_FD] = `${inheritedAs}`;
    return kept;
  } catch (error) {
    throw new UsageError(`--control ${path}: ${(error as Error).message}`, { cause: error });
  } finally {
    process.umask(umask);
  }
}
