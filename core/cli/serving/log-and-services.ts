import type { Command } from 'commander';
import type { Container } from 'inversify';
import { addFlag, type Values } from '../flags.js';
import { logSchema, type LogConfig } from '../../plugins/options/config-schema.js';
import { check, describeOptions } from '../../plugins/options/option-descriptions.js';
import type { BackendRegistry } from '../../plugins/registry.js';

/** Adds the flags of the log. @param level the command's own default. */
export function addLogOptions(command: Command, level?: LogConfig['level']): void {
  command.optionsGroup('Log:');
  for (const option of describeOptions(logSchema)) {
    const initial = option.flag === 'level' ? (level ?? option.initial) : option.initial;
    addFlag(command, { ...option, flag: `log-${option.flag}`, initial });
  }
}

/**
 * The log's configuration. The flags decide; `settings` hold where there are none.
 * @throws UsageError for a wrong value of a flag.
 */
export function logConfigOf(values: Values, settings: Partial<LogConfig>): LogConfig {
  const flags = Object.entries({ level: values['logLevel'], format: values['logFormat'] });
  const given = Object.fromEntries(flags.filter(([, value]) => value !== undefined));
  return check(logSchema, { ...settings, ...given }, '', ([key]) => `--log-${String(key)}`);
}

/**
 * Makes the program's services; with them comes all that serves.
 * @throws UsageError as {@link logConfigOf} does.
 */
export async function servicesOf(
  values: Values,
  settings: Partial<LogConfig>,
  registry: BackendRegistry,
): Promise<Container> {
  const log = logConfigOf(values, settings);
  const { createContainer } = await import('../../plugins/service-container.js');
  return createContainer(log, registry);
}
