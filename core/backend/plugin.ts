import type { ZodType } from 'zod';
import type { Awaitable } from './awaitable.js';
import type { Backend } from './backend.js';
import type { Logger } from './host.js';

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
}

/**
 * What a backend uses of the machine, so that a daemon which locks itself in leaves it that, and
 * nothing else.
 */
export interface BackendNeeds {
  /**
   * Files and directories, with all below them. `shared`: what guests put there is never used by
   * the daemon itself.
   */
  readonly paths: readonly { readonly path: string; readonly write: boolean; readonly shared?: boolean }[];
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
  /** Other backends that it is made of. */
  readonly backends?: readonly BackendSpec[];
}

/** What a backend's command may use of the daemon that it runs in. */
export interface CommandEnvironment {
  /** The daemon's log. */
  readonly log: Logger;
  /** Serves one more backend, on a socket of its own. @throws UsageError if the socket is taken. */
  serve(tag: string, socket: string, backend: Backend): Promise<void>;
  /** Ends what `serve` began. @returns whether there was such a socket. */
  stop(socket: string): Promise<boolean>;
}

/** A command of a kind of backend. */
export interface BackendCommand<Options = unknown> {
  /** Lower-case word. */
  readonly name: string;
  /** One line for the help. */
  readonly description: string;
  /** A `z.object`, as {@link BackendPlugin.options}. */
  readonly options: ZodType<Options>;
  /** @returns lines to show. @throws UsageError for a mistake of the operator. */
  run(options: Options, environment: CommandEnvironment): Awaitable<readonly string[]>;
}

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
  /**
   * What can be asked of a running daemon, at its control socket: `virtiofs-kit NAME COMMAND
   * --control PATH …`.
   */
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
