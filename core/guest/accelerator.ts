import { spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** How QEMU runs the guest's instructions: on the processor, or translated. */
export type Accelerator = 'kvm' | 'tcg';

/** A probe that takes longer than this, in milliseconds, has hung. */
const PROBE_TIME = 8000;

let verdict: Promise<Accelerator> | undefined;

/**
 * KVM where it works, else TCG. KVM counts as working if `kernel` has booted with it: a device that
 * is there, opens, and even runs a few instructions, may still hang. The verdict is kept until the
 * host reboots.
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
    // Not known yet.
  }
  const accelerator = (await boots(qemu, kernel)) ? 'kvm' : 'tcg';
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, accelerator);
  } catch {
    // A home that can't be written: the next process asks again.
  }
  return accelerator;
}

/** Named by the boot, since a reboot may change the answer. */
function verdictFile(): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return join(cache, 'virtiofs-kit', `accelerator-${boot}`);
}

/** Boots the kernel with no root file system, which ends in a panic once everything else works. */
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
      // A hanging one may be beyond the reach of signals: nobody waits for it.
      child.kill('SIGKILL');
      child.unref();
      child.stdout.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => end(false), PROBE_TIME);
    child.once('error', () => end(false)).once('exit', () => end(false));
    child.stdout.setEncoding('latin1').on('data', (text: string) => {
      console += text;
      if (console.includes('Kernel panic')) end(true);
    });
  });
}
