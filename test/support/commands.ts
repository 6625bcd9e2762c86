import assert from 'node:assert/strict';
import type { BackendPlugin, Logger } from '../../core/backend/index.js';
import { BackendRegistry, check, offlineEnvironment } from '../../core/plugins/index.js';

/** Runs an offline command of a plugin as the command line does. @returns the lines it shows. */
export async function runOffline<T>(
  { commands = [] }: BackendPlugin<T>,
  name: string,
  options: object,
  log: Logger,
): Promise<string[]> {
  const command = commands.find((each) => each.name === name);
  assert.equal(command?.kind, 'offline');
  const checked = check(command.options, options, '', ([key]) => `--${String(key)}`);
  const lines = [];
  for await (const line of await command.run(checked, offlineEnvironment(new BackendRegistry(), log))) {
    lines.push(line);
  }
  return lines;
}
