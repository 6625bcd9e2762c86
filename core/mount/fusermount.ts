import { spawn, spawnSync } from 'node:child_process';
import { type OwnedFd, UnixConnection } from '../system/index.js';
import { MountError } from './mount-error.js';
import type { MountFlags } from './options.js';

const PROGRAM = 'fusermount3';
/** The number of the child's end of the socket pair, in the child. */
const CHILD_FD = 3;

/**
 * Mounts by fuse3's set-user-id program, for users without privilege. The program mounts, and sends
 * the open `/dev/fuse` over the socket that `_FUSE_COMMFD` names (fusermount3(1)).
 * @throws MountError
 */
export async function mountByFusermount(
  directory: string,
  source: string,
  flags: MountFlags,
): Promise<OwnedFd> {
  const name = source.replaceAll(/[\\,]/g, '\\$&');
  const options = [`fsname=${name}`, 'subtype=virtiofs-kit', 'default_permissions'];
  options.push(
    flags.readOnly ? 'ro' : 'rw',
    flags.setuid ? 'suid' : 'nosuid',
    flags.devices ? 'dev' : 'nodev',
  );
  if (flags.allowOther) options.push('allow_other');
  const [ours, theirs] = UnixConnection.pair();
  try {
    const failure = await run(['-o', options.join(','), '--', directory], theirs);
    const fd = receive(ours);
    if (failure === undefined && fd !== undefined) return fd;
    fd?.close();
    throw new MountError(`mount ${directory}: ${failure ?? `${PROGRAM} sent no descriptor`}`);
  } finally {
    ours.close();
    theirs.close();
  }
}

/** Unmounts. If files are in use, the mount is detached from the tree. @throws MountError */
export async function unmountByFusermount(directory: string): Promise<void> {
  if ((await run(['-u', '--', directory])) === undefined) return;
  const failure = await run(['-u', '-z', '--', directory]);
  if (failure !== undefined) throw new MountError(`unmount ${directory}: ${failure}`);
}

/** Detaches a mount whose connection is closed, without waiting. */
export function detachByFusermount(directory: string): void {
  spawnSync(PROGRAM, ['-u', '-z', '--', directory], { stdio: 'ignore', timeout: 5000 });
}

/** Receives the descriptor that the child has sent. */
function receive(connection: UnixConnection): OwnedFd | undefined {
  const fds: OwnedFd[] = [];
  connection.recv(new Uint8Array(16), fds);
  const [first, ...others] = fds;
  for (const other of others) other.close();
  return first;
}

/** Runs the program. @returns undefined if it succeeded, else its error message. */
function run(args: readonly string[], socket?: UnixConnection): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const child = spawn(PROGRAM, args, {
      stdio: ['ignore', 'ignore', 'pipe', ...(socket === undefined ? [] : [socket.fd])],
      env: { ...process.env, LC_ALL: 'C', _FUSE_COMMFD: `${CHILD_FD}` },
    });
    let words = '';
    child.stderr!.on('data', (data: Buffer) => {
      words = `${words}${data.toString()}`.slice(-1000);
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        new MountError(
          error.code === 'ENOENT'
            ? `${PROGRAM} is not there: install the package fuse3, or mount as root`
            : error.message,
        ),
      );
    });
    child.once('close', (code) =>
      resolve(code === 0 ? undefined : words.trim() || `${PROGRAM} failed (${code})`),
    );
  });
}
