import { statSync } from 'node:fs';
import { posix, resolve } from 'node:path';
import { PassThrough, Readable, type Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Logger, nameBytes, UsageError } from '../backend/index.js';
import { Guest, type GuestShare, TemporaryFolder } from '../guest/index.js';
import { BackendRegistry, createLogger, Daemon, type ServedExport } from '../plugins/index.js';
import { MemfsVolume } from '../../backends/memfs/index.js';
import {
  differences,
  HostFiles,
  overlay,
  type OverlayBackend,
  writeLayer,
} from '../../backends/overlay/index.js';
import { agentScript, CONTROL, type Mount, OWN_FOLDERS, ROOT, type TerminalSize } from './agent.js';
import { type Base, directoryBase, SandboxSnapshot } from './base.js';
import { SandboxCommand } from './command.js';
import { ControlShare, Folder, Source } from './control-share.js';
import type { SandboxMount, SandboxOptions, SpawnOptions } from './options.js';
import { Messages } from './pipes.js';
import { findUser } from './users.js';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Most commands at a time. Each has a request or two parked in the ring of the control share. */
const MAX_COMMANDS = 48;

/** How long a sandbox that ends may take to write what is cached. */
const SYNC_TIMEOUT_MS = 5000;

const DEFAULT_BYTES = 2 ** 30;
const DEFAULT_FILES = 1_000_000;

/** How a command's input and output go. */
export interface StreamOptions extends SpawnOptions {
  /** Its input. Default: none. */
  readonly stdin?: Readable | string | Uint8Array | undefined;
  /** Gives it a terminal of this size in the place of pipes. */
  readonly tty?: TerminalSize | undefined;
}

/** The result of a command. */
export interface ExecResult {
  /** Its exit code, or 128 and the number of the signal that has ended it. */
  readonly exitCode: number;
  /** What it wrote, decoded as UTF-8. */
  readonly stdout: string;
  readonly stderr: string;
}

/** A difference from what a sandbox began with. */
export interface SandboxChange {
  readonly kind: 'added' | 'changed' | 'removed';
  /** Absolute path in the sandbox. */
  readonly path: string;
}

/** A throw-away machine whose files its owner reads, writes, snapshots and forks. */
export class Sandbox implements AsyncDisposable {
  /** Its files, which the host reads and writes without the guest's help. */
  readonly files: HostFiles;
  readonly #options: SandboxOptions;
  readonly #base: Base;
  readonly #log: Logger;
  readonly #volume: MemfsVolume;
  readonly #overlay: OverlayBackend;
  readonly #control = new ControlShare();
  readonly #messages = new Messages();
  readonly #commands = new Set<SandboxCommand>();
  readonly #ending = new AbortController();
  #daemon: Daemon | undefined;
  #guest: Guest | undefined;
  #temporary: TemporaryFolder | undefined;
  /** Settles when the agent has ended. */
  #agent: Promise<unknown> | undefined;
  #stopping: Promise<void> | undefined;
  #count = 0;

  private constructor(
    options: SandboxOptions,
    base: Base,
    log: Logger,
    volume: MemfsVolume,
    root: OverlayBackend,
  ) {
    this.#options = options;
    this.#base = base;
    this.#log = log;
    this.#volume = volume;
    this.#overlay = root;
    this.files = new HostFiles(root, () => this.#messages.send('forget\n'));
  }

  /** See {@link sandbox}. */
  static async start(options: SandboxOptions): Promise<Sandbox> {
    const { log = createLogger({ level: 'error', format: 'auto' }), size, files } = options;
    if (options.root !== undefined && options.base !== undefined)
      throw new UsageError('root and base: give one of them');
    const base = options.base ?? directoryBase(options.root ?? '/');
    const limits = { size: size ?? DEFAULT_BYTES, inodes: files ?? DEFAULT_FILES };
    const lowers = await base.lowers(new BackendRegistry(), log);
    const volume = base.changes?.fork(limits) ?? new MemfsVolume(limits);
    const root = overlay({
      upper: volume.backend,
      lowers,
      upperPath: [],
      workPath: undefined,
      redirectDir: true,
      metacopy: true,
      xattrs: 'trusted',
      marks: 'auto',
    });
    const box = new Sandbox(options, base, log, volume, root);
    try {
      await box.#start();
      return box;
    } catch (error) {
      await box.#end(error);
      throw error;
    }
  }

  async #start(): Promise<void> {
    const { mounts = {}, cwd = '/', timeout, signal, user, console } = this.#options;
    const shared = Object.entries(mounts).map(([path, mount]) => checkedMount(path, mount));
    this.#temporary = new TemporaryFolder();
    const socket = (name: string): string => `${this.#temporary!.path}/${name}`;
    const control = this.#control;
    control.root.entries.set('next', new Source(() => this.#messages.open()));
    const common = { maxConnections: 1, locks: 'local' as const };
    const cache = { entryTimeout: 1, attributeTimeout: 1, data: 'auto' as const };
    const exports: ServedExport[] = [
      { tag: 'root', socket: socket('root'), backend: this.#overlay, cache, ...common },
      { tag: 'control', socket: socket('control'), backend: control, ...common },
      ...shared.map(({ source, readOnly }, index) => ({
        tag: `mount${index}`,
        socket: socket(`mount${index}`),
        backend: { type: 'passthrough', sharedDir: source },
        readOnly,
        ...common,
      })),
    ];
    const shares: GuestShare[] = exports.map(({ tag, socket: socketPath, readOnly = false }) => {
      const mountPoint = tag === 'root' ? ROOT : tag === 'control' ? CONTROL : `/shares/${tag}`;
      return { tag: tag!, socketPath: socketPath!, mountPoint, readOnly };
    });
    this.#daemon = await Daemon.start({ exports, log: this.#log, registry: new BackendRegistry() });
    await this.#checkFolder(cwd, shared);
    if (user !== undefined) await findUser(this.files, user);
    const late = timeout === undefined ? [] : [AbortSignal.timeout(timeout * 1000)];
    const ends = [this.#ending.signal, ...(signal === undefined ? [] : [signal]), ...late];
    const { memory, cpus, accelerator, kernel, qemu, append } = this.#options;
    const machine = { memory, cpus, accelerator, kernel, qemu, append, console };
    const guest = await Guest.boot({ ...machine, shares, signal: AbortSignal.any(ends) });
    this.#guest = guest;
    const binds: Mount[] = shared.map(({ path }, index) => ({ from: `/shares/mount${index}`, to: path }));
    const errors = new PassThrough();
    const said = buffer(errors);
    this.#agent = guest
      .run(agentScript(binds), { folder: '/', stderr: errors })
      .then(async (code) => {
        errors.end();
        return new Error(`the sandbox has failed (${code}): ${String(await said).trim()}`);
      })
      .catch((error: unknown) => error)
      .then((error) => this.#end(error));
    // The agent asks for its first message when everything is mounted.
    await Promise.race([this.#messages.send('sync\n'), this.#agent]);
    if (this.#stopping !== undefined) await this.#failed();
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
    const { uid, gid, home } = await findUser(this.files, options.user ?? this.#options.user ?? '0');
    const env = {
      PATH,
      HOME: home,
      ...(tty === undefined ? {} : { TERM: 'xterm-256color' }),
      ...this.#options.env,
      ...options.env,
    };
    checkWords(words, env);
    const cwd = posix.resolve(this.#options.cwd ?? '/', options.cwd ?? '');
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
  async fork(count = 1, options: Omit<SandboxOptions, 'root' | 'base'> = {}): Promise<Sandbox[]> {
    using base = await this.snapshot();
    const settings = { ...this.#options, root: undefined, ...options, base };
    const starts = await Promise.allSettled(Array.from({ length: count }, () => Sandbox.start(settings)));
    const boxes = starts.flatMap((start) => (start.status === 'fulfilled' ? [start.value] : []));
    const failed = starts.find((start) => start.status === 'rejected');
    if (failed === undefined) return boxes;
    await Promise.all(boxes.map((box) => box.stop()));
    throw failed.reason;
  }

  /** What differs from what the sandbox began with, a fork from what the first one began with. */
  async diff(): Promise<SandboxChange[]> {
    await this.#sync();
    const found: SandboxChange[] = [];
    for await (const { kind, path } of differences(this.#overlay.union))
      found.push({ kind, path: `/${path}` });
    return found;
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
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    for (const command of this.#commands) command.lose(this.#reason);
    this.#messages.end();
    // Its files are thrown away, so that nothing needs to be written.
    this.#guest?.kill();
    await this.#guest?.ended();
    await this.#daemon?.close();
    this.#temporary?.[Symbol.dispose]();
    this.#volume.discard();
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

interface CheckedMount {
  readonly path: string;
  readonly source: string;
  readonly readOnly: boolean;
}

/** @throws UsageError if it is no directory, or has no place in a sandbox. */
function checkedMount(path: string, mount: string | SandboxMount): CheckedMount {
  const { source, readOnly = false } = typeof mount === 'string' ? { source: mount } : mount;
  const directory = resolve(source);
  const found = statSync(Buffer.from(nameBytes(directory)), { throwIfNoEntry: false });
  if (found?.isDirectory() !== true) throw new UsageError(`mount ${source}: no such directory`);
  const place = posix.normalize(path);
  if (!place.startsWith('/') || place === '/' || place !== path.replace(/(.)\/$/, '$1'))
    throw new UsageError(`mount ${path}: must be an absolute path in the sandbox, and not /`);
  return { path: place, source: directory, readOnly };
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
