import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { findKernel, hasDriver, type Kernel } from './kernel.js';
import { findQemu } from './programs.js';
import { type Accelerator, machineArguments, type MachineType } from './qemu.js';
import { findUml, UML_MEMORY_FOLDER, whyNotUml, type MachineWishes } from './uml.js';

/** A probe that takes longer has hung. */
const KVM_TIMEOUT_MS = 8000;
const UML_TIMEOUT_MS = 60_000;

let kvmWorks: Promise<boolean> | undefined;
let microvmWorks: Promise<boolean> | undefined;

/**
 * Chooses KVM if it works, else TCG. KVM counts as working only if `kernel` has booted with it:
 * some hosts have a device that opens and runs a few instructions, and then hangs. The result is
 * kept until the host reboots.
 */
export async function chooseAccelerator(qemu: string, kernel: string): Promise<'kvm' | 'tcg'> {
  kvmWorks ??= testKvm(qemu, kernel);
  return (await kvmWorks) ? 'kvm' : 'tcg';
}

/**
 * Chooses what QEMU emulates: `microvm` with KVM, if one has booted here and the kernel has the
 * driver of its devices; else `q35`.
 */
export async function chooseMachine(
  qemu: string,
  kernel: Kernel,
  accelerator: 'kvm' | 'tcg',
): Promise<MachineType> {
  if (accelerator !== 'kvm' || !hasDriver(kernel, 'drivers/virtio/virtio_mmio')) return 'q35';
  microvmWorks ??= remembered('microvm', () => boots(qemu, kernel.image, 'microvm'));
  return (await microvmWorks) ? 'microvm' : 'q35';
}

/**
 * Chooses for a guest whose commands are trusted as programs of this host are: User-Mode Linux does
 * not keep them apart from it. KVM if it works, else User-Mode Linux if it boots here and has what
 * the guest needs, else TCG.
 * @param wishes.memory in MiB.
 * @throws UsageError if neither QEMU with a kernel nor User-Mode Linux is there.
 */
export async function chooseForTrusted(wishes: MachineWishes): Promise<Accelerator> {
  let problem: unknown;
  try {
    const qemu = findQemu(wishes.qemu);
    const accelerator = await chooseAccelerator(qemu, findKernel(wishes.kernel).image);
    if (accelerator === 'kvm') return accelerator;
  } catch (error) {
    problem = error;
  }
  if (whyNotUml(wishes) === undefined && hasRoom(wishes.memory) && (await umlBoots())) return 'uml';
  if (problem !== undefined) throw problem;
  return 'tcg';
}

/** Whether a guest's memory finds room where User-Mode Linux keeps it. In MiB. */
function hasRoom(memory = 512): boolean {
  try {
    const { bavail, bsize } = statfsSync(UML_MEMORY_FOLDER);
    return bavail * bsize >= memory * 2 ** 20;
  } catch {
    return false;
  }
}

/** Whether User-Mode Linux is there and has booted: some hosts forbid its use of ptrace(2). */
async function umlBoots(): Promise<boolean> {
  let image: string;
  try {
    ({ image } = findUml());
  } catch {
    return false;
  }
  return remembered('uml', async () => {
    const words = ['mem=64M', 'con=null', 'con0=null,fd:1', 'ssl=null', 'root=/dev/ram0', 'panic=-1'];
    const env = { ...process.env, TMPDIR: UML_MEMORY_FOLDER };
    const child = spawn(image, words, { stdio: ['ignore', 'pipe', 'ignore'], detached: true, env });
    // It ends by itself where it does not work, so that only a busy host takes long.
    return (await panics(child, UML_TIMEOUT_MS)) || undefined;
  });
}

async function testKvm(qemu: string, kernel: string): Promise<boolean> {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return false;
  }
  return remembered('kvm', () => boots(qemu, kernel, 'q35'));
}

/** The result of a test, which is kept in a file until the host reboots, unless it is undefined. */
async function remembered(name: string, test: () => Promise<boolean | undefined>): Promise<boolean> {
  const file = verdictFile(name);
  try {
    const known = readFileSync(file, 'utf8');
    if (known === 'yes' || known === 'no') return known === 'yes';
  } catch {
    // There is no result yet.
  }
  const result = await test();
  if (result === undefined) return false;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, result ? 'yes' : 'no');
  } catch {
    // The home directory cannot be written: the next process tests again.
  }
  return result;
}

/**
 * The file that keeps a result. Its name has the boot id, since a reboot may change the result.
 */
function verdictFile(name: string): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return join(cache, 'virtiofs-kit', `${name}-${boot}`);
}

/** Boots the kernel without a root file system. */
function boots(qemu: string, kernel: string, type: MachineType): Promise<boolean> {
  const machine = machineArguments(type, 'kvm', 256).concat('-cpu', 'max', '-no-reboot', '-serial', 'stdio');
  const boot = ['-kernel', kernel, '-append', 'console=ttyS0 panic=-1'];
  const args = ['-nodefaults', '-no-user-config', '-display', 'none', ...machine, ...boot];
  return panics(spawn(qemu, args, { stdio: ['ignore', 'pipe', 'ignore'], detached: true }), KVM_TIMEOUT_MS);
}

/** Whether a kernel without a root file system panics: it does if everything before worked. */
function panics(child: ChildProcess, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    let console = '';
    const end = (result: boolean): void => {
      clearTimeout(timer);
      // A process that hangs in KVM may not react to signals, so nobody waits for it.
      if (child.pid !== undefined) killGroup(child.pid);
      child.unref();
      child.stdout?.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    child.once('error', () => end(false)).once('exit', () => end(false));
    child.stdout?.setEncoding('latin1').on('data', (text: string) => {
      console += text;
      if (console.includes('Kernel panic')) end(true);
    });
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}
