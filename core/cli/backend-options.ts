import type { Command } from 'commander';
import type { ZodType } from 'zod';
import { UsageError, type BackendSpec } from '../backend/index.js';
import {
  cacheSchema,
  exportSchema,
  limitsSchema,
  type ExportConfig,
} from '../plugins/options/config-schema.js';
import { check, describeOptions, type OptionDescription } from '../plugins/options/option-descriptions.js';
import type { BackendRegistry } from '../plugins/registry.js';
import { addFlag, givenOptions } from './flags.js';

type Group = 'cache' | 'limits';

/** Flags of every command that serves a backend, in addition to the backend's own. */
const SETTINGS: readonly { readonly group: Group; readonly option: OptionDescription }[] = [
  ...describeOptions(cacheSchema).map((option) => settingOf('cache', option)),
  ...describeOptions(limitsSchema).map((option) => settingOf('limits', option)),
];

const locksSchema = exportSchema.pick({ locks: true });

function settingOf(group: Group, option: OptionDescription): { group: Group; option: OptionDescription } {
  const prefix = group === 'limits' ? 'max-' : option.name === 'data' ? 'cache-' : '';
  return { group, option: { ...option, flag: prefix + option.flag } };
}

/** Help of `--watch`. */
const WATCH = 'tell guests, and mounts on this host, what others change behind their back';

/** The backend and its settings, as a command line gives them. */
export interface BackendChoice {
  readonly spec: BackendSpec;
  readonly settings: Pick<ExportConfig, 'readOnly' | 'watch' | 'locks' | 'cache' | 'limits'>;
}

/**
 * The flags of the backend on one command line. A backend's options are known only once `--backend`
 * is. So the command line is read twice: first for the backend's name, then with the flags that its
 * schema describes.
 */
export class BackendOptions {
  readonly #type: string | undefined;
  readonly #own: readonly OptionDescription[];
  /** The program's. */
  readonly registry: BackendRegistry;

  private constructor(
    registry: BackendRegistry,
    type: string | undefined,
    own: readonly OptionDescription[],
  ) {
    this.registry = registry;
    this.#type = type;
    this.#own = own;
  }

  /** Reads the backend's name from a command line, and loads its options. */
  static async find(registry: BackendRegistry, argv: readonly string[]): Promise<BackendOptions> {
    const type = backendName(argv);
    const own = type === undefined ? [] : describeOptions((await registry.load(type)).options);
    return new BackendOptions(registry, type, own);
  }

  /**
   * Adds the flags to a command. If a backend's option has the name of a general flag, the flag is
   * the backend's option.
   */
  addTo(command: Command): void {
    const { names } = this.registry;
    command.optionsGroup('Backend:');
    command.option(
      '--backend <NAME>',
      `what to serve: ${names.join(', ')}, an npm package, or ./a/module.js`,
    );
    const taken = new Set(command.options.map((option) => option.long));
    for (const option of this.#own) {
      if (taken.has(`--${option.flag}`)) {
        throw new UsageError(
          `backend ${this.#type}: its option ${option.flag} is an option of this command: use a config file`,
        );
      }
      addFlag(command, option);
    }
    command.optionsGroup('Any backend:');
    if (!this.has('read-only')) command.option('--read-only', 'refuse every change');
    if (!this.has('watch')) command.option('--watch', WATCH);
    for (const option of describeOptions(locksSchema)) if (!this.has(option.flag)) addFlag(command, option);
    for (const { option } of SETTINGS) if (!this.has(option.flag)) addFlag(command, option);
  }

  /** Whether a flag is an option of the backend. */
  has(flag: string): boolean {
    return this.#own.some((option) => option.flag === flag);
  }

  /**
   * The backend and its settings from parsed flags.
   * @throws UsageError if no backend is named.
   */
  choice(values: Readonly<Record<string, unknown>>): BackendChoice {
    if (this.#type === undefined) {
      throw new UsageError(
        `--backend is required: one of ${this.registry.names.join(', ')}, a package or a module`,
      );
    }
    return {
      spec: { type: this.#type, ...givenOptions(this.#own, values) },
      settings: {
        readOnly: !this.has('read-only') && values['readOnly'] === true,
        watch: !this.has('watch') && values['watch'] === true,
        ...check(
          locksSchema,
          this.has('locks') ? {} : givenOptions(describeOptions(locksSchema), values),
          '',
          () => '--locks',
        ),
        cache: this.#group('cache', cacheSchema, values),
        limits: this.#group('limits', limitsSchema, values),
      },
    };
  }

  #group<T>(group: Group, schema: ZodType<T>, values: Readonly<Record<string, unknown>>): T {
    const members = SETTINGS.filter((member) => member.group === group && !this.has(member.option.flag));
    const flags = new Map(members.map(({ option }) => [option.name, option.flag]));
    const given = givenOptions(
      members.map(({ option }) => option),
      values,
    );
    return check(schema, given, '', ([name]) => `--${flags.get(String(name)) ?? String(name)}`);
  }

  /** Names an option in an error as it is written on the command line. */
  readonly name = (path: readonly PropertyKey[]): string => {
    const option = this.#own.find(({ name }) => name === path[0]);
    const rest = path.slice(1).map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`));
    return `--${option?.flag ?? String(path[0])}${rest.join('')}`;
  };
}

/**
 * The value of `--backend` in the words before `--`. `--shared-dir` alone means passthrough, as
 * with virtiofsd.
 */
function backendName(argv: readonly string[]): string | undefined {
  const end = argv.indexOf('--');
  const own = end < 0 ? argv : argv.slice(0, end);
  for (const [index, word] of own.entries()) {
    if (word === '--backend') return own[index + 1];
    if (word.startsWith('--backend=')) return word.slice('--backend='.length);
  }
  return own.some((word) => /^--shared-dir(=|$)/.test(word)) ? 'passthrough' : undefined;
}
