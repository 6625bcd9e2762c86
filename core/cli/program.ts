import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { BackendRegistry } from '../plugins/registry.js';
import { BackendOptions } from './backend-options.js';
import { report, USAGE } from './report.js';

/** What the commands are made from. */
interface Parts {
  readonly program: Command;
  readonly registry: BackendRegistry;
  readonly backend: BackendOptions;
  /** The program's words. */
  readonly argv: readonly string[];
}

/**
 * Adds each command, in the order of the help. The modules of a command are loaded only for it and
 * for the help, because a daemon's start is mostly the loading of modules.
 */
const COMMANDS: Readonly<Record<string, (parts: Parts) => Promise<void>>> = {
  serve: async ({ program, registry, backend }) =>
    (await import('./commands/serve.js')).addServe(program, registry, backend),
  upgrade: async ({ program }) => (await import('./commands/upgrade.js')).addUpgrade(program),
  reload: async ({ program }) => (await import('./commands/reload.js')).addReload(program),
  status: async ({ program }) => (await import('./commands/status.js')).addStatus(program),
  top: async ({ program }) => (await import('./commands/status.js')).addTop(program),
  doctor: async ({ program, registry }) =>
    (await import('./commands/doctor.js')).addDoctor(program, registry),
  trace: async ({ program, backend }) => (await import('./commands/trace.js')).addTrace(program, backend),
  guest: async ({ program, backend }) => (await import('./commands/guest.js')).addGuest(program, backend),
  mount: async ({ program, backend }) => (await import('./commands/mount.js')).addMount(program, backend),
  sandbox: async ({ program, argv }) => (await import('./commands/sandbox.js')).addSandbox(program, argv),
  virtiofsd: async ({ program, registry }) =>
    (await import('./virtiofsd/program.js')).addVirtiofsd(program, registry),
  backends: async ({ program, registry }) =>
    (await import('./commands/backends.js')).addBackends(program, registry),
  'check-backend': async ({ program, registry, backend }) =>
    (await import('./commands/check-backend.js')).addCheckBackend(program, registry, backend),
  init: async ({ program }) => (await import('./commands/init.js')).addInit(program),
  bench: async ({ program }) => (await import('./commands/bench.js')).addBench(program),
};

/**
 * Runs a command line. A mistake in it is one line on standard error and exit code 2; a fault of
 * the program shows its stack and gives exit code 1.
 * @param argv the words after the program's name.
 */
export async function runProgram(argv: readonly string[]): Promise<void> {
  // The reader of the output may have closed it, as `head` does. That is no fault of the program,
  // but not everything was written.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exitCode = 1;
  });
  try {
    const program = await createProgram(argv);
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    process.exitCode =
      error instanceof CommanderError
        ? exitCodeOf(error)
        : report(error, /--log-level[= ]debug/.test(argv.join(' ')));
  }
}

async function createProgram(argv: readonly string[]): Promise<Command> {
  const registry = new BackendRegistry();
  const backend = await BackendOptions.find(registry, argv);
  const program = new Command('virtiofs-kit')
    .description(
      'Serves file systems into virtual machines (virtio-fs), from backends written in TypeScript.',
    )
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .enablePositionalOptions()
    .configureHelp({ helpWidth: process.stdout.columns ?? 110, sortSubcommands: false })
    .configureOutput({ outputError: (text, write) => write(oneLine(text)) })
    .addHelpText('after', HELP)
    .exitOverride();
  const parts: Parts = { program, registry, backend, argv };
  const [word = ''] = argv;
  if (Object.hasOwn(COMMANDS, word)) await COMMANDS[word]!(parts);
  else {
    for (const add of Object.values(COMMANDS)) await add(parts);
    const { addBackendCommands } = await import('./commands/backend-commands.js');
    await addBackendCommands(program, registry, argv);
  }
  for (const command of program.commands) command.copyInheritedSettings(program);
  return program;
}

const HELP = `
Start here:
  virtiofs-kit guest --backend memfs -- sh -c 'echo hi > /mnt/x && cat /mnt/x'
  virtiofs-kit backends
  virtiofs-kit serve --help
`;

/** Converts commander's `error: unknown option '--x'\n(Did you mean --y?)` to our form. */
function oneLine(text: string): string {
  const line = text
    .trim()
    .replace(/^error: /, '')
    .replace(/\n\(Did you mean (.*)\?\)$/, '; did you mean $1?');
  return `virtiofs-kit: ${line.replaceAll(/'(--?[^']*)'/g, '$1')}\n`;
}

/** Commander has said already what is wrong. */
function exitCodeOf({ exitCode }: CommanderError): number {
  return exitCode === 0 ? 0 : USAGE;
}

function version(): string {
  const require = createRequire(import.meta.url);
  return (require('virtiofs-kit/package.json') as { version: string }).version;
}
