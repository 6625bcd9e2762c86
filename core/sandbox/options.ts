import type { Writable } from 'node:stream';
import type { Logger } from '../backend/index.js';
import type { Accelerator, MachineType } from '../guest/index.js';
import type { BackendSource } from '../plugins/index.js';
import type { Base } from './base.js';
import type { NetworkOptions } from './network/proxy.js';

/** A directory of this host, or what a backend shows, to be seen in a sandbox. */
export interface SandboxMount {
  /**
   * Directory of this host; a backend; or a kind of backend with its options, such as
   * `{ type: 's3', bucket: 'cache' }`. A backend of yours is for one sandbox, not for its forks.
   */
  readonly source: string | BackendSource;
  /** Whether the sandbox can only read it. Default false. */
  readonly readOnly?: boolean | undefined;
}

/** What a sandbox is made of. One of `root`, `image`, `base` says what its files are at first. */
export interface SandboxOptions {
  /** Directory of this host with a Linux system. Default: `/`. */
  readonly root?: string | undefined;
  /**
   * Image of a container: a directory in the OCI layout or one that `docker save` filled, or an
   * archive of either, `PATH:TAG` where it has several; or `docker://[HOST/]NAME[:TAG][@DIGEST]`,
   * an image of a registry. Its environment, user and folder are the defaults of commands.
   */
  readonly image?: string | undefined;
  /** What {@link Sandbox.snapshot} has taken of another sandbox. */
  readonly base?: Base | undefined;
  /**
   * Directories of this host, and other backends, that are seen as they are, and written to: by
   * their paths in the sandbox.
   */
  readonly mounts?: Readonly<Record<string, string | SandboxMount>> | undefined;
  /** Paths that commands do not see, nor can make. Nobody can rename or remove what leads there. */
  readonly hide?: readonly string[] | undefined;
  /** Paths that commands see the names of, and nothing else: EACCES. */
  readonly deny?: readonly string[] | undefined;
  /** Paths at which commands see, and change, what is at another path of the sandbox. */
  readonly redirect?: Readonly<Record<string, string>> | undefined;
  /** Paths below which commands change nothing. */
  readonly readOnly?: readonly string[] | undefined;
  /** Whether the secrets of home directories in `root` are hidden. Default true. */
  readonly hideSecrets?: boolean | undefined;
  /** What commands may reach. Default: nothing. */
  readonly network?: NetworkOptions | undefined;
  /**
   * File to whose end a line of JSON is added for each reading and change of files by commands, and
   * for what they are refused. Forks have none, unless they are given one.
   */
  readonly audit?: string | undefined;
  /** Environment of commands, beside PATH, HOME and with a terminal TERM. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** User of commands: `NAME`, `UID`, `NAME:GROUP` or `UID:GID`. Default: root. */
  readonly user?: string | undefined;
  /** Where commands start. Default: `/`. */
  readonly cwd?: string | undefined;
  /** Memory of the guest in MiB. Default 512. */
  readonly memory?: number | undefined;
  /** Processors of the guest. Default 1. */
  readonly cpus?: number | undefined;
  /** Most bytes of what the sandbox writes. Default: 1 GiB. */
  readonly size?: number | undefined;
  /** Most files and directories that it changes or makes. Default: 1,000,000. */
  readonly files?: number | undefined;
  /** Seconds after which the sandbox is ended. Default: none. */
  readonly timeout?: number | undefined;
  /** Ends the sandbox when aborted. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Default: KVM where it works, else TCG. `uml` is User-Mode Linux, which starts in two seconds
   * without KVM: for your own code, not for code that you don't trust, since it is a process of
   * this host like any other.
   */
  readonly accelerator?: Accelerator | undefined;
  /**
   * What QEMU emulates; a microvm has at most 20 mounts, and starts sooner. Default: `microvm` with
   * KVM where that boots, else `q35`.
   */
  readonly machine?: MachineType | undefined;
  /** Kernel image. Default: the newest with virtio-fs. */
  readonly kernel?: string | undefined;
  /** QEMU's program. Default: `qemu-system-x86_64` from PATH. */
  readonly qemu?: string | undefined;
  /** More for the kernel's command line. */
  readonly append?: string | undefined;
  /** Where the output of kernel and init goes. Default: nowhere. */
  readonly console?: Writable | undefined;
  /** Default: errors, on standard error. */
  readonly log?: Logger | undefined;
}

/** How a command runs. */
export interface SpawnOptions {
  /** Its environment, beside the sandbox's. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** As the sandbox's. Default: that. */
  readonly user?: string | undefined;
  /** Default: the sandbox's. */
  readonly cwd?: string | undefined;
  /** Kills the command when aborted. */
  readonly signal?: AbortSignal | undefined;
}
