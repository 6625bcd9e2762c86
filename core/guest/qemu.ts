/**
 * How the guest runs. By QEMU: `kvm` on the processor, `tcg` by translating its instructions. Or
 * `uml`: as User-Mode Linux, a program of this host.
 */
export type Accelerator = 'kvm' | 'tcg' | 'uml';

/** The virtio-serial ports. Each has a socket `NAME.sock` in the guest's folder. */
export const PORTS = ['control', 'alive', 'stdin', 'stdout', 'stderr'] as const;
export type PortName = (typeof PORTS)[number] | 'console';

/** A virtio-fs share of a guest, served over a vhost-user socket. */
export interface GuestShare {
  /** At most 36 bytes (virtio 1.2, section 5.11.4). */
  readonly tag: string;
  /** The vhost-user socket of the daemon that serves it. */
  readonly socket: string;
  /** Where the guest mounts it: an absolute path. */
  readonly mountPoint: string;
  /** Whether the guest mounts it read-only. Default: false. */
  readonly readOnly?: boolean;
  /** Request queues that the server offers. Default 1. */
  readonly requestQueues?: number;
  /**
   * Whether another daemon than this project's serves it. User-Mode Linux then needs a go-between.
   * Default: false.
   */
  readonly isForeign?: boolean;
}

/** A machine to start. */
export interface Machine {
  readonly accelerator: Accelerator;
  /** In MiB. */
  readonly memory: number;
  readonly cpus: number;
  readonly kernel: string;
  readonly initramfs: string;
  /** Appended to the kernel's command line. */
  readonly append: string;
  readonly shares: readonly GuestShare[];
  /** Further arguments for QEMU. */
  readonly qemuArguments: readonly string[];
  /** The folder of the ports' sockets, on which the host listens. */
  readonly folder: string;
}

/**
 * QEMU's arguments. The machine has only its shares, its ports, and a serial line for kernel
 * messages.
 */
export function qemuArguments(machine: Machine): string[] {
  const { folder, memory } = machine;
  const kernelLine = [
    'console=ttyS0',
    'quiet',
    'loglevel=4',
    'panic=-1',
    '8250.nr_uarts=1',
    // Linux counts ticks while it spins, and panics where a busy host holds the emulator up.
    'no_timer_check',
    'random.trust_cpu=on',
  ];
  const args = ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'];
  args.push(
    '-M',
    `q35,accel=${machine.accelerator}`,
    '-cpu',
    'max',
    '-smp',
    `${machine.cpus}`,
    '-m',
    `${memory}M`,
  );
  args.push('-object', `memory-backend-memfd,id=mem,size=${memory}M,share=on`, '-numa', 'node,memdev=mem');
  args.push('-kernel', machine.kernel, '-initrd', machine.initramfs);
  args.push('-append', [...kernelLine, machine.append].join(' ').trim());
  args.push('-device', 'virtio-serial-pci');
  args.push(
    '-chardev',
    socket('console', `${folder}/console.sock`),
    '-device',
    'virtconsole,chardev=console',
  );
  for (const port of PORTS) {
    args.push('-chardev', socket(port, `${folder}/${port}.sock`));
    args.push('-device', `virtserialport,chardev=${port},name=${port}`);
  }
  for (const [index, share] of machine.shares.entries()) {
    const queues = share.requestQueues ?? 1;
    args.push('-chardev', socket(`share${index}`, share.socket));
    args.push(
      '-device',
      `vhost-user-fs-pci,chardev=share${index},tag=${comma(share.tag)},num-request-queues=${queues}`,
    );
  }
  return [...args, ...machine.qemuArguments];
}

function socket(id: string, path: string): string {
  return `socket,id=${id},path=${comma(path)}`;
}

/** Doubles the commas of a value: in QEMU's options a single comma ends the value. */
function comma(text: string): string {
  return text.replaceAll(',', ',,');
}
