import type { Command } from 'commander';
import { accessLogSchema, type AccessLogConfig } from '../../plugins/options/config-schema.js';
import { check, describeOptions } from '../../plugins/options/option-descriptions.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

const FLAGS = describeOptions(accessLogSchema).map((option) => ({
  ...option,
  required: false,
  flag: option.name === 'file' ? 'access-log' : `access-log-${option.flag}`,
}));

/** Adds the flags of the access log. */
export function addAccessLogOptions(command: Command): void {
  command.optionsGroup('Access log:');
  for (const option of FLAGS) addFlag(command, option);
}

/**
 * The access log's configuration. The flags decide; `settings` hold where there are none.
 * @returns undefined if none is wanted.
 * @throws UsageError for a wrong value of a flag.
 */
export function accessLogOf(
  values: Values,
  settings: AccessLogConfig | undefined,
): AccessLogConfig | undefined {
  const given = givenOptions(FLAGS, values);
  if (settings === undefined && Object.keys(given).length === 0) return undefined;
  return check(accessLogSchema, { ...settings, ...given }, '', ([key]) => {
    return `--${FLAGS.find(({ name }) => name === key)?.flag ?? String(key)}`;
  });
}
