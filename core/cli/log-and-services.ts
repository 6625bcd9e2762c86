import type { Command } from 'commander';
import type { Container } from 'inversify';
import { addFlag, type Values } from './flags.js';
import {
  type BackendRegistry,
  check,
  createContainer,
  describeOptions,
  logSchema,
  type LogConfig,
} from '../plugins/index.js';

/** Adds the flags of the log. */
export function addLogOptions(command: Command): void {
  command.optionsGroup('Log:');
  for (const option of describeOptions(logSchema)) {
    addFlag(command, { ...option, flag: `log-${option.flag}` });
  }
}

/**
 * Makes the program's services. The flags configure the log; `settings` hold where there are none.
 * @throws UsageError for a wrong value of a flag.
 */
export function servicesOf(
  values: Values,
  settings: Partial<LogConfig>,
  registry: BackendRegistry,
): Container {
  const flags = Object.entries({ level: values['logLevel'], format: values['logFormat'] });
  const given = Object.fromEntries(flags.filter(([, value]) => value !== undefined));
  const log = check(logSchema, { ...settings, ...given }, '', ([key]) => `--log-${String(key)}`);
  return createContainer(log, registry);
}
