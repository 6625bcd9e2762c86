import type { Command } from 'commander';
import { type BackendCommand, type OfflineCommand, UsageError } from '../../backend/index.js';
import { askSocket } from '../../control/index.js';
import {
  askDaemon,
  check,
  describeOptions,
  offlineEnvironment,
  parseOption,
  Services,
  type BackendRegistry,
  type OptionDescription,
} from '../../plugins/index.js';
import { addLogOptions, servicesOf } from '../serving/log-and-services.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/**
 * The commands that backends declare: `virtiofs-kit memfs snapshot …`. Only the kind of backend
 * that the command line begins with is loaded.
 */
export async function addBackendCommands(
  program: Command,
  registry: BackendRegistry,
  argv: readonly string[],
): Promise<void> {
  const word = argv[0] === 'help' ? argv[1] : argv[0];
  for (const { name, description } of registry.commandGroups) {
    const group = program.command(name).description(description);
    const commands = word === name ? ((await registry.load(name)).commands ?? []) : [];
    for (const command of commands) addBackendCommand(group, name, command, registry);
    addExamples(
      group,
      commands.flatMap(({ examples = [] }) => examples),
    );
    for (const command of group.commands) command.copyInheritedSettings(program);
  }
}

function addBackendCommand(
  group: Command,
  backend: string,
  declared: BackendCommand,
  registry: BackendRegistry,
): void {
  const described = describeOptions(declared.options);
  const positionals = described.filter(({ positional }) => positional);
  const flags = described.filter(({ positional }) => !positional);
  const command = group.command(declared.name).description(declared.description);
  for (const option of described) {
    if (option.positional) command.argument(argumentOf(option), option.description);
    else addFlag(command, option);
  }
  const isOffline = declared.kind === 'offline';
  if (isOffline) addLogOptions(command, declared.logLevel ?? 'warn');
  else if (!('socket' in declared)) {
    command.requiredOption('--control <PATH>', "the daemon's control socket: see serve --control");
  }
  addExamples(command, declared.examples ?? []);
  command.action(async (...words: unknown[]) => {
    const values = words[positionals.length] as Values;
    const given = { ...givenOptions(flags, values), ...givenArguments(positionals, words) };
    const options = check(declared.options, given, '', ([key]) => nameOf(described, key));
    if (isOffline) return runOffline(declared, options, values, registry);
    const request = { backend, command: declared.name, options: given };
    if (!('socket' in declared)) return print(await askDaemon(controlOf(values), request));
    const { path, absent } = declared.socket(options);
    const lines = await askSocket(path, request);
    if (lines === undefined) throw new UsageError(absent);
    return print(lines);
  });
}

async function runOffline(
  command: OfflineCommand,
  options: unknown,
  values: Values,
  registry: BackendRegistry,
): Promise<void> {
  const { logLevel: level = 'warn' } = command;
  const log = (await servicesOf(values, { level }, registry)).get(Services.Logger);
  await print(await command.run(options, offlineEnvironment(registry, log)));
}

async function print(lines: Iterable<string> | AsyncIterable<string>): Promise<void> {
  for await (const line of lines) process.stdout.write(`${line}\n`);
}

/** `<FILE>`, `[FILE]`, or with dots where it takes all that follow. */
function argumentOf({ placeholder = 'VALUE', required, repeatable }: OptionDescription): string {
  const name = repeatable ? `${placeholder}...` : placeholder;
  return required ? `<${name}>` : `[${name}]`;
}

function givenArguments(
  positionals: readonly OptionDescription[],
  words: readonly unknown[],
): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const [index, option] of positionals.entries()) {
    const word = words[index] as string | readonly string[] | undefined;
    if (typeof word === 'string') given[option.name] = parseOption(option, word);
    else if (word !== undefined && word.length > 0) {
      given[option.name] = word.map((each) => parseOption(option, each));
    }
  }
  return given;
}

/** An option's name in an error: its flag, or what stands for it in the help. */
function nameOf(described: readonly OptionDescription[], key: PropertyKey | undefined): string {
  const option = described.find(({ name }) => name === key);
  if (option?.positional === true) return option.placeholder ?? option.name;
  return `--${option?.flag ?? String(key)}`;
}

function addExamples(command: Command, examples: readonly string[]): void {
  if (examples.length === 0) return;
  const lines = examples.map((example) => `  virtiofs-kit ${example}\n`);
  command.addHelpText('after', `\nExamples:\n${lines.join('')}`);
}

function controlOf({ control }: Values): string {
  if (typeof control !== 'string') throw new UsageError('--control is required');
  return control;
}
