import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { close, O, open, syscall } from '../../../core/system/calls/files.js';
import { interfaces } from '../../../core/system/confinement/state.js';
import { type Fd, NativeMemory } from '../../../core/system/index.js';

const arm64 = process.arch === 'arm64';
const SYS = {
  NAME_TO_HANDLE_AT: arm64 ? 264 : 303,
  OPEN_BY_HANDLE_AT: arm64 ? 265 : 304,
  PTRACE: arm64 ? 117 : 101,
  MOUNT: arm64 ? 40 : 165,
  UNSHARE: arm64 ? 97 : 272,
  MMAP: arm64 ? 222 : 9,
  MPROTECT: arm64 ? 226 : 10,
  FCNTL: arm64 ? 25 : 72,
  PRLIMIT64: arm64 ? 261 : 302,
  PROCESS_VM_READV: arm64 ? 270 : 310,
  BPF: arm64 ? 280 : 321,
  PERF_EVENT_OPEN: arm64 ? 241 : 298,
  KEYCTL: arm64 ? 219 : 250,
  MEMFD_CREATE: arm64 ? 279 : 319,
  TKILL: arm64 ? 130 : 200,
  PIDFD_OPEN: 434,
  IO_URING_SETUP: 425,
  FUTURE: 600,
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

/** Listens on, or connects to, a TCP port of this machine or a path. */
function socket(
  action: 'listen' | 'connect',
  where: { port: number; host: string } | string,
): Promise<string> {
  return new Promise((tell) => {
    const failed = ({ code }: NodeJS.ErrnoException): void => tell(code ?? 'no code');
    const options = typeof where === 'string' ? { path: where } : where;
    if (action === 'listen') {
      const server = createServer().on('error', failed);
      server.listen(options, () => server.close(() => tell('done')));
    } else {
      const made = connect(options, () => made.end(() => tell('done'))).on('error', failed);
    }
  });
}

/** Sends a datagram to a port of this machine. */
function datagram(): Promise<string> {
  return new Promise((tell) => {
    const end = (error: NodeJS.ErrnoException | null): void => tell(error?.code ?? 'done');
    const made = createSocket('udp4').on('error', end);
    made.send('x', 9, '127.0.0.1', (error) => {
      end(error);
      made.close();
    });
  });
}

const PAGE_BYTES = 4096;
const READ_WRITE = 3;
const EXEC = 4;
const READ_EXEC = 5;
const PRIVATE = 2;
const PRIVATE_ANONYMOUS = 0x22;

/** Makes memory of this process executable that was written, or can be. */
function executable(how: 'at once' | 'later' | { file: string } | 'memory file'): string {
  const map = (rights: number, flags: number, fd: number): number =>
    syscall(SYS.MMAP, 0, PAGE_BYTES, rights, flags, fd, 0);
  if (how === 'at once') return answer(Math.min(map(READ_WRITE | EXEC, PRIVATE_ANONYMOUS, -1), 0));
  if (how === 'later')
    return answer(syscall(SYS.MPROTECT, map(READ_WRITE, PRIVATE_ANONYMOUS, -1), PAGE_BYTES, READ_EXEC));
  const fd =
    typeof how === 'object' ? open(how.file, O.RDONLY) : syscall(SYS.MEMFD_CREATE, putPath('code'), 0);
  return answer(Math.min(map(READ_EXEC, PRIVATE, fd), 0));
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
  const port = { port: 9, host: '127.0.0.1' };
  await attempt('listen for TCP', () => socket('listen', { ...port, port: 0 }));
  await attempt('connect by TCP', () => socket('connect', port));
  await attempt('send by UDP', datagram);
  await attempt('connect to a socket beside the share', () => socket('connect', `${base}/host`));
  await attempt('connect to the own kind of socket', () => socket('connect', `${base}/sockets/host`));
  await attempt('listen on a further socket', () => socket('listen', `${base}/sockets/more`));
  await attempt(
    'see a network',
    () =>
      interfaces()
        .filter((name) => name !== 'lo')
        .join(' ') || 'none',
  );
  await attempt('signal the parent', () => process.kill(process.ppid, 0));
  await attempt('signal a thread of the parent', () => answer(syscall(SYS.TKILL, process.ppid, 0)));
  await attempt('signal all processes', () => process.kill(-1, 0));
  await attempt('signal the parent by a descriptor', () => answer(syscall(SYS.FCNTL, 0, 8, process.ppid)));
  await attempt('hold the parent', () => answer(syscall(SYS.PIDFD_OPEN, process.ppid, 0)));
  for (const file of ['environ', 'status', 'maps']) {
    await attempt(`read ${file} of the parent`, () =>
      answer(open(`/proc/${process.ppid}/${file}`, O.RDONLY)),
    );
  }
  await attempt('list the processes', () => {
    const seen = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name));
    return seen.join() === String(process.pid) ? 'itself' : 'others';
  });
  await attempt('limit the parent', () => answer(syscall(SYS.PRLIMIT64, process.ppid, 7, 0, PATH)));
  await attempt('read memory of the parent', () =>
    answer(syscall(SYS.PROCESS_VM_READV, process.ppid, PATH, 1, PATH, 1, 0)),
  );
  await attempt('trace the parent', () => answer(syscall(SYS.PTRACE, PTRACE_SEIZE, process.ppid)));
  await attempt('mount', () => answer(syscall(SYS.MOUNT, 0, putPath(share), 0, 0)));
  await attempt('unshare', () => answer(syscall(SYS.UNSHARE, 0)));
  await attempt('load a program into the kernel', () => answer(syscall(SYS.BPF, 0, PATH, 8)));
  await attempt('watch the processor', () => answer(syscall(SYS.PERF_EVENT_OPEN, PATH, 0, -1, -1, 0)));
  await attempt('use the keyring', () => answer(syscall(SYS.KEYCTL, 0, -3, 1)));
  await attempt('use io_uring', () => answer(syscall(SYS.IO_URING_SETUP, 1, PATH)));
  await attempt('make an unknown call', () => answer(syscall(SYS.FUTURE)));
  await attempt('start a program', () => {
    const { error } = spawnSync('/bin/true');
    if (error !== undefined) throw error;
  });
  fs.writeFileSync(`${share}/code`, Buffer.alloc(PAGE_BYTES));
  await attempt('write and execute memory', () => executable('at once'));
  await attempt('execute memory that was written', () => executable('later'));
  await attempt('execute a file of the share', () => executable({ file: `${share}/code` }));
  await attempt('execute a file in memory', () => executable('memory file'));
  await attempt('compile JavaScript', () => {
    let sum = 0;
    for (let round = 0; round < 200; round++) {
      const made = new Function('n', `let s = ${round}; for (let i = 0; i < n; i++) s += i; return s;`);
      sum += (made as (n: number) => number)(20_000);
    }
    return sum > 0 ? 'done' : 'not done';
  });
  await attempt('open a file of the share by handle', () => byHandle(share, `${share}/file`, O.RDWR));
}
