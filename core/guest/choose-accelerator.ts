import { spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** How QEMU runs the guest: `kvm` on the processor, `tcg` by translating its instructions. */
export type Accelerator = 'kvm' | 'tcg' | 'uml';

/** A probe that takes longer has hung. */
const PROBE_TIMEOUT_MS = 8000;

let verdict: Promise<Accelerator> | undefined;

/**
 * Chooses KVM if it works, else TCG. KVM counts as working only if `kernel` has booted with it:
 * some hosts have a device that opens and runs a few instructions, and then hangs. The result is
 * kept until the host reboots.
 */
export function chooseAccelerator(qemu: string, kernel: string): Promise<Accelerator> {
  verdict ??= decide(qemu, kernel);
  return verdict;
}

async function decide(qemu: string, kernel: string): Promise<Accelerator> {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  const file = verdictFile();
  try {
    const known = readFileSync(file, 'utf8');
    if (known === 'kvm' || known === 'tcg') return known;
  } catch {
    // There is no result yet.
  }
  const accelerator = (await boots(qemu, kernel)) ? 'kvm' : 'tcg';
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, accelerator);
  } catch {
    // The home directory cannot be written: the next process probes again.
  }
  return accelerator;
}

/**
 * The file that keeps the result. Its name has the boot id, since a reboot may change the result.
 */
function verdictFile(): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return join(cache, 'virtiofs-kit', `accelerator-${boot}`);
}

/** Boots the kernel without a root file system. It panics at the end if everything else works. */
function boots(qemu: string, kernel: string): Promise<boolean> {
  const machine = ['-M', 'q35,accel=kvm', '-cpu', 'max', '-m', '256M', '-no-reboot', '-serial', 'stdio'];
  const boot = ['-kernel', kernel, '-append', 'console=ttyS0 panic=-1'];
  const child = spawn(qemu, ['-nodefaults', '-no-user-config', '-display', 'none', ...machine, ...boot], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return new Promise((resolve) => {
    let console = '';
    const end = (result: boolean): void => {
      clearTimeout(timer);
      // A process that hangs in KVM may not react to signals, so nobody waits for it.
      child.kill('SIGKILL');
      child.unref();
      child.stdout.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => end(false), PROBE_TIMEOUT_MS);
    child.once('error', () => end(false)).once('exit', () => end(false));
    child.stdout.setEncoding('latin1').on('data', (text: string) => {
      console += text;
      if (console.includes('Kernel panic')) end(true);
    });
  });
}
