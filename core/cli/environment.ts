import type { Command } from 'commander';
import type { Container } from 'inversify';
import { addFlag, type Values } from './flags.js';
import { check, createContainer, describeOptions, logSchema, type LogConfig } from '../plugins/index.js';

/** Adds the flags that say what is logged. */
export function addLogOptions(command: Command): void {
  command.optionsGroup('Log:');
  for (const option of describeOptions(logSchema)) {
    addFlag(command, { ...option, flag: `log-${option.flag}` });
  }
}

/**
 * The program's parts, their log as flags say, and where those say nothing, as `settings` do.
 * @throws UsageError for a flag's value.
 */
export function partsOf(values: Values, settings: Partial<LogConfig>): Container {
  const flags = Object.entries({ level: values['logLevel'], format: values['logFormat'] });
  const given = Object.fromEntries(flags.filter(([, value]) => value !== undefined));
  return createContainer(check(logSchema, { ...settings, ...given }, '', ([key]) => `--log-${String(key)}`));
}
