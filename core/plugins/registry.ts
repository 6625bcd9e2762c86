import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import {
  UsageError,
  type Awaitable,
  type Backend,
  type BackendPlugin,
  type BackendSpec,
  type Logger,
  type PluginEnvironment,
} from '../backend/index.js';
import { suggestion } from './options/suggestion.js';

interface BuiltIn {
  readonly load: () => Promise<{ readonly default: BackendPlugin }>;
  /** The module that makes it of options that are checked, where that needs no schema. */
  readonly make?: () => Promise<{
    create(options: never, environment: PluginEnvironment): Awaitable<Backend>;
  }>;
  /** What its commands do; absent if it has none. */
  readonly commands?: string;
}

/**
 * The built-ins. A module is loaded on first use, so that memfs does not load the S3 client. So the
 * program's help has the words on commands from here.
 */
const BUILT_IN: Readonly<Record<string, BuiltIn>> = {
  memfs: {
    load: async () => import('../../backends/memfs/index.js'),
    commands: 'snapshot, fork, compare and save volumes of a running daemon',
  },
  passthrough: {
    load: async () => import('../../backends/passthrough/index.js'),
    make: async () => import('../../backends/passthrough/backend.js'),
  },
  overlay: {
    load: async () => import('../../backends/overlay/index.js'),
    commands: "list, export or merge down what an overlay's upper changed, while nobody serves it",
  },
  s3: {
    load: async () => import('../../backends/s3/index.js'),
    commands: 'show, upload and recover what mounts of buckets keep in their journals',
  },
  ...wrappers('quota', 'cached', 'throttled', 'encrypted', 'routed'),
};

/** Wrappers, which are backends of other backends. */
function wrappers(
  ...names: readonly ('quota' | 'cached' | 'throttled' | 'encrypted' | 'routed')[]
): Readonly<Record<string, BuiltIn>> {
  const load = async (name: (typeof names)[number]): Promise<{ readonly default: BackendPlugin }> => {
    const { default: plugins } = await import('../wrappers/plugins.js');
    return { default: plugins[name] as BackendPlugin };
  };
  return Object.fromEntries(names.map((name) => [name, { load: () => load(name) }]));
}

/** The deepest nesting of backends in backends. */
const MAX_DEPTH = 16;

/** Writes an option's name for an error: a flag on the command line, a key in a file. */
export type OptionName = (path: readonly PropertyKey[]) => string;

/** What {@link BackendRegistry.create} needs. */
export interface CreateBackendOptions {
  readonly log: Logger;
  /**
   * The folder from which packages and relative paths of modules are looked up. Default: the
   * working directory.
   */
  readonly folder?: string | undefined;
  /** Names the backend's options in errors. Default: `backend TYPE: option`. */
  readonly optionName?: OptionName | undefined;
  /** Whether it goes on with what a backend had in another process. Default false. */
  readonly continues?: boolean;
}

/** A backend's kind and options, and the options as its schema gives them. */
export interface CheckedSpec {
  readonly spec: BackendSpec;
  readonly options: unknown;
}

/** Finds the plugins of backends, and makes backends. */
export class BackendRegistry {
  readonly #plugins = new Map<string, BackendPlugin>();
  readonly #checked: readonly CheckedSpec[];
  /** Those of {@link prepare}. */
  readonly #prepared: (CheckedSpec & { readonly plugin: BackendPlugin })[] = [];

  /** @param checked backends that are made without their schemas; see {@link checkOnce}. */
  constructor(checked: readonly CheckedSpec[] = []) {
    this.#checked = checked;
  }

  /** Registers a plugin under its own name. It takes precedence over a built-in of that name. */
  register(plugin: BackendPlugin): void {
    this.#plugins.set(plugin.name, plugin);
  }

  /** The names of registered and built-in plugins. */
  get names(): string[] {
    return [...new Set([...this.#plugins.keys(), ...Object.keys(BUILT_IN)])];
  }

  /** The kinds of backend that have commands, with what those do. No built-in is loaded. */
  get commandGroups(): { readonly name: string; readonly description: string }[] {
    const groups = this.names.map((name) => {
      const registered = this.#plugins.get(name);
      if (registered === undefined) return { name, description: BUILT_IN[name]?.commands };
      return { name, description: registered.commands === undefined ? undefined : `commands of ${name}` };
    });
    return groups.flatMap(({ name, description }) =>
      description === undefined ? [] : [{ name, description }],
    );
  }

  /**
   * Loads the plugin of a kind of backend.
   * @param type a registered or built-in name, an absolute path to a module or one that begins with
   * a dot, or an npm package.
   * @param folder where packages and relative paths are looked up. Default: the working directory.
   * @throws UsageError if there is no such plugin.
   */
  async load(type: string, folder = process.cwd()): Promise<BackendPlugin> {
    const known = this.#plugins.get(type);
    if (known !== undefined) return await checkOptionNames(type, known);
    const builtIn = Object.hasOwn(BUILT_IN, type) ? BUILT_IN[type] : undefined;
    if (builtIn !== undefined) return (await builtIn.load()).default;
    const module = await this.#import(type, folder);
    const plugin = (module as { default?: unknown }).default;
    if (isPlugin(plugin)) return await checkOptionNames(type, plugin);
    throw new UsageError(`backend ${type}: its default export is no backend plugin; use definePlugin`);
  }

  /** Loads what makes built-ins without their schemas. */
  async loadMakers(): Promise<void> {
    await Promise.all(Object.values(BUILT_IN).map(({ make }) => make?.()));
  }

  /**
   * Checks backends for a registry of another process, which then needs no schemas for them.
   * @returns those of them that can be made so.
   * @throws UsageError for a mistake in their options.
   */
  async checkOnce(specs: readonly BackendSpec[], folder?: string): Promise<CheckedSpec[]> {
    const able = specs.filter(({ type }) => !this.#plugins.has(type) && makerOf(type) !== undefined);
    return Promise.all(able.map(async (spec) => ({ spec, options: await this.check(spec, { folder }) })));
  }

  /**
   * Loads and checks what {@link create} needs, so that it makes the backend at once later. A
   * mistake is left to that.
   */
  async prepare(spec: BackendSpec, folder?: string): Promise<void> {
    const names = Object.keys(BUILT_IN);
    const within = [...textsIn(spec)].filter((text) => names.includes(text));
    try {
      await Promise.all([spec.type, ...within].map((type) => makerOf(type)?.()));
      if (specOf(this.#checked, spec) !== undefined) return;
      const plugin = await this.load(spec.type, folder);
      await Promise.all(within.map((type) => this.load(type, folder)));
      this.#prepared.push({ spec, options: await this.check(spec, { folder }), plugin });
    } catch {
      // It is told where it is needed.
    }
  }

  /**
   * The file from which a plugin is loaded. Undefined for a registered or built-in plugin, and if
   * the file is not found.
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
   * Checks a backend's options without making the backend.
   * @returns the options as its schema gives them.
   * @throws UsageError for a mistake in them.
   */
  async check(
    spec: BackendSpec,
    { folder, optionName }: Omit<CreateBackendOptions, 'log'> = {},
  ): Promise<unknown> {
    const { type, ...options } = spec;
    const [plugin, { check }] = await Promise.all([this.load(type, folder), loadSchemas()]);
    return check(plugin.options, options, `backend ${type}: `, optionName);
  }

  /**
   * Makes a backend from its kind and options.
   * @throws UsageError for a mistake in them.
   */
  create(spec: BackendSpec, creation: CreateBackendOptions): Promise<Backend> {
    return this.#create(spec, creation, 0);
  }

  async #create(spec: BackendSpec, creation: CreateBackendOptions, depth: number): Promise<Backend> {
    const { type } = spec;
    if (depth > MAX_DEPTH) throw new UsageError(`backend ${type}: nested more than ${MAX_DEPTH} deep`);
    const { log, folder, continues = false } = creation;
    const environment: PluginEnvironment = {
      log,
      continues,
      createBackend: (inner) => this.#create(inner, { log, folder, continues }, depth + 1),
    };
    const prepared = specOf(this.#prepared, spec);
    if (prepared !== undefined) return prepared.plugin.create(prepared.options as never, environment);
    const checked = specOf(this.#checked, spec);
    const maker = checked === undefined ? undefined : await makerOf(type)?.();
    if (checked !== undefined && maker !== undefined)
      return maker.create(checked.options as never, environment);
    const options = await this.check(spec, creation);
    return (await this.load(type, folder)).create(options, environment);
  }
}

/** Whoever has checked options, such as a process that has inherited them, needs none of it. */
function loadSchemas(): Promise<typeof import('./options/option-descriptions.js')> {
  return import('./options/option-descriptions.js');
}

function makerOf(type: string): BuiltIn['make'] {
  return Object.hasOwn(BUILT_IN, type) ? BUILT_IN[type]!.make : undefined;
}

function specOf<One extends CheckedSpec>(all: readonly One[], spec: BackendSpec): One | undefined {
  return all.find((one) => isDeepStrictEqual(one.spec, spec));
}

/** All texts in a value, such as the kinds of layers. */
function* textsIn(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (typeof value === 'object' && value !== null)
    for (const one of Object.values(value)) yield* textsIn(one);
}

function isPath(type: string): boolean {
  return type.startsWith('.') || isAbsolute(type);
}

/**
 * The main file of a package, as CommonJS finds it from a folder. Undefined if CommonJS does not
 * find it; `import` then looks for itself.
 */
function resolvePackage(name: string, folder: string): string | undefined {
  try {
    return createRequire(join(folder, 'package.json')).resolve(name);
  } catch {
    return undefined;
  }
}

/** Names and flags that mean something else wherever a backend's options are given. */
const OWN_NAMES: Readonly<Record<string, string>> = {
  type: 'says in configurations which backend is meant',
  backend: 'says on command lines which backend is meant',
  config: 'is a flag that names a configuration file',
  help: 'is a flag that shows help',
  version: 'is a flag that shows the version',
  logLevel: 'is a flag that sets what is logged',
  'log-level': 'is a flag that sets what is logged',
  logFormat: 'is a flag that sets how it is logged',
  'log-format': 'is a flag that sets how it is logged',
};

/** @throws UsageError for an option that could not be given. */
async function checkOptionNames(type: string, plugin: BackendPlugin): Promise<BackendPlugin> {
  // A schema that is not zod's does not tell its options.
  if (!('_zod' in plugin.options)) return plugin;
  const { describeOptions } = await loadSchemas();
  for (const { name, flag } of describeOptions(plugin.options)) {
    const taken = [name, flag].find((word) => Object.hasOwn(OWN_NAMES, word));
    if (taken !== undefined)
      throw new UsageError(
        `backend ${type}: its option ${name} needs another name: ${taken} ${OWN_NAMES[taken]}`,
      );
  }
  return plugin;
}

function isPlugin(value: unknown): value is BackendPlugin {
  const plugin = value as Partial<BackendPlugin> | null | undefined;
  return (
    typeof plugin?.name === 'string' &&
    typeof plugin.create === 'function' &&
    typeof plugin.options?.safeParse === 'function'
  );
}
