import type { Writable } from 'node:stream';
import type { ZodType } from 'zod';
import type { Awaitable } from './awaitable.js';
import type { Backend } from './backend.js';
import type { BackendHost, Logger } from './host.js';

/** A backend named in configuration: `{ type: 'memfs', size: '1g' }`. */
export interface BackendSpec {
  /** A built-in's name, an npm package, or a path to a module. */
  readonly type: string;
  /** The options, as the plugin's schema has them. */
  readonly [option: string]: unknown;
}

/** What a plugin's factory may use. */
export interface PluginEnvironment {
  /** The daemon's log. */
  readonly log: Logger;
  /**
   * Creates another backend, for those that are made of others.
   * @throws UsageError as configuration does.
   */
  createBackend(spec: BackendSpec): Awaitable<Backend>;
  /**
   * Whether the backend goes on with what one had in another process, by `restore` or the like. So
   * it need not load what it would begin with. Default false.
   */
  readonly continues?: boolean;
}

/**
 * What a backend uses of the machine, so that a daemon which locks itself in leaves it that, and
 * nothing else.
 */
export interface BackendNeeds {
  /**
   * Files and directories, with all below them. `shared`: what guests put there is never used by
   * the daemon itself. `listens`: the backend has a unix socket in that directory.
   */
  readonly paths: readonly {
    readonly path: string;
    readonly write: boolean;
    readonly shared?: boolean;
    readonly listens?: boolean;
  }[];
  /**
   * Capabilities of a daemon that is root, as capabilities(7) names them in lower case:
   * `dac_override`.
   */
  readonly capabilities?: readonly string[];
  /**
   * It runs other programs. Those may be anything, so the daemon then limits neither paths nor what
   * is executed.
   */
  readonly programs?: boolean;
  /** Whether it connects to other machines, or to this one, by TCP. */
  readonly network?: boolean;
  /**
   * It makes machine code after its `mount`: it compiles WebAssembly or loads native libraries
   * then. What happens before needs nothing. In a confined daemon that is an error otherwise.
   */
  readonly machineCode?: boolean;
  /** Other backends that it is made of. */
  readonly backends?: readonly BackendSpec[];
}

/** What a {@link DaemonCommand} may use of the daemon that it runs in. */
export interface CommandEnvironment {
  /** The daemon's log. */
  readonly log: Logger;
  /** Serves one more backend, on a socket of its own. @throws UsageError if the socket is taken. */
  serve(tag: string, socket: string, backend: Backend): Promise<void>;
  /** Ends what `serve` began. @returns whether there was such a socket. */
  stop(socket: string): Promise<boolean>;
}

/** What an {@link OfflineCommand} may use. */
export interface OfflineEnvironment extends PluginEnvironment, BackendHost {
  /** The program's log. */
  readonly log: Logger;
  /** Standard output, for data that is no lines. */
  readonly output: Writable;
}

/** What every command of a kind of backend says of itself. */
export interface CommandDescription<Options = unknown> {
  /** Lower-case word. */
  readonly name: string;
  /** One line for the help. */
  readonly description: string;
  /**
   * A `z.object`, as {@link BackendPlugin.options}. A field with `meta({ positional: true })` is an
   * argument without a flag, in the schema's order. If it is an array it takes all that follow.
   */
  readonly options: ZodType<Options>;
  /** Command lines for the help, without the program's name. */
  readonly examples?: readonly string[];
}

/** A command that works on folders or layers which no process need serve. */
export interface OfflineCommand<Options = unknown> extends CommandDescription<Options> {
  /** It runs in the process of the command line. */
  readonly kind: 'offline';
  /** Least severe lines of the log that are shown where no flag says so. Default: `warn`. */
  readonly logLevel?: 'info' | 'warn';
  /**
   * May be an async generator, for output that is not held in memory.
   * @returns lines to show.
   * @throws UsageError for a mistake of the operator.
   */
  run(options: Options, environment: OfflineEnvironment): Awaitable<Iterable<string> | AsyncIterable<string>>;
}

/** A command that runs in a daemon. The command line names its control socket: `--control PATH`. */
export interface DaemonCommand<Options = unknown> extends CommandDescription<Options> {
  /** A running process is asked. */
  readonly kind: 'online';
  /** @returns lines to show. @throws UsageError for a mistake of the operator. */
  run(options: Options, environment: CommandEnvironment): Awaitable<readonly string[]>;
}

/** Where a mounted backend listens itself. */
export interface OwnSocket {
  /** The socket's path. The form of requests and replies is that of a daemon's control socket. */
  readonly path: string;
  /** What to tell the operator if nobody listens: one line. */
  readonly absent: string;
}

/** A command that a mounted backend answers itself, at a socket that it finds by the options. */
export interface OwnSocketCommand<Options = unknown> extends CommandDescription<Options> {
  /** A running process is asked. */
  readonly kind: 'online';
  /** @throws UsageError if the options name no place. */
  socket(options: Options): OwnSocket;
}

/** A command of a kind of backend: `virtiofs-kit NAME COMMAND …`. */
export type BackendCommand<Options = unknown> =
  OfflineCommand<Options> | DaemonCommand<Options> | OwnSocketCommand<Options>;

/** Types a command's options by its schema; returns its argument. */
export function defineCommand<Options>(command: BackendCommand<Options>): BackendCommand<Options> {
  return command;
}

/**
 * A kind of backend. A module that offers one has it as its default export. The option schema is
 * the only source for the command line, the configuration check, error texts and documentation:
 * give every field a `describe`, and a `meta({ placeholder, unit })` where the type does not show
 * it.
 */
export interface BackendPlugin<Options = unknown> {
  /** Lower-case name, `[a-z][a-z0-9-]*`. */
  readonly name: string;
  /** One line for `virtiofs-kit backends`. */
  readonly description: string;
  /** A `z.object` (strict: an unknown option is an error). */
  readonly options: ZodType<Options>;
  /** Makes a backend from checked options. May refuse with {@link UsageError}. */
  create(options: Options, environment: PluginEnvironment): Awaitable<Backend>;
  /** Commands beside serving: `virtiofs-kit NAME COMMAND …`. */
  readonly commands?: readonly BackendCommand[];
  /**
   * What a backend of these options uses. Absent: not known, and the daemon limits neither paths
   * nor capabilities.
   */
  needs?(options: Options): BackendNeeds;
}

/**
 * A mistake of the operator: a wrong option, a missing directory. Shown as one line, exit code 2,
 * no stack. The text names the thing, the value and the way out.
 */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Types a plugin's options by its schema; returns its argument. */
export function definePlugin<Options>(plugin: BackendPlugin<Options>): BackendPlugin<Options> {
  return plugin;
}
