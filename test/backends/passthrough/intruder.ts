import * as fs from 'node:fs';
import { connect, createServer } from 'node:net';
import { close, O, open, syscall } from '../../../core/system/calls/files.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';

const arm64 = process.arch === 'arm64';
const SYS = {
  NAME_TO_HANDLE_AT: arm64 ? 264 : 303,
  OPEN_BY_HANDLE_AT: arm64 ? 265 : 304,
  PTRACE: arm64 ? 117 : 101,
  MOUNT: arm64 ? 40 : 165,
  UNSHARE: arm64 ? 97 : 272,
} as const;
const PTRACE_SEIZE = 0x4206;
const AT_FDCWD = -100;

const memory = NativeMemory.allocate(4096);
/** `struct file_handle { u32 handle_bytes; s32 handle_type; u8 f_handle[]; }` */
const HANDLE = memory.address;
const MOUNT_ID = memory.address + 256;
const PATH = memory.address + 512;

function putPath(path: string): number {
  memory.u8.set(Buffer.from(`${path}\0`), 512);
  return PATH;
}

/** The kernel's answer: `done`, or the errno. */
function answer(code: number): string {
  return code < 0 ? `errno ${-code}` : 'done';
}

/** Opens a file by its handle, through any directory of its file system. */
function byHandle(directory: string, path: string, flags: number): string {
  memory.u32[0] = 128;
  const known = syscall(SYS.NAME_TO_HANDLE_AT, AT_FDCWD, putPath(path), HANDLE, MOUNT_ID, 0);
  if (known < 0) return `no handle: ${answer(known)}`;
  const at = open(directory, O.DIRECTORY);
  if (at < 0) return answer(at);
  const fd = syscall(SYS.OPEN_BY_HANDLE_AT, at, HANDLE, flags) as Fd;
  close(at);
  if (fd >= 0) close(fd);
  return answer(fd);
}

/** Listens on, or connects to, a TCP port of this machine. */
function tcp(action: 'listen' | 'connect'): Promise<string> {
  return new Promise((tell) => {
    const failed = ({ code }: NodeJS.ErrnoException): void => tell(code ?? 'no code');
    if (action === 'listen') {
      const server = createServer().on('error', failed);
      server.listen(0, '127.0.0.1', () => server.close(() => tell('done')));
    } else {
      const socket = connect(9, '127.0.0.1', () => socket.end(() => tell('done'))).on('error', failed);
    }
  });
}

/** What the code of a plugin in a confined daemon tries, and must not be able to do. */
export async function intrude(
  base: string,
  share: string,
  attempt: (name: string, action: () => unknown) => Promise<void>,
): Promise<void> {
  for (const [where, directory] of Object.entries({ share, base, root: '/' })) {
    await attempt(`read by handle at ${where}`, () => byHandle(directory, `${base}/secret`, O.RDONLY));
    await attempt(`write by handle at ${where}`, () => byHandle(directory, `${base}/secret`, O.RDWR));
  }
  await attempt('read the passwords', () => answer(open('/etc/shadow', O.RDONLY)));
  for (const device of ['kvm', 'mem', 'fuse', 'vda', 'kmsg']) {
    if (fs.existsSync(`/dev/${device}`)) {
      await attempt(`open the device ${device}`, () => answer(open(`/dev/${device}`, O.RDONLY)));
    }
  }
  await attempt('listen for TCP', () => tcp('listen'));
  await attempt('connect by TCP', () => tcp('connect'));
  await attempt('signal the parent', () => process.kill(process.ppid, 0));
  await attempt('read the environment of the parent', () =>
    answer(open(`/proc/${process.ppid}/environ`, O.RDONLY)),
  );
  await attempt('trace the parent', () => answer(syscall(SYS.PTRACE, PTRACE_SEIZE, process.ppid)));
  await attempt('mount', () => answer(syscall(SYS.MOUNT, 0, putPath(share), 0, 0)));
  await attempt('unshare', () => answer(syscall(SYS.UNSHARE, 0)));
  await attempt('open a file of the share by handle', () => byHandle(share, `${share}/file`, O.RDWR));
}
