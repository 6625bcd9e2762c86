import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../backend/index.js';
import type { Kernel } from './kernel.js';
import { findProgram } from './programs.js';
import { PORTS, type GuestShare } from './qemu.js';

/** Where Debian's package has the modules of its kernel. */
const MODULES = '/usr/lib/uml/modules';

/** The virtio device id of a file system (virtio 1.2, section 5). */
const FILE_SYSTEM = 26;

/** The kernel keeps the guest's memory in a file there. */
export const UML_MEMORY_FOLDER = '/dev/shm';

/**
 * Preloaded into the kernel, so that it does not sleep through interrupts: `uml-idle.c`, which the
 * package's build compiles if there is a C compiler.
 */
const IDLE = fileURLToPath(new URL('./uml-idle.so', import.meta.url));

/** Serial lines of the guest, in this order; the last one is the terminal. */
export const LINES = [...PORTS, 'console'] as const;

/** The first of the descriptors that become serial lines. */
const FIRST_LINE = 3;

/**
 * User-Mode Linux: the kernel that is a program, with its modules.
 * @throws UsageError where it is not installed, with the way to get it.
 */
export function findUml(): Kernel {
  const image = findProgram('linux.uml');
  const releases = existsSync(MODULES) ? readdirSync(MODULES) : [];
  const release = releases.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))[0];
  if (image === undefined || release === undefined)
    throw new UsageError('User-Mode Linux not found: apt-get install user-mode-linux');
  if (isTooOldForAmx(release)) {
    throw new UsageError(
      `User-Mode Linux ${release} does not start on processors with AMX; Linux 6.13 and later does`,
    );
  }
  return { image, release, modules: join(MODULES, release) };
}

/** Before Linux 6.13 its buffer for PTRACE_SETREGSET is too small for AMX's registers. */
function isTooOldForAmx(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  const isOld = major < 6 || (major === 6 && minor < 13);
  return isOld && /^flags\s.*\bamx_tile\b/m.test(readFileSync('/proc/cpuinfo', 'latin1'));
}

/** Of a guest's options, those that decide what can run it. */
export interface MachineWishes {
  /** In MiB. */
  readonly memory?: number | undefined;
  readonly cpus?: number | undefined;
  readonly kernel?: string | undefined;
  readonly machine?: string | undefined;
  readonly qemu?: string | undefined;
  readonly qemuArguments?: readonly string[] | undefined;
}

/** What of a guest's options only QEMU has, as an error's text; undefined if nothing is. */
export function whyNotUml(wishes: MachineWishes): string | undefined {
  const { cpus = 1, kernel, qemu, machine, qemuArguments: more = [] } = wishes;
  if (cpus > 1) return `User-Mode Linux has one processor, not ${cpus}`;
  if (kernel !== undefined) return `User-Mode Linux is a kernel itself and takes no ${kernel}`;
  if (qemu !== undefined || machine !== undefined || more.length > 0)
    return 'User-Mode Linux takes nothing that is for QEMU';
  return undefined;
}

/** A User-Mode Linux guest to start. */
export interface UmlMachine {
  /** MiB. */
  readonly memory: number;
  readonly initramfs: string;
  /** More for the kernel's command line. */
  readonly append: string;
  readonly shares: readonly GuestShare[];
  /** Folder for the kernel's own files. */
  readonly folder: string;
}

/** What the kernel's environment has beside that of this process, or in place of it. */
export function umlEnvironment({ LD_PRELOAD: others }: NodeJS.ProcessEnv): Record<string, string> {
  const memory = { TMPDIR: UML_MEMORY_FOLDER };
  // Paths of the list end with blanks and colons.
  if (!existsSync(IDLE) || /[\s:]/.test(IDLE)) return memory;
  return { ...memory, LD_PRELOAD: [IDLE, others].filter(Boolean).join(':') };
}

/** The kernel's command line. Serial lines are the descriptors from 3 on. */
export function umlArguments({ memory, initramfs, append, shares, folder }: UmlMachine): string[] {
  const lines = LINES.map((_, index) => `ssl${index}=fd:${FIRST_LINE + index}`);
  const devices = shares.map(({ socket }) => `virtio_uml.device=${socket}:${FILE_SYSTEM}`);
  const words =
    'root=/dev/ram0 quiet loglevel=3 panic=-1 random.trust_cpu=on con=null con0=null,fd:1 ssl=null';
  return [`mem=${memory}M`, `initrd=${initramfs}`, 'umid=guest', `uml_dir=${folder}`].concat(
    words.split(' '),
    lines,
    devices,
    append.split(' ').filter(Boolean),
  );
}

/**
 * Functions of the guest's init that stand for its virtio-serial ports. A serial line has no end
 * of input, so what a command reads comes in parts, each after its length in a line of its own.
 * Lines are held open, because one that nobody has open loses what is on the way.
 */
export const UML_PORTS = `
port() {
  case $1 in
${LINES.map((name, index) => `    ${name}) line=/dev/ttyS${index} ;;`).join('\n')}
  esac
  stty raw -echo <"$line"
  echo "$line"
}
console=/dev/ttyS${LINES.length - 1}
hold() { exec 5<>"$stdin" 6<>"$stdout" 7<>"$stderr"; }
read_input() {
  while read -r size && [ "$size" -gt 0 ]; do dd bs="$size" count=1 iflag=fullblock 2>/run/log; done
}
`;

/** Puts what a command reads into parts, for `read_input`. */
export function inParts(): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const bytes = Buffer.from(chunk);
      for (let at = 0; at < bytes.length; at += 65536) {
        const part = bytes.subarray(at, at + 65536);
        this.push(`${part.length}\n`);
        this.push(part);
      }
      done();
    },
    flush(done) {
      this.push('0\n');
      done();
    },
  });
}
