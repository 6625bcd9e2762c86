import { resolve } from 'node:path';
import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import type { Values } from '../flags.js';
import { checkName, sandboxNames } from '../detached-sandboxes/places.js';
import { HOLD, holdSandboxes } from '../detached-sandboxes/start.js';
import { visit } from '../detached-sandboxes/visit.js';
import { stopSignal } from '../serving/signals.js';
import { attended, placeAndTag, portsOf, terminalSize, variable, wantsTerminal } from './sandbox-words.js';

/** Most forks that one command makes. */
const MAX_FORKS = 100;

/** Adds the commands for sandboxes that `sandbox run --detach` has left running. */
export function addSandboxCommands(sandbox: Command): void {
  sandbox
    .command('ps')
    .description('list the names of sandboxes that run')
    .action(async () => {
      for (const name of await sandboxNames()) process.stdout.write(`${name}\n`);
    });
  sandbox
    .command('exec')
    .description('run a command in a sandbox; without one, a shell')
    .argument('<NAME>')
    .argument('[COMMAND...]')
    .passThroughOptions()
    .option('-t, --tty', 'give it a terminal; default: only a shell has one')
    .option('-e, --env <NAME[=VALUE]>', 'variable of its environment; repeatable', gather, [])
    .option('--user <USER[:GROUP]>', 'who runs it')
    .option('--cwd <DIR>', 'where it starts')
    .action(exec);
  sandbox
    .command('fork')
    .description('start sandboxes with the files that one has now: NAME-1 and so on')
    .argument('<NAME>')
    .argument('[COUNT]', 'of sandboxes', '1')
    .action(async (name: string, count: string) => {
      const number = /^\d{1,3}$/.test(count) ? Number(count) : 0;
      if (number < 1 || number > MAX_FORKS) throw new UsageError(`${count}: from 1 to ${MAX_FORKS} forks`);
      const taken = new Set(await sandboxNames());
      const names: string[] = [];
      for (let n = 1; names.length < number; n++) {
        const fork = checkName(`${name}-${n}`);
        if (!taken.has(fork)) names.push(fork);
      }
      process.exitCode = await visit(name, { command: 'fork', names });
      for (const fork of names) process.stdout.write(`${fork}\n`);
    });
  sandbox
    .command('diff')
    .description('list what was added, changed and removed in a sandbox')
    .argument('<NAME>')
    .argument('[PATH]', 'what differs there and below', '/')
    .option('-l, --long', 'with what differs: content, mode, owner, where a link leads, …')
    .option('-u, --unified', 'as a patch, with the old and new lines')
    .action(async (name: string, path: string, { long, unified }: Values) => {
      if (long === true && unified === true) throw new UsageError('--long, --unified: give one of them');
      const form = unified === true ? 'unified' : long === true ? 'long' : 'list';
      process.exitCode = await visit(name, { command: 'diff', path, form });
    });
  sandbox
    .command('merge')
    .description('carry out in a sandbox what one of its forks has changed since it was forked')
    .argument('<NAME>')
    .argument('<FORK>')
    .action(async (name: string, fork: string) => {
      process.exitCode = await visit(name, { command: 'merge', fork });
    });
  sandbox
    .command('watch')
    .description('tell what is changed in a sandbox, until it ends')
    .argument('<NAME>')
    .argument('[PATH]', 'what is changed there and below', '/')
    .action(async (name: string, path: string) => {
      process.exitCode = await visit(name, { command: 'watch', path });
    });
  sandbox
    .command('read')
    .description('print a file of a sandbox, without its help')
    .argument('<NAME>')
    .argument('<PATH>')
    .action(async (name: string, path: string) => {
      process.exitCode = await visit(name, { command: 'read', path });
    });
  sandbox
    .command('write')
    .description('make a file of a sandbox, or replace its content, from standard input')
    .argument('<NAME>')
    .argument('<PATH>')
    .action(async (name: string, path: string) => {
      const { stdin } = process;
      try {
        process.exitCode = await visit(name, { command: 'write', path }, { stdin });
      } finally {
        stdin.destroy();
      }
    });
  sandbox
    .command('list')
    .description('list the names in a directory of a sandbox')
    .argument('<NAME>')
    .argument('[PATH]', 'the directory', '/')
    .action(async (name: string, path: string) => {
      process.exitCode = await visit(name, { command: 'list', path });
    });
  sandbox
    .command('publish')
    .description("have a port of this host's loopback device lead to one of a sandbox; prints it")
    .argument('<NAME>')
    .argument('<PORT[:PORT]>', 'of this host, where 0 is any that is free, and of the sandbox')
    .action(async (name: string, ports: string) => {
      if (!/^\d{1,5}(:\d{1,5})?$/.test(ports)) throw new UsageError(`${ports}: must be PORT or PORT:PORT`);
      process.exitCode = await visit(name, { command: 'publish', ...portsOf(ports) });
    });
  sandbox
    .command('export')
    .description('write what was changed as a layer of a container image')
    .argument('<NAME>')
    .argument('<FILE>', 'archive to write, gzipped if it ends in gz')
    .action(async (name: string, file: string) => {
      process.exitCode = await visit(name, { command: 'export', file: resolve(file) });
    });
  sandbox
    .command('commit')
    .description('write an image with the changes into an OCI layout, or to a registry')
    .argument('<NAME>')
    .argument('<DIR[:TAG]>', 'or docker://HOST/NAME:TAG')
    .action(async (name: string, place: string) => {
      const [directory, tag] = placeAndTag(place);
      process.exitCode = await visit(name, { command: 'commit', directory, tag });
    });
  sandbox
    .command('rm')
    .description('end sandboxes')
    .argument('<NAME...>')
    .action(async (names: readonly string[]) => {
      for (const name of names) process.exitCode = await visit(name, { command: 'rm' });
    });
  // What `run --detach` starts.
  sandbox.command(HOLD, { hidden: true }).argument('<KEY>').action(holdSandboxes);
}

function gather(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

async function exec(name: string, words: readonly string[], values: Values): Promise<void> {
  const hasTerminal = wantsTerminal(words, values);
  const env = (values['env'] as readonly string[]).flatMap(variable);
  const request = {
    command: 'exec' as const,
    words: [...words],
    env: Object.fromEntries(hasTerminal ? [['TERM', process.env['TERM'] ?? 'xterm'], ...env] : env),
    user: values['user'] as string | undefined,
    cwd: values['cwd'] as string | undefined,
    tty: hasTerminal ? terminalSize() : undefined,
  };
  let resolveId!: (id: number) => void;
  const id = new Promise<number>((go) => {
    resolveId = go;
  });
  const { stdin } = process;
  try {
    process.exitCode = await attended(stopSignal(), hasTerminal, {
      kill: async (signal) => visit(name, { command: 'kill', id: await id, signal }),
      resize: (size) => void id.then((number) => visit(name, { command: 'resize', id: number, ...size })),
      run: () => visit(name, request, { stdin, onStarted: resolveId }),
    });
  } finally {
    stdin.destroy();
  }
}
