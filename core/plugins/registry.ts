import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  UsageError,
  type Backend,
  type BackendPlugin,
  type BackendSpec,
  type Logger,
} from '../backend/index.js';
import { suggestion } from './suggestion.js';
import { check } from './schema.js';

/** Loads the module of a built-in, on first use: who serves memory does not load the S3 client. */
const BUILT_IN: Readonly<Record<string, () => Promise<{ readonly default: BackendPlugin }>>> = {
  memfs: async () => import('../../backends/memfs/index.js'),
  passthrough: async () => import('../../backends/passthrough/index.js'),
  overlay: async () => import('../../backends/overlay/index.js'),
  s3: async () => import('../../backends/s3/index.js'),
};

/** Deepest nesting of backends made of others. */
const MAX_DEPTH = 16;

/** Names an option in an error: a flag on the command line, a key in a file. */
export type OptionName = (path: readonly PropertyKey[]) => string;

/** What making a backend needs. */
export interface CreateBackendOptions {
  readonly log: Logger;
  /**
   * Folder that relative paths of modules, and packages, are looked up from. Default: the working
   * directory.
   */
  readonly folder?: string | undefined;
  /** Names the backend's options in errors. Default: `backend TYPE: option`. */
  readonly optionName?: OptionName | undefined;
}

/** Finds kinds of backends, and makes backends. */
export class BackendRegistry {
  readonly #plugins = new Map<string, BackendPlugin>();

  /** Adds a kind under its own name, in front of built-ins. */
  register(plugin: BackendPlugin): void {
    this.#plugins.set(plugin.name, plugin);
  }

  /** Names that need no package or path. */
  get names(): string[] {
    return [...new Set([...this.#plugins.keys(), ...Object.keys(BUILT_IN)])];
  }

  /**
   * Finds a kind of backend.
   * @param type a built-in's or registered name, a path to a module (with a slash), or an npm
   * package.
   * @param folder what relative paths and packages are looked up from. Default: the working
   * directory.
   * @throws UsageError if there is none.
   */
  async load(type: string, folder = process.cwd()): Promise<BackendPlugin> {
    const known = this.#plugins.get(type);
    if (known !== undefined) return known;
    const builtIn = Object.hasOwn(BUILT_IN, type) ? BUILT_IN[type] : undefined;
    if (builtIn !== undefined) return (await builtIn()).default;
    const module = await this.#import(type, folder);
    const plugin = (module as { default?: unknown }).default;
    if (isPlugin(plugin)) return plugin;
    throw new UsageError(`backend ${type}: its default export is no backend plugin; use definePlugin`);
  }

  /**
   * The module that a kind is loaded from; nothing for one that is built in or registered, or not
   * found so.
   */
  fileOf(type: string, folder = process.cwd()): string | undefined {
    if (this.#plugins.has(type) || Object.hasOwn(BUILT_IN, type)) return undefined;
    return isPath(type) ? resolve(folder, type) : resolvePackage(type, folder);
  }

  async #import(type: string, folder: string): Promise<unknown> {
    const file = this.fileOf(type, folder);
    if (isPath(type) && !existsSync(file ?? ''))
      throw new UsageError(`backend ${type}: no such file: ${file}`);
    const specifier = file === undefined ? type : pathToFileURL(file).href;
    try {
      return await import(specifier);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (!isPath(type) && code === 'ERR_MODULE_NOT_FOUND' && message.includes(`'${type}'`)) {
        const hint = suggestion(type, this.names) || `; known are ${this.names.join(', ')}`;
        throw new UsageError(`backend ${type}: no such backend, and no npm package of that name${hint}`);
      }
      throw new UsageError(`backend ${type}: cannot be loaded: ${message}`, { cause: error });
    }
  }

  /**
   * Checks a backend's configuration without making the backend.
   * @throws UsageError for a mistake in it.
   */
  async check(
    spec: BackendSpec,
    { folder, optionName }: Omit<CreateBackendOptions, 'log'> = {},
  ): Promise<void> {
    const { type, ...options } = spec;
    check((await this.load(type, folder)).options, options, `backend ${type}: `, optionName);
  }

  /**
   * Makes a backend from configuration.
   * @throws UsageError for a mistake in it.
   */
  create(spec: BackendSpec, creation: CreateBackendOptions): Promise<Backend> {
    return this.#create(spec, creation, 0);
  }

  async #create(spec: BackendSpec, creation: CreateBackendOptions, depth: number): Promise<Backend> {
    const { type, ...options } = spec;
    if (depth > MAX_DEPTH) throw new UsageError(`backend ${type}: nested more than ${MAX_DEPTH} deep`);
    const { log, folder, optionName } = creation;
    const plugin = await this.load(type, folder);
    return plugin.create(check(plugin.options, options, `backend ${type}: `, optionName), {
      log,
      createBackend: (inner) => this.#create(inner, { log, folder }, depth + 1),
    });
  }
}

function isPath(type: string): boolean {
  return type.startsWith('.') || isAbsolute(type);
}

/**
 * Main file of a package as CommonJS finds it from a folder; nothing where `import` has to look by
 * itself.
 */
function resolvePackage(name: string, folder: string): string | undefined {
  try {
    return createRequire(join(folder, 'package.json')).resolve(name);
  } catch {
    return undefined;
  }
}

function isPlugin(value: unknown): value is BackendPlugin {
  const plugin = value as Partial<BackendPlugin> | null | undefined;
  return (
    typeof plugin?.name === 'string' &&
    typeof plugin.create === 'function' &&
    typeof plugin.options?.safeParse === 'function'
  );
}
