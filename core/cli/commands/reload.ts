import type { Command } from 'commander';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { UsageError } from '../../backend/index.js';
import { askDaemon, DAEMON_ITSELF, readConfig } from '../../plugins/index.js';

/** `reload`: has a daemon serve its configuration as it is now. */
export function addReload(program: Command): void {
  program
    .command('reload')
    .description('have a daemon serve another configuration; guests of exports that stay notice nothing')
    .argument('<CONTROL>', 'its control socket: serve --config FILE --control CONTROL')
    .option('--config <FILE>', 'the configuration file as it is now')
    .option('--log-level <LEVEL>', 'debug, info, warn, error or silent, until it is changed again')
    .action(reload);
}

interface Options {
  readonly config?: string;
  readonly logLevel?: string;
}

async function reload(control: string, { config, logLevel }: Options): Promise<void> {
  if (config === undefined && logLevel === undefined)
    throw new UsageError('--config or --log-level is required');
  const asked: Record<string, unknown>[] = [];
  if (config !== undefined) {
    // A mistake in the file is told here, before anybody is asked.
    readConfig(config);
    asked.push({ file: resolve(config), text: readFileSync(config, 'utf8') });
  }
  if (logLevel !== undefined) asked.push({ logLevel });
  for (const options of asked) {
    const lines = await askDaemon(control, { backend: DAEMON_ITSELF, command: 'reload', options });
    process.stdout.write(lines.map((line) => `${line}\n`).join(''));
  }
}
