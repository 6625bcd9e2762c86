import { once } from 'node:events';
import { createWriteStream, statSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { availableParallelism } from 'node:os';
import { posix, resolve } from 'node:path';
import { PassThrough, Readable, type Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { finished } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ReadStream, WriteStream } from 'node:tty';
import { type Backend, type Logger, nameBytes, UsageError, wrap } from '../backend/index.js';
import { hostBuffer } from '../memory/index.js';
import { routed } from '../wrappers/index.js';
import { Guest, type GuestShare, TemporaryFolder } from '../guest/index.js';
import { BackendRegistry, createLogger, Daemon, type ServedExport } from '../plugins/index.js';
import { MemfsVolume } from '../../backends/memfs/index.js';
import { HostFiles, overlay, type OverlayBackend, writeLayer } from '../../backends/overlay/index.js';
import type { AccessLog } from '../trace/access-log.js';
import { agentScript, BUSYBOX, CONTROL, type Mount, OWN_FOLDERS, ROOT, type TerminalSize } from './agent.js';
import { openAudit } from './audit.js';
import { type Base, directoryBase, emptyFolder, imageBase, LAYERS, SandboxSnapshot } from './base.js';
import { SandboxCommand } from './command.js';
import { ControlShare, Folder, Source } from './control-share.js';
import { Differences, type SandboxChange, type SandboxDifference } from './differences.js';
import { commitImage } from './image/commit.js';
import { Image } from './image/image.js';
import { referenceOf, SCHEME } from './image/registry/reference.js';
import type { SandboxMount, SandboxOptions, SpawnOptions } from './options.js';
import { merge } from './merge.js';
import { LISTEN_LINE, NETWORK, NetworkProxy, PROXY_VARIABLES } from './network/proxy.js';
import { Messages } from './pipes.js';
import { writePatch } from './patch.js';
import { rulesOf } from './path-rules.js';
import { findUser } from './users.js';
import { type FileEvent, FileWatches } from './watch.js';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Most commands at a time. Each has a request or two parked in the ring of the control share. */
const MAX_COMMANDS = 48;

/** Characters of what the agent said last that are told when it fails. */
const MOST_SAID = 2000;

/** Where the guest mounts what is not the user's. */
const OWN_SHARES: ReadonlyMap<string, string> = new Map([
  ['root', ROOT],
  ['control', CONTROL],
  ['network', NETWORK],
]);

/** How long a sandbox that ends may take to write what is cached. */
const SYNC_TIMEOUT_MS = 5000;

/** Most sandboxes that {@link Sandbox.fork} starts at a time. */
const MOST_STARTS = Math.max(2, availableParallelism());

const DEFAULT_BYTES = 2 ** 30;
const DEFAULT_FILES = 1_000_000;

/** How a command's input and output go. */
export interface StreamOptions extends SpawnOptions {
  /** Its input. Default: none. */
  readonly stdin?: Readable | string | Uint8Array | undefined;
  /** Gives it a terminal of this size in the place of pipes. */
  readonly tty?: TerminalSize | undefined;
}

/** A terminal of this program. */
export interface Terminal {
  readonly input: ReadStream;
  readonly output: WriteStream;
}

/** The result of a command. */
export interface ExecResult {
  /** Its exit code, or 128 and the number of the signal that has ended it. */
  readonly exitCode: number;
  /** What it wrote, decoded as UTF-8. */
  readonly stdout: string;
  readonly stderr: string;
}

/** A throw-away machine whose files its owner reads, writes, snapshots and forks. */
export class Sandbox implements AsyncDisposable {
  /** Its files, which the host reads and writes without the guest's help. */
  readonly files: HostFiles;
  /** Resolves when it has ended, for whatever reason. */
  readonly ended: Promise<void>;
  #resolveEnded = (): void => {};
  readonly #options: SandboxOptions;
  readonly #base: Base;
  readonly #log: Logger;
  readonly #volume: MemfsVolume;
  readonly #overlay: OverlayBackend;
  readonly #closeLayers: () => void;
  readonly #differences: Differences;
  readonly #control = new ControlShare();
  readonly #messages = new Messages();
  readonly #watches = new FileWatches();
  readonly #commands = new Set<SandboxCommand>();
  readonly #ending = new AbortController();
  readonly #published: Server[] = [];
  #network: NetworkProxy | undefined;
  #daemon: Daemon | undefined;
  #audit: AccessLog | undefined;
  #guest: Guest | undefined;
  #temporary: TemporaryFolder | undefined;
  /** Settles when the agent has ended. */
  #agent: Promise<unknown> | undefined;
  #stopping: Promise<void> | undefined;
  #count = 0;
  #isMounted = false;

  private constructor(
    options: SandboxOptions,
    base: Base,
    log: Logger,
    volume: MemfsVolume,
    root: OverlayBackend,
    closeLayers: () => void,
  ) {
    this.ended = new Promise((end) => {
      this.#resolveEnded = end;
    });
    this.#options = options;
    this.#base = base;
    this.#log = log;
    this.#volume = volume;
    this.#overlay = root;
    this.#closeLayers = closeLayers;
    this.files = new HostFiles(root, (changes) => {
      this.#watches.tell(changes);
      // Before it runs, the guest has nothing to forget.
      return this.#agent === undefined ? Promise.resolve() : this.#messages.send('forget\n');
    });
    this.#differences = new Differences(base, root, this.files, log);
  }

  /** See {@link sandbox}. */
  static async start(options: SandboxOptions): Promise<Sandbox> {
    const { log = createLogger({ level: 'error', format: 'auto' }), size, files } = options;
    const base = await baseOf(options, log);
    const limits = { size: size ?? DEFAULT_BYTES, inodes: files ?? DEFAULT_FILES };
    const layers = await base.open(new BackendRegistry(), log);
    const volume = base.changes?.fork(limits) ?? new MemfsVolume(limits);
    const root = overlay({ ...LAYERS, upper: volume.backend, lowers: layers.lowers });
    const box = new Sandbox(options, base, log, volume, root, layers.close);
    try {
      await box.#start();
      return box;
    } catch (error) {
      await box.#end(error);
      throw error;
    }
  }

  async #start(): Promise<void> {
    const { mounts = {}, timeout, signal, user = this.#config?.user, console } = this.#options;
    const { network } = this.#options;
    if (network !== undefined) this.#network = new NetworkProxy(network, this.#log);
    const root = await this.#mountRoot();
    await this.#makeWorkingFolder();
    const shared = Object.entries(mounts).map(([path, mount]) => checkedMount(path, mount));
    this.#temporary = new TemporaryFolder();
    const socket = (name: string): string => `${this.#temporary!.path}/${name}`;
    const control = this.#control;
    control.root.entries.set('next', new Source(() => this.#messages.open()));
    const common = { maxConnections: 1, locks: 'local' as const };
    const cache = { entryTimeout: 1, attributeTimeout: 1, data: 'auto' as const };
    const exports: ServedExport[] = [
      { tag: 'root', socket: socket('root'), backend: root, cache, ...common },
      { tag: 'control', socket: socket('control'), backend: control, ...common },
      ...(this.#network === undefined
        ? []
        : [{ tag: 'network', socket: socket('network'), backend: this.#network.share, ...common }]),
      ...shared.map(({ backend, readOnly }, index) => ({
        tag: `mount${index}`,
        socket: socket(`mount${index}`),
        backend,
        readOnly,
        ...common,
      })),
    ];
    const shares: GuestShare[] = exports.map(({ tag, socket: served, readOnly = false }) => {
      const mountPoint = OWN_SHARES.get(tag!) ?? `/shares/${tag}`;
      return { tag: tag!, socket: served!, mountPoint, readOnly };
    });
    await this.#checkFolder(this.#cwd, shared);
    if (user !== undefined) await findUser(this.files, user);
    this.#daemon = await Daemon.start({ exports, log: this.#log, registry: new BackendRegistry() });
    const { audit } = this.#options;
    if (audit !== undefined) {
      const places = shared.map(({ path }, index) => [`mount${index}`, path] as const);
      this.#audit = openAudit(audit, new Map([['root', ''], ...places]), this.#daemon.tracing);
    }
    const late = timeout === undefined ? [] : [AbortSignal.timeout(timeout * 1000)];
    const ends = [this.#ending.signal, ...(signal === undefined ? [] : [signal]), ...late];
    const { memory, cpus, accelerator, machine, kernel, qemu, append } = this.#options;
    const options = { memory, cpus, accelerator, machine, kernel, qemu, append, console };
    const guest = await Guest.boot({ ...options, shares, signal: AbortSignal.any(ends) });
    this.#guest = guest;
    const binds: Mount[] = shared.map(({ path }, index) => ({ from: `/shares/mount${index}`, to: path }));
    const errors = new PassThrough();
    let said = '';
    errors.setEncoding('utf8').on('data', (part: string) => {
      said = (said + part).slice(-MOST_SAID);
    });
    this.#agent = guest
      .run(agentScript(binds, this.#network === undefined ? [] : [LISTEN_LINE]), {
        folder: '/',
        stderr: errors,
      })
      .then(async (code) => {
        errors.end();
        await finished(errors);
        return new Error(`the sandbox has failed (${code}): ${said.trim()}`);
      })
      .catch((error: unknown) => error)
      .then((error) => this.#end(error));
    // The agent asks for its first message when everything is mounted.
    await Promise.race([this.#messages.send('sync\n'), this.#agent]);
    if (this.#stopping !== undefined) await this.#failed();
  }

  /** Mounts the overlay, which tells where the paths of the rules lead. @returns what to serve. */
  async #mountRoot(): Promise<Backend> {
    const { hide = [], readOnly = [], deny = [], redirect = {} } = this.#options;
    const { hideSecrets = this.#base.image === undefined } = this.#options;
    const node = await this.#overlay.mount({ log: this.#log, createBuffer: hostBuffer });
    this.#isMounted = true;
    const mounted = wrap(this.#watches.over(this.#overlay), { mount: () => node }) as Backend;
    const rules = await rulesOf(this.files, { hide, readOnly, deny, redirect, hideSecrets });
    if (this.#base.image !== undefined && rules.length === 0) return mounted;
    return routed({ mounts: { '/': mounted, ...this.#ownFolders() }, rules }) as Backend;
  }

  /**
   * What is served where the guest mounts file systems of its own: of this host's it sees nothing
   * there, even if it looks below these.
   */
  #ownFolders(): Record<string, Backend> {
    if (this.#base.image !== undefined) return {};
    return Object.fromEntries(OWN_FOLDERS.map((folder) => [folder, emptyFolder()]));
  }

  /** What the image says of its commands. */
  get #config(): Image['config'] | undefined {
    return this.#base.image?.config;
  }

  /** Where commands start by default. */
  get #cwd(): string {
    return this.#options.cwd ?? this.#config?.workingDir ?? '/';
  }

  /** Makes an image's own folder, as container engines do. */
  async #makeWorkingFolder(): Promise<void> {
    const folder = this.#config?.workingDir;
    if (folder !== undefined && !(await this.files.exists(folder))) await this.files.mkdir(folder);
  }

  /**
   * What an image runs by default.
   * @param words in the place of its `Cmd`.
   * @returns its `Entrypoint` and `Cmd`; `words` alone where there is no image.
   */
  command(words: readonly string[] = this.#config?.cmd ?? []): readonly string[] {
    return [...(this.#config?.entrypoint ?? []), ...words];
  }

  /** @throws UsageError where commands could not start in a folder. */
  async #checkFolder(cwd: string, shared: readonly CheckedMount[]): Promise<void> {
    if (!cwd.startsWith('/')) throw new UsageError(`cwd ${cwd}: must be absolute`);
    if (shared.some(({ path }) => isWithin(cwd, path))) return;
    const own = OWN_FOLDERS.find((folder) => isWithin(cwd, folder));
    if (own !== undefined && cwd !== own)
      throw new UsageError(
        `cwd ${cwd}: a sandbox has its own ${own}: mount the folder, or start in another one`,
      );
    try {
      await this.files.readdir(cwd);
    } catch (error) {
      throw new UsageError(`cwd ${cwd}: no such folder in the sandbox`, { cause: error });
    }
  }

  /**
   * Starts a command. Several run side by side.
   * @param command a program and its arguments, or a script for the sandbox's own `/bin/sh`.
   * @throws UsageError for a user that the sandbox does not have; Error if it has ended.
   */
  async spawn(command: string | readonly string[], options: StreamOptions = {}): Promise<SandboxCommand> {
    const { tty, signal, stdin } = options;
    signal?.throwIfAborted();
    if (this.#stopping !== undefined) await this.#failed();
    if (this.#commands.size >= MAX_COMMANDS)
      throw new UsageError(`a sandbox runs at most ${MAX_COMMANDS} commands at a time`);
    const words = typeof command === 'string' ? ['/bin/sh', '-c', command] : command;
    if (words.length === 0) throw new UsageError('a command needs a program');
    const { uid, gid, home } = await findUser(
      this.files,
      options.user ?? this.#options.user ?? this.#config?.user ?? '0',
    );
    const env = {
      PATH,
      HOME: home,
      ...(this.#network === undefined ? {} : PROXY_VARIABLES),
      ...(tty === undefined ? {} : { TERM: 'xterm-256color' }),
      ...this.#config?.env,
      ...this.#options.env,
      ...options.env,
    };
    checkWords(words, env);
    const cwd = posix.resolve(this.#cwd, options.cwd ?? '');
    const id = String((this.#count += 1));
    const folder = new Folder();
    const input =
      stdin === undefined || stdin instanceof Readable ? stdin : Readable.from([Buffer.from(stdin)]);
    const started = new SandboxCommand(
      { id, words, env, cwd, uid, gid },
      { input, terminal: tty },
      folder,
      this.#messages,
    );
    this.#control.root.entries.set(id, folder);
    this.#commands.add(started);
    const kill = (): void => void started.kill('SIGKILL');
    signal?.addEventListener('abort', kill, { once: true });
    const forget = (): void => {
      signal?.removeEventListener('abort', kill);
      this.#commands.delete(started);
      this.#control.root.entries.delete(id);
    };
    started.exitCode.then(forget, forget);
    void this.#messages.send(`run ${id}\n`);
    return started;
  }

  /**
   * Runs a command and collects its output.
   * @throws as {@link spawn}, and what ended the sandbox if it ends before the command.
   */
  async exec(command: string | readonly string[], options: StreamOptions = {}): Promise<ExecResult> {
    const started = await this.spawn(command, options);
    const [exitCode, stdout, stderr] = await Promise.all([
      started.exitCode,
      buffer(started.stdout),
      buffer(started.stderr),
    ]);
    return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
  }

  /**
   * Runs a shell, or another command, on a terminal of this program, which shows it as it is.
   * @param terminal default: standard input and output.
   * @returns its exit code.
   * @throws UsageError where these are no terminal; otherwise as {@link spawn}.
   */
  async shell(
    command: string | readonly string[] = ['sh'],
    { input = process.stdin, output = process.stdout }: Partial<Terminal> = {},
  ): Promise<number> {
    if (!input.isTTY || !output.isTTY) throw new UsageError('a shell needs a terminal, for input and output');
    // A terminal without a known size reports 0.
    const size = (): TerminalSize => ({ columns: output.columns || 80, rows: output.rows || 24 });
    // Of a stream of its own, nothing stays behind at the terminal.
    const stdin = new PassThrough();
    const shell = await this.spawn(command, { stdin, tty: size() });
    const resize = (): void => shell.resize(size());
    input.setRawMode(true);
    input.pipe(stdin);
    output.on('resize', resize);
    try {
      shell.stdout.pipe(output, { end: false });
      const [exitCode] = await Promise.all([shell.exitCode, finished(shell.stdout)]);
      return exitCode;
    } finally {
      output.off('resize', resize);
      input.setRawMode(false);
      input.unpipe(stdin);
      input.pause();
      stdin.destroy();
    }
  }

  /**
   * Has a port of this host's loopback device lead to a port of the sandbox's, until it ends.
   * @param port at which a program of the sandbox listens, at 127.0.0.1, 1 to 65,535.
   * @param hostPort 1 to 65,535. Default: any that is free.
   * @returns the port of this host.
   * @throws UsageError for what is no port; what node:net throws, such as EADDRINUSE.
   */
  async publish(port: number, hostPort = 0): Promise<number> {
    const odd = [port, hostPort === 0 ? port : hostPort].find(
      (given) => !Number.isInteger(given) || given < 1 || given > 65_535,
    );
    if (odd !== undefined) throw new UsageError(`port ${odd}: 1 to 65535`);
    if (this.#stopping !== undefined) await this.#failed();
    const server = createServer({ allowHalfOpen: true }, (socket) => void this.#reach(port, socket));
    this.#published.push(server);
    await once(server.listen(hostPort, '127.0.0.1'), 'listening');
    // This process may have too many open files for one more connection.
    server.on('error', (error) => this.#log.error({ err: error, port }, 'sandbox: a published port'));
    return (server.address() as AddressInfo).port;
  }

  /** Connects a socket of this host to a port of the guest. */
  async #reach(port: number, socket: Socket): Promise<void> {
    socket.on('error', () => socket.destroy());
    try {
      const words = [BUSYBOX, 'nc', '127.0.0.1', String(port)];
      const command = await this.spawn(words, { stdin: socket, user: '0' });
      socket.once('close', () => void command.kill('SIGKILL'));
      command.stdout.pipe(socket);
    } catch {
      // It has ended, or runs as many commands as it may.
      socket.destroy();
    }
  }

  /**
   * Takes its files as they are now, in a moment and without memory of their own. The guest's
   * programs go on meanwhile.
   */
  async snapshot(): Promise<SandboxSnapshot> {
    await this.#sync();
    return new SandboxSnapshot(this.#base, this.#volume.snapshot());
  }

  /**
   * Starts sandboxes with its files as they are now. Processes are not copied.
   * @param count of sandboxes, 1 or more.
   * @param options that are to differ from this one's.
   */
  async fork(count = 1, options: Omit<SandboxOptions, 'root' | 'image' | 'base'> = {}): Promise<Sandbox[]> {
    using base = await this.snapshot();
    const own = { root: undefined, image: undefined, audit: undefined };
    const settings = { ...this.#options, ...own, ...options, base };
    const boxes: Sandbox[] = [];
    let left = count;
    const start = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        boxes.push(await Sandbox.start(settings));
      }
    };
    // More at a time would start no sooner, and each would take longer.
    const lanes = Array.from({ length: Math.min(count, MOST_STARTS) }, () =>
      start().catch((error: unknown) => {
        left = 0;
        throw error;
      }),
    );
    const failed = (await Promise.allSettled(lanes)).find((lane) => lane.status === 'rejected');
    if (failed === undefined) return boxes;
    await Promise.all(boxes.map((box) => box.stop()));
    throw failed.reason;
  }

  /**
   * Carries out here what a fork has changed since it was forked. Where both have changed a path,
   * the fork's state stays; programs that run here go on.
   * @returns what was carried out.
   * @throws UsageError for this sandbox itself; ENOSPC, and its like, with a part carried out.
   */
  async merge(fork: Sandbox): Promise<SandboxChange[]> {
    if (fork === this) throw new UsageError('a sandbox cannot be merged into itself');
    await fork.#sync();
    await this.#sync();
    const from = { files: fork.files, overlay: fork.#overlay, volume: fork.#volume };
    return merge(from, this.files);
  }

  /**
   * Tells what is changed at a path and below, from now on, by the guest or by {@link files}. A
   * file that the guest writes tells of it several times. Ends with the sandbox.
   * @param path absolute, without symbolic links. Default: everything.
   */
  watch(path = '/', { signal }: { readonly signal?: AbortSignal } = {}): AsyncIterableIterator<FileEvent> {
    return this.#watches.read(posix.resolve('/', path), signal);
  }

  /** What its changes take of `size` and `files`: bytes of content, and files and directories. */
  usage(): { readonly bytes: number; readonly files: number } {
    const space = this.#volume.backend.statfs();
    const { blockSize = 0, blocks = 0, blocksFree = 0, files = 0, filesFree = 0 } = space;
    return { bytes: (blocks - blocksFree) * blockSize, files: files - filesFree };
  }

  /**
   * What differs from what the sandbox began with, a fork from what the first one began with. What
   * was there and what is there is read when it is asked for.
   * @param path absolute, without symbolic links: only what differs there and below.
   */
  async diff(path = '/'): Promise<SandboxDifference[]> {
    await this.#sync();
    return this.#differences.list(posix.resolve('/', path));
  }

  /**
   * Writes what {@link diff} shows as a unified diff with the headers of git, which `patch -p1` and
   * `git apply` read. What these do not know is told in lines that begin with `#`: directories,
   * devices, owners, and files above 16 MiB. Needs the program `diff`.
   * @param to a stream, which stays open, or a file.
   * @param path as for {@link diff}.
   */
  async patch(to: string | Writable, path = '/'): Promise<void> {
    const changes = await this.diff(path);
    if (typeof to !== 'string') return writePatch(changes, to);
    const file = createWriteStream(to);
    await Promise.all([
      finished(file),
      writePatch(changes, file).then(
        () => file.end(),
        (error: unknown) => file.destroy(error as Error),
      ),
    ]);
  }

  /**
   * Writes what {@link diff} shows as a layer of a container image: a tar archive with whiteouts.
   * @param to a stream, which stays open, or a file, gzipped if its name ends in `gz`.
   */
  async export(to: string | Writable): Promise<void> {
    await this.#sync();
    if (typeof to === 'string') await this.#overlay.saveLayer(to);
    else await writeLayer(this.#overlay, this.#overlay.union, to);
  }

  /**
   * Writes an image: what {@link diff} shows as a layer upon those of the image that the sandbox
   * began with, or as the only one.
   * @param target a directory in the OCI layout, which is made if need be, and in which other
   * images stay; or `docker://[HOST/]NAME[:TAG]`, an image of a registry.
   * @param tag of the image in a directory. Default: `latest`.
   * @throws UsageError for a tag that is none, a directory that is no layout, or with what the
   * registry says.
   */
  async commit(target: string, tag?: string): Promise<void> {
    const reference = target.startsWith(SCHEME) ? referenceOf(target) : undefined;
    if (reference !== undefined && tag !== undefined)
      throw new UsageError(`${target}: the tag ${tag} belongs into the name`);
    await this.#sync();
    const write = (sink: Writable): Promise<void> => writeLayer(this.#overlay, this.#overlay.union, sink);
    if (reference === undefined) return commitImage(target, tag ?? 'latest', this.#base.image, write);
    const { pushImage } = await import('./image/registry/push.js');
    await pushImage(reference, this.#base.image, write);
  }

  /**
   * Ends the sandbox: its processes are killed, and its files are gone. What they have written to
   * mounted directories is there.
   */
  async stop(): Promise<void> {
    if (this.#stopping === undefined && Object.keys(this.#options.mounts ?? {}).length > 0)
      await Promise.race([this.#messages.send('sync\n'), sleep(SYNC_TIMEOUT_MS, undefined, { ref: false })]);
    await this.#end(new Error('the sandbox has ended'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #sync(): Promise<void> {
    if (this.#stopping === undefined) await this.#messages.send('sync\n');
    if (this.#stopping !== undefined) await this.#failed();
  }

  /** @throws why the sandbox has ended. */
  async #failed(): Promise<never> {
    await this.#stopping;
    throw this.#reason;
  }

  #reason: unknown;

  #end(reason: unknown): Promise<void> {
    this.#reason ??= reason;
    this.#stopping ??= this.#stop().finally(this.#resolveEnded);
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    for (const command of this.#commands) command.lose(this.#reason);
    this.#watches.end();
    this.#network?.close();
    for (const server of this.#published) server.close();
    this.#messages.end();
    // Its files are thrown away, so that nothing needs to be written.
    this.#guest?.kill();
    await this.#guest?.ended();
    this.#audit?.close();
    await this.files.close();
    await this.#differences.close();
    if (this.#daemon !== undefined) await this.#daemon.close();
    else if (this.#isMounted) await this.#overlay.unmount?.();
    this.#temporary?.[Symbol.dispose]();
    this.#volume.discard();
    this.#closeLayers();
  }
}

/**
 * Starts a sandbox: `await using box = await sandbox({ root: '/' })`. A virtual machine without a
 * disk and a network runs its commands. What they write is in this process's memory.
 * @throws UsageError for a mistake in the options, or if what is needed is not installed.
 * @throws GuestError if the machine cannot start.
 */
export function sandbox(options: SandboxOptions = {}): Promise<Sandbox> {
  return Sandbox.start(options);
}

/** @throws UsageError for several, or an image that cannot be read. */
async function baseOf({ root, image, base, signal }: SandboxOptions, log: Logger): Promise<Base> {
  if ([root, image, base].filter((given) => given !== undefined).length > 1)
    throw new UsageError('root, image and base: give one of them');
  if (base !== undefined) return base;
  if (image === undefined) return directoryBase(root ?? '/');
  const opened = await Image.open(image, signal);
  return imageBase(opened, await opened.load(log, signal));
}

interface CheckedMount {
  readonly path: string;
  readonly backend: ServedExport['backend'];
  readonly readOnly: boolean;
}

/** @throws UsageError if it is no directory, or has no place in a sandbox. */
function checkedMount(path: string, mount: string | SandboxMount): CheckedMount {
  const { source, readOnly = false } = typeof mount === 'string' ? { source: mount } : mount;
  const place = posix.normalize(path);
  if (!place.startsWith('/') || place === '/' || place !== path.replace(/(.)\/$/, '$1'))
    throw new UsageError(`mount ${path}: must be an absolute path in the sandbox, and not /`);
  if (typeof source !== 'string') return { path: place, backend: source, readOnly };
  const sharedDir = resolve(source);
  const found = statSync(Buffer.from(nameBytes(sharedDir)), { throwIfNoEntry: false });
  if (found?.isDirectory() !== true) throw new UsageError(`mount ${source}: no such directory`);
  return { path: place, backend: { type: 'passthrough', sharedDir }, readOnly };
}

function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);
}

/** @throws UsageError for what no program can be given. */
function checkWords(words: readonly string[], env: Readonly<Record<string, string>>): void {
  const odd = Object.keys(env).find((name) => name === '' || name.includes('='));
  if (odd !== undefined) throw new UsageError(`env ${odd}: no name of a variable`);
  if ([...words, ...Object.entries(env).flat()].some((word) => word.includes('\0')))
    throw new UsageError('a command cannot have the character NUL in it');
}
