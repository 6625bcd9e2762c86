import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { askSocket } from '../../control/index.js';
import { keeperSocket } from '../serving/keep.js';

/** `upgrade`: replaces the engine of `serve --keep` under its guests. */
export function addUpgrade(program: Command): void {
  program
    .command('upgrade')
    .description(
      'replace the engine of serve --keep, or mount --keep, by the program as it is installed now; guests see a pause',
    )
    .argument('<SOCKET>', 'a vhost-user socket that it serves, or the control socket of a mount')
    .action((socket: string) => upgrade(socket));
}

async function upgrade(socket: string): Promise<void> {
  const request = { backend: 'keeper', command: 'upgrade', options: {} };
  const lines = await askSocket(keeperSocket(socket), request);
  if (lines === undefined)
    throw new UsageError(`${socket}: no keeper serves it; start the daemon with --keep`);
  for (const line of lines) process.stdout.write(`${line}\n`);
}
