import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { landlockVersion } from '../../system/confinement/landlock.js';
import type { Finding } from './finding.js';

/** What a device, program or file is to this user. */
export type Reach = 'usable' | 'refused' | 'absent';

/** What there is to know of a host before anything is served. */
export interface HostFacts {
  /** `6.18.44`. */
  readonly kernel: string;
  readonly isRoot: boolean;
  readonly kvm: Reach;
  readonly fuse: Reach;
  readonly fusermount: Reach;
  /** Landlock's version, or minus an errno. */
  readonly landlock: number;
  /** What seccomp filters may do with a call; empty where there are none. */
  readonly seccompActions: readonly string[];
  /** Bits of the capabilities in effect. */
  readonly capabilities: bigint;
  /** Open files that the process may have: now, and at most. */
  readonly openFiles: { readonly soft: number; readonly hard: number };
  /** Bytes that it may lock in memory. */
  readonly lockedBytes: number;
  readonly userNamespaces: number;
  /** Bytes of `/dev/shm`; undefined where there is none. */
  readonly sharedMemory: { readonly bytes: number; readonly freeBytes: number } | undefined;
}

/** Reads what there is to know of this host, for this process. Never throws. */
export function hostFacts(): HostFacts {
  const limits = contentOf('/proc/self/limits');
  const [soft, hard] = limitOf(limits, 'Max open files');
  const [locked] = limitOf(limits, 'Max locked memory');
  return {
    kernel: release(),
    isRoot: process.geteuid?.() === 0,
    kvm: reach('/dev/kvm', constants.R_OK | constants.W_OK),
    fuse: reach('/dev/fuse', constants.R_OK | constants.W_OK),
    fusermount: program('fusermount3'),
    landlock: landlockVersion(),
    seccompActions: contentOf('/proc/sys/kernel/seccomp/actions_avail').trim().split(' ').filter(Boolean),
    capabilities: BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(contentOf('/proc/self/status'))?.[1] ?? '0'}`),
    openFiles: { soft, hard },
    lockedBytes: locked,
    userNamespaces: Number(contentOf('/proc/sys/user/max_user_namespaces')),
    sharedMemory: sizeOf('/dev/shm'),
  };
}

function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function limitOf(limits: string, name: string): [soft: number, hard: number] {
  const [, soft, hard] = new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(limits) ?? [];
  return [limit(soft), limit(hard)];
}

function limit(word = '0'): number {
  return word === 'unlimited' ? Infinity : Number(word);
}

function reach(path: string, mode: number): Reach {
  if (!existsSync(path)) return 'absent';
  try {
    accessSync(path, mode);
    return 'usable';
  } catch {
    return 'refused';
  }
}

function program(name: string): Reach {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  return folders.some((folder) => reach(join(folder, name), constants.X_OK) === 'usable')
    ? 'usable'
    : 'absent';
}

function sizeOf(path: string): HostFacts['sharedMemory'] {
  try {
    const { bsize, blocks, bavail } = statfsSync(path);
    return { bytes: bsize * blocks, freeBytes: bsize * bavail };
  } catch {
    return undefined;
  }
}

const MIB = 2 ** 20;
/** Below this, a guest of usual size has no room in /dev/shm. */
const LEAST_SHARED_BYTES = 512 * MIB;
/** Below this, passthrough without file handles soon has no descriptor left. */
const LEAST_OPEN_FILES = 65_536;

/** Capabilities that passthrough uses, by their numbers, and what is missing without each. */
const CAPABILITIES: readonly (readonly [number: number, name: string, without: string])[] = [
  [0, 'CAP_CHOWN', 'guests cannot change owners of files'],
  [1, 'CAP_DAC_OVERRIDE', 'files of other users are out of reach'],
  [2, 'CAP_DAC_READ_SEARCH', 'files are kept open by a descriptor each, not by file handles'],
  [6, 'CAP_SETGID', 'new files belong to the group of the daemon'],
  [7, 'CAP_SETUID', 'new files belong to the user of the daemon'],
];
const SYS_ADMIN = 21;

/** How to do without a layer of the confinement. */
const leave = (layer: string): string =>
  `Without it, start with --missing-layers warn, or leave ${layer} out of --confine.`;

/** What is wrong with a host, or good to know. */
export function judgeHost(facts: HostFacts): Finding[] {
  return [
    kernelFinding(facts),
    kvmFinding(facts),
    ...memoryFindings(facts),
    ...limitFindings(facts),
    ...confinementFindings(facts),
    ...privilegeFindings(facts),
    ...mountFindings(facts),
  ];
}

function kernelFinding({ kernel }: HostFacts): Finding {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  const is = (least: readonly [number, number]): boolean =>
    major > least[0] || (major === least[0] && minor >= least[1]);
  const about = 'kernel';
  if (!is([5, 10])) {
    return {
      level: 'warning',
      about,
      text: `Linux ${kernel} is older than what this is tried with (5.10)`,
      advice: 'Update the host, or look closely at what the log says at the start.',
    };
  }
  return { level: 'ok', about, text: `Linux ${kernel}` };
}

function kvmFinding({ kvm }: HostFacts): Finding {
  const about = '/dev/kvm';
  switch (kvm) {
    case 'usable':
      return { level: 'ok', about, text: 'can be opened' };
    case 'absent':
      return {
        level: 'warning',
        about,
        text: 'there is none, so guests are emulated, many times slower',
        advice: 'Load kvm_intel or kvm_amd; in a virtual machine or container, have the host pass it on.',
      };
    case 'refused':
      return {
        level: 'warning',
        about,
        text: 'this user may not open it, so guests that he starts are emulated, many times slower',
        advice: 'Add the user to the group that owns it: usermod -aG kvm USER.',
      };
  }
}

function memoryFindings({ sharedMemory }: HostFacts): Finding[] {
  const about = '/dev/shm';
  if (sharedMemory === undefined) {
    const text = 'there is none; QEMU can share memory by memory-backend-memfd all the same';
    return [{ level: 'note', about, text }];
  }
  const { bytes, freeBytes } = sharedMemory;
  if (freeBytes >= LEAST_SHARED_BYTES) return [{ level: 'ok', about, text: `${mebibytes(freeBytes)} free` }];
  return [
    {
      level: 'warning',
      about,
      text: `only ${mebibytes(freeBytes)} of ${mebibytes(bytes)} are free: a guest whose memory is a file there ends by SIGBUS`,
      advice:
        'Use memory-backend-memfd, or make it larger: mount -o remount,size=8g /dev/shm (--shm-size of a container).',
    },
  ];
}

function limitFindings({ openFiles: { soft, hard }, lockedBytes }: HostFacts): Finding[] {
  const about = 'limits';
  const files: Finding =
    hard < LEAST_OPEN_FILES
      ? {
          level: 'note',
          about,
          text: `a process may open ${hard} files at most`,
          advice: 'Raise it for many open files in guests: LimitNOFILE= of the unit, or ulimit -Hn.',
        }
      : { level: 'ok', about, text: `${soft} open files, ${hard} at most (the daemon raises it itself)` };
  const locked: Finding = {
    level: 'ok',
    about,
    text: `${lockedBytes === Infinity ? 'any amount of' : mebibytes(lockedBytes)} locked memory (QEMU needs it for VFIO; the daemon locks none)`,
  };
  return [files, locked];
}

function confinementFindings({ landlock, seccompActions, userNamespaces }: HostFacts): Finding[] {
  return [
    landlock > 0
      ? { level: 'ok', about: 'Landlock', text: `version ${landlock}` }
      : {
          level: 'problem',
          about: 'Landlock',
          text: 'this kernel has none, or has it switched off: a daemon with its default confinement does not start',
          advice: `Boot with lsm=landlock,… (Linux 5.13 and later). ${leave('landlock')}`,
        },
    seccompActions.includes('errno')
      ? { level: 'ok', about: 'seccomp', text: `filters can ${seccompActions.join(', ')}` }
      : {
          level: 'problem',
          about: 'seccomp',
          text: 'system calls cannot be filtered: a daemon with its default confinement does not start',
          advice: leave('seccomp'),
        },
    userNamespaces > 0
      ? { level: 'ok', about: 'user namespaces', text: 'can be made (this daemon needs none)' }
      : { level: 'ok', about: 'user namespaces', text: 'cannot be made; this daemon needs none' },
  ];
}

function privilegeFindings({ capabilities, isRoot }: HostFacts): Finding[] {
  const about = 'capabilities';
  const has = (number: number): boolean => ((capabilities >> BigInt(number)) & 1n) === 1n;
  const missing = CAPABILITIES.filter(([number]) => !has(number));
  const text = missing.map(([, name, without]) => `without ${name} ${without}`).join('; ');
  const findings: Finding[] =
    missing.length === 0
      ? [{ level: 'ok', about, text: 'all that passthrough uses' }]
      : [
          {
            level: isRoot ? 'warning' : 'note',
            about,
            text,
            advice: isRoot
              ? 'Something has taken them away: CapabilityBoundingSet= of the unit, or the container.'
              : 'That is as it must be for a user who is not root. memfs and S3 need none.',
          },
        ];
  if (isRoot && !has(SYS_ADMIN)) {
    findings.push({
      level: 'problem',
      about,
      text: 'root without CAP_SYS_ADMIN cannot have a mount namespace of its own: a daemon with its default confinement does not start',
      advice: 'Give it CAP_SYS_ADMIN, or start with --missing-layers warn.',
    });
  }
  return findings;
}

function mountFindings({ fuse, fusermount, isRoot }: HostFacts): Finding[] {
  const about = '/dev/fuse';
  if (fuse === 'absent') {
    const text = 'there is none: virtiofs-kit mount does not work; guests do';
    return [{ level: 'note', about, text, advice: 'modprobe fuse' }];
  }
  if (isRoot || fusermount === 'usable') return [{ level: 'ok', about, text: 'host mounts work' }];
  const text = 'only root can mount on this host';
  return [{ level: 'note', about, text, advice: 'For other users: apt-get install fuse3.' }];
}

function mebibytes(bytes: number): string {
  return bytes >= 1024 * MIB
    ? `${Math.round(bytes / MIB / 102.4) / 10} GiB`
    : `${Math.round(bytes / MIB)} MiB`;
}
