/**
 * How the guest runs. By QEMU: `kvm` on the processor, `tcg` by translating its instructions. Or
 * `uml`: as User-Mode Linux, a program of this host.
 */
export type Accelerator = 'kvm' | 'tcg' | 'uml';

/**
 * What QEMU emulates: a PC with PCI Express, or a machine without buses, whose devices are at fixed
 * addresses (virtio-mmio), and which starts sooner.
 */
export type MachineType = 'q35' | 'microvm';

/** Most shares of a microvm: it has 24 places for devices, one of which the ports have. */
export const MICROVM_SHARES = 23;

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
  readonly type: MachineType;
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
 * QEMU's arguments for a machine without devices.
 * @param memory in MiB. vhost-user devices have it in common with their servers.
 */
export function machineArguments(type: MachineType, accelerator: string, memory: number): string[] {
  const args = ['-m', `${memory}M`, '-object', `memory-backend-memfd,id=mem,size=${memory}M,share=on`];
  const common = `accel=${accelerator},memory-backend=mem`;
  if (type === 'q35') return [...args, '-M', `q35,${common}`];
  // With ACPI it has more than eight places for devices; its clock tells the time of day.
  const microvm = `microvm,acpi=on,rtc=on,${common}`;
  return [...args, '-M', microvm, '-global', 'virtio-mmio.force-legacy=false'];
}

/**
 * QEMU's arguments. The machine has only its shares, its ports, and a serial line for kernel
 * messages.
 */
export function qemuArguments(machine: Machine): string[] {
  const { folder, memory } = machine;
  const devices = machine.type === 'q35' ? 'pci' : 'device';
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
  args.push(...machineArguments(machine.type, machine.accelerator, memory));
  args.push('-cpu', 'max', '-smp', `${machine.cpus}`);
  args.push('-kernel', machine.kernel, '-initrd', machine.initramfs);
  args.push('-append', [...kernelLine, machine.append].join(' ').trim());
  args.push('-device', `virtio-serial-${devices}`);
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
      `vhost-user-fs-${devices},chardev=share${index},tag=${comma(share.tag)},num-request-queues=${queues}`,
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
