import { spawn, type ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { PassThrough, Readable, type Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { ReadStream, WriteStream } from 'node:tty';
import { nameBytes, UsageError } from '../backend/index.js';
import { chooseAccelerator, chooseMachine } from './choose-accelerator.js';
import { packInitramfs, quote } from './initramfs.js';
import { findKernel, type Kernel, readModules } from './kernel.js';
import { Ports, passUntil } from './ports.js';
import { packPrograms } from './host-programs.js';
import { findQemu, readBusybox } from './programs.js';
import { UmlRelay } from './relay.js';
import { TemporaryFolder } from './temporary-folder.js';
import {
  type Accelerator,
  type GuestShare,
  type MachineType,
  MICROVM_SHARES,
  qemuArguments,
} from './qemu.js';
import { findUml, inParts, LINES, UML_PORTS, umlArguments, umlEnvironment, whyNotUml } from './uml.js';

/** A guest to boot. */
export interface GuestOptions {
  /** What the guest mounts. */
  readonly shares: readonly GuestShare[];
  /**
   * Tag of a share that has a Linux system. It becomes the root of commands, below a layer in
   * memory that takes what they write.
   */
  readonly rootTag?: string | undefined;
  /**
   * Whether commands write to the root's share itself instead of a layer in memory. Default: false.
   */
  readonly rootIsWritten?: boolean | undefined;
  /** In MiB. Default: 512. */
  readonly memory?: number | undefined;
  /** Default 1. */
  readonly cpus?: number | undefined;
  /** Default: KVM if it works, else TCG. */
  readonly accelerator?: Accelerator | undefined;
  /** What QEMU emulates. Default: `microvm` with KVM where that boots, else `q35`. */
  readonly machine?: MachineType | undefined;
  /**
   * Kernel image. Default: the newest with virtio-fs in `.cache/guest` of the package or in
   * `/boot`.
   */
  readonly kernel?: string | undefined;
  /** QEMU's program. Default `qemu-system-x86_64` from PATH. */
  readonly qemu?: string | undefined;
  /** Appended to the kernel's command line. */
  readonly append?: string | undefined;
  /**
   * Programs of this host that commands have beside busybox, by name or path. They are copied into
   * the guest's memory with the shared libraries that they name.
   */
  readonly programs?: readonly string[] | undefined;
  /** Further arguments for QEMU. */
  readonly qemuArguments?: readonly string[] | undefined;
  /** Seconds that booting may take. Default 180. */
  readonly bootTimeoutSeconds?: number | undefined;
  /** Where the output of kernel and init goes. Default: nowhere. */
  readonly console?: Writable | undefined;
  /** Ends the guest when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Where a command's input comes from and where its output goes. */
export interface RunOptions {
  /** Input. Only one command of a guest can have it. Default: empty. */
  readonly stdin?: Readable | undefined;
  /** Default: dropped. */
  readonly stdout?: Writable | undefined;
  /** Default: dropped. */
  readonly stderr?: Writable | undefined;
  /**
   * Where the command starts. Default: the mount point of the first share that is not the root.
   */
  readonly folder?: string | undefined;
}

/** Options of {@link Guest.exec}. */
export interface ExecOptions {
  /** Input. Only one command of a guest can have it. Default: empty. */
  readonly input?: string | undefined;
  /** As in {@link RunOptions}. */
  readonly folder?: string | undefined;
}

/**
 * Most bytes of a script that the guest is sent at a time. A serial line of User-Mode Linux keeps
 * 4,096 bytes for its reader, and these grow by a third in base64.
 */
const SCRIPT_PIECE_BYTES = { qemu: 64 * 1024, uml: 2800 } as const;

/** The result of a command. */
export interface RunResult {
  /** The exit code, as a shell gives it: 128 and the signal's number for one that was killed. */
  readonly code: number;
  /** All of its standard output. */
  readonly stdout: string;
  /** All of its standard error. */
  readonly stderr: string;
}

/** The guest has ended, or has failed to set up. The text has the end of its console's output. */
export class GuestError extends Error {
  override readonly name = 'GuestError';
}

/** Guests that are ended when this process ends. */
const running = new Set<{ kill(): void }>();
process.once('exit', () => {
  for (const guest of running) guest.kill();
});

/** How long a guest may take to unmount and switch itself off. */
const SHUTDOWN_TIMEOUT_MS = 10_000;

/** The most characters of the console's output in an error. */
const EPITAPH = 2000;

/**
 * A throw-away Linux guest with virtio-fs shares mounted. It runs commands one after the other, and
 * has no disk and no network. It ends with this process, even if this process is killed.
 */
export class Guest implements AsyncDisposable {
  readonly #qemu: ChildProcess;
  readonly #ports: Ports;
  readonly #options: GuestOptions;
  readonly #ended: Promise<unknown>;
  #lines: AsyncIterator<string> | undefined;
  /** Resolves when no program runs, or is to run. */
  #programs: Promise<unknown> = Promise.resolve();
  #console = '';

  private constructor(qemu: ChildProcess, ports: Ports, options: GuestOptions) {
    this.#qemu = qemu;
    this.#ports = ports;
    this.#options = options;
    this.#ended = new Promise((resolve) => {
      qemu
        .once('error', (error) => this.#note(error.message))
        .once('error', resolve)
        .once('close', resolve);
    });
    for (const stream of [qemu.stdout, qemu.stderr]) {
      stream?.setEncoding('latin1').on('data', (part: string) => this.#note(part));
    }
    const kill = (): void => this.kill();
    running.add(this);
    options.signal?.addEventListener('abort', kill, { once: true });
    void this.#ended.then(() => {
      running.delete(this);
      options.signal?.removeEventListener('abort', kill);
      ports.close();
    });
  }

  /**
   * Boots a guest and mounts its shares.
   * @throws UsageError if QEMU, busybox or a kernel is missing.
   * @throws GuestError if the guest cannot mount a share, or ends.
   */
  static async boot(options: GuestOptions): Promise<Guest> {
    if (options.accelerator === 'uml') return Guest.#bootUml(options);
    const qemu = findQemu(options.qemu);
    const kernel = findKernel(options.kernel);
    const initramfs = packInitramfs(
      readBusybox(),
      readModules(kernel),
      options.shares,
      options.rootTag,
      options.rootIsWritten ?? false,
      { programs: packPrograms(options.programs ?? []) },
    );
    const accelerator = options.accelerator ?? (await chooseAccelerator(qemu, kernel.image));
    const type = await machineFor(options, qemu, kernel, accelerator);
    options.signal?.throwIfAborted();
    const temporary = new TemporaryFolder();
    const folder = temporary.path;
    try {
      await writeFile(join(folder, 'initramfs'), initramfs);
      const ports = await Ports.listen(folder);
      const args = qemuArguments({
        type,
        accelerator,
        memory: options.memory ?? 512,
        cpus: options.cpus ?? 1,
        kernel: kernel.image,
        initramfs: join(folder, 'initramfs'),
        append: options.append ?? '',
        shares: options.shares,
        qemuArguments: options.qemuArguments ?? [],
        folder,
      });
      const guest = new Guest(start(qemu, args), ports, options);
      await guest.#booted();
      return guest;
    } finally {
      // By now QEMU has read its files and connected to the sockets, or it never will.
      temporary[Symbol.dispose]();
    }
  }

  static async #bootUml(options: GuestOptions): Promise<Guest> {
    const lacking = whyNotUml(options);
    if (lacking !== undefined) throw new UsageError(lacking);
    const kernel = findUml();
    const { shares, rootTag, rootIsWritten = false, memory = 512, append = '' } = options;
    const missing = shares.find(({ socket }) => !existsSync(socket));
    if (missing !== undefined) throw new GuestError(`${missing.socket}: no such socket`);
    const modules = readModules(kernel);
    const initramfs = packInitramfs(readBusybox(), modules, shares, rootTag, rootIsWritten, {
      transport: UML_PORTS,
      programs: packPrograms(options.programs ?? []),
    });
    const temporary = new TemporaryFolder();
    const folder = temporary.path;
    const relays: UmlRelay[] = [];
    let guest: Guest | undefined;
    try {
      const file = join(folder, 'initramfs');
      await writeFile(file, initramfs);
      options.signal?.throwIfAborted();
      const passed = shares.map((share, index) => {
        if (share.isForeign !== true) return share;
        const socket = join(folder, `relay${index}`);
        relays.push(new UmlRelay(socket, share.socket, share.tag));
        return { ...share, socket };
      });
      const args = umlArguments({ memory, append, shares: passed, folder, initramfs: file });
      const child = startUml(kernel.image, args);
      const ports = Ports.of(LINES, child.stdio.slice(3) as Socket[]);
      guest = new Guest(child, ports, options);
      await guest.#booted();
      return guest;
    } finally {
      const close = (): void => relays.forEach((relay) => relay[Symbol.dispose]());
      if (guest === undefined) close();
      else void guest.#ended.then(close);
      temporary[Symbol.dispose]();
    }
  }

  async #booted(): Promise<void> {
    const seconds = this.#options.bootTimeoutSeconds ?? 180;
    const timer = setTimeout(() => {
      this.#note(`\nnot up after ${seconds} seconds`);
      this.kill();
    }, seconds * 1000);
    try {
      const connected = await Promise.race([
        this.#ports.connected.then(() => true),
        this.#ended.then(() => false),
      ]);
      if (!connected) throw this.#error('QEMU did not start');
      const lines = createInterface({ input: this.#ports.get('control') });
      // If QEMU has ended, the socket is destroyed, which readline does not notice by itself.
      void this.#ended.then(() => lines.close());
      this.#lines = lines[Symbol.asyncIterator]();
      const answer = await this.#answer();
      if (answer !== 'ready') throw this.#error(answer.replace(/^failed /, ''));
    } catch (error) {
      this.kill();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Runs a program with its arguments, or a shell script given as a string, both encoded as names
   * are, so that every byte can be told (`decodeName`). Processes that it has
   * started end with it. The guest has one place for a program: another waits until this one has
   * ended.
   * @returns its exit code; if a signal has ended it, 128 plus the signal's number.
   * @throws GuestError if the guest ends.
   */
  run(command: string | readonly string[], options: RunOptions = {}): Promise<number> {
    return this.#inTurn(() => this.#run(command, options));
  }

  async #run(command: string | readonly string[], options: RunOptions): Promise<number> {
    const token = randomBytes(16).toString('hex');
    const output = [
      passUntil(this.#ports.get('stdout'), token, options.stdout ?? drop()),
      passUntil(this.#ports.get('stderr'), token, options.stderr ?? drop()),
    ];
    if (options.stdin !== undefined) {
      const port = this.#ports.get('stdin');
      if (this.#isUml) options.stdin.pipe(inParts()).pipe(port, { end: false });
      else options.stdin.pipe(port);
    }
    const input = options.stdin === undefined ? 'null' : 'port';
    await this.#sendScript(script(command), options.folder);
    this.#send(`run ${token} ${input}`);
    const [code] = await Promise.all([this.#exitCode(), ...output]);
    return code;
  }

  /** Runs a command as {@link run}, and collects its output as UTF-8. */
  async exec(command: string | readonly string[], options: ExecOptions = {}): Promise<RunResult> {
    const stdout = new PassThrough();
    const stderr = new PassThrough();
    const stdin = options.input === undefined ? undefined : Readable.from([options.input]);
    const collected = Promise.all([text(stdout), text(stderr)]);
    const code = await this.run(command, { stdin, stdout, stderr, folder: options.folder }).finally(() => {
      stdout.end();
      stderr.end();
    });
    const [out, err] = await collected;
    return { code, stdout: out, stderr: err };
  }

  /**
   * Runs an interactive shell, or another command, on a terminal.
   * @returns its exit code.
   */
  shell(
    terminal: { input: ReadStream; output: WriteStream },
    command: string | readonly string[] = 'exec sh -i',
  ): Promise<number> {
    return this.#inTurn(() => this.#shell(terminal, command));
  }

  async #shell(
    { input, output }: { input: ReadStream; output: WriteStream },
    command: string | readonly string[],
  ): Promise<number> {
    const token = randomBytes(16).toString('hex');
    const port = this.#ports.get('console');
    const term = `export TERM=${quote(process.env['TERM'] ?? 'vt100')}`;
    // A terminal without a known size reports 0 rows.
    const size = output.rows > 0 ? `stty rows ${output.rows} cols ${output.columns}; ` : '';
    const passed = passUntil(port, token, output);
    input.setRawMode(true);
    input.pipe(port, { end: false });
    try {
      await this.#sendScript(`${size}${term}; ${script(command)}`, undefined);
      this.#send(`shell ${token}`);
      const [code] = await Promise.all([this.#exitCode(), passed]);
      return code;
    } finally {
      input.unpipe(port);
      input.setRawMode(false);
      input.pause();
    }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#programs.then(task);
    this.#programs = result.catch(() => undefined);
    return result;
  }

  /** Unmounts the shares and switches the guest off. */
  async shutdown(): Promise<void> {
    const timer = setTimeout(() => this.kill(), SHUTDOWN_TIMEOUT_MS);
    if (this.#lines !== undefined && !this.#ports.get('control').destroyed) this.#send('shutdown');
    await this.#ended;
    clearTimeout(timer);
  }

  /** Ends the guest at once, as a power failure would. */
  kill(): void {
    const { pid } = this.#qemu;
    if (!this.#isUml || pid === undefined) this.#qemu.kill('SIGKILL');
    // User-Mode Linux is several processes, a group of their own, until the first has ended.
    else if (this.#qemu.exitCode === null && this.#qemu.signalCode === null) process.kill(-pid, 'SIGKILL');
  }

  /** Resolves when the guest has ended, for whatever reason. */
  async ended(): Promise<void> {
    await this.#ended;
  }

  /** Shuts the guest down, at the end of an `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  get #isUml(): boolean {
    return this.#options.accelerator === 'uml';
  }

  /** Hands the guest the script of its next command. */
  async #sendScript(commands: string, folder: string | undefined): Promise<void> {
    const { shares, rootTag } = this.#options;
    const at = folder ?? shares.find(({ tag }) => tag !== rootTag)?.mountPoint ?? '/';
    const bytes = Buffer.from(nameBytes(`cd ${quote(at)} || exit 126; ${commands}`));
    const most = this.#isUml ? SCRIPT_PIECE_BYTES.uml : SCRIPT_PIECE_BYTES.qemu;
    for (let from = 0; from < bytes.length; from += most) {
      const piece = bytes.subarray(from, from + most).toString('base64');
      this.#ports.get('control').write(`script ${piece.length}\n${piece}`);
      const answer = await this.#answer();
      if (answer !== 'taken') throw this.#error(answer);
    }
  }

  #send(line: string): void {
    this.#ports.get('control').write(`${line}\n`);
  }

  async #answer(): Promise<string> {
    // A failing port is treated as one that has ended.
    const step = await this.#lines?.next().catch(() => undefined);
    if (step?.done === false) return step.value;
    await this.#ended;
    this.#options.signal?.throwIfAborted();
    throw this.#error('the guest ended unexpectedly');
  }

  async #exitCode(): Promise<number> {
    const answer = await this.#answer();
    const code = /^exit (\d+)$/.exec(answer)?.[1];
    if (code === undefined) throw this.#error(answer);
    return Number(code);
  }

  #note(part: string): void {
    this.#options.console?.write(part);
    this.#console = (this.#console + part).slice(-EPITAPH);
  }

  #error(what: string): GuestError {
    const tail = this.#console.replaceAll('\r', '').trim();
    return new GuestError(tail === '' ? what : `${what}. Its console said:\n${tail}`);
  }
}

/** @throws UsageError for a microvm that has no place for the shares. */
async function machineFor(
  { machine, shares, qemuArguments: more = [] }: GuestOptions,
  qemu: string,
  kernel: Kernel,
  accelerator: 'kvm' | 'tcg',
): Promise<MachineType> {
  const hasPlace = shares.length <= MICROVM_SHARES;
  if (machine === 'microvm' && !hasPlace)
    throw new UsageError(`a microvm has at most ${MICROVM_SHARES} shares, not ${shares.length}`);
  if (machine !== undefined) return machine;
  // What is given for QEMU may be for a PC.
  return hasPlace && more.length === 0 ? chooseMachine(qemu, kernel, accelerator) : 'q35';
}

/**
 * Starts QEMU in a session of its own, so that the terminal's signals do not reach it. It ends with
 * this process if `setpriv` is there to arrange that.
 */
function start(qemu: string, args: readonly string[]): ChildProcess {
  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));
  const line = setpriv === undefined ? [qemu, ...args] : [setpriv, '--pdeathsig', 'KILL', qemu, ...args];
  return spawn(line[0]!, line.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
}

/**
 * Starts User-Mode Linux in a session of its own. It is several processes, one of which no signal
 * of its parent's end reaches: a shell waits for that end and kills them all.
 */
function startUml(image: string, args: readonly string[]): ChildProcess {
  const env = { ...process.env, ...umlEnvironment(process.env) };
  const stdio = ['ignore', 'pipe', 'pipe', ...LINES.map(() => 'pipe' as const)] as const;
  const child = spawn(image, args, { stdio: [...stdio], detached: true, env });
  if (child.pid === undefined) return child;
  const guard = spawn('/bin/sh', ['-c', 'read -r end; kill -9 "-$0"', `${child.pid}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.on('error', () => {});
  guard.unref();
  child.once('exit', () => guard.kill('SIGKILL'));
  return child;
}

function script(command: string | readonly string[]): string {
  return typeof command === 'string' ? command : `exec ${command.map((word) => quote(word)).join(' ')}`;
}

function drop(): Writable {
  return new PassThrough().resume();
}
