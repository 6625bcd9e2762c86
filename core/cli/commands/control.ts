import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { askDaemon, check, describeOptions, toFlag, type BackendRegistry } from '../../plugins/index.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/**
 * The commands of the kind of backend that a command line begins with: `virtiofs-kit memfs snapshot
 * …`.
 */
export async function addBackendCommands(
  program: Command,
  registry: BackendRegistry,
  argv: readonly string[],
): Promise<void> {
  for (const name of registry.names) {
    // Only the one that is asked for is loaded.
    const commands = argv[0] === name ? ((await registry.load(name)).commands ?? []) : [];
    if (commands.length === 0) continue;
    const group = program.command(name).description(`commands of ${name}, for a running daemon`);
    for (const { name: word, description, options } of commands) {
      const flags = describeOptions(options);
      const command = group.command(word).description(description);
      for (const flag of flags) addFlag(command, flag);
      command
        .requiredOption('--control <PATH>', "the daemon's control socket: see serve --control")
        .action(async (values: Values) => {
          const given = givenOptions(flags, values);
          check(options, given, '', ([key]) => `--${toFlag(String(key))}`);
          const request = { backend: name, command: word, options: given };
          const lines = await askDaemon(controlOf(values), request);
          process.stdout.write(lines.map((line) => `${line}\n`).join(''));
        });
      command.copyInheritedSettings(program);
    }
  }
}

function controlOf({ control }: Values): string {
  if (typeof control !== 'string') throw new UsageError('--control is required');
  return control;
}
