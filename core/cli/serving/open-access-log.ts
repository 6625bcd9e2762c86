import type { Command } from 'commander';
import { accessLogSchema, type AccessLogConfig } from '../../plugins/options/config-schema.js';
import { check, describeOptions } from '../../plugins/options/option-descriptions.js';
import type { Fd, OwnedFd } from '../../system/index.js';
import type { AccessLog } from '../../trace/access-log.js';
import type { Tracing } from '../../trace/tracing.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/** Environment variable with the descriptor of the log, through execve(2). */
const ACCESS_LOG_FD = 'VIRTIOFS_KIT_ACCESS_LOG_FD';

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

/** Where each request will have its line, when there are requests. */
export interface AccessLogTarget {
  /** The open file; undefined for standard output. */
  readonly fd: number | undefined;
  begin(tracing: Tracing): Promise<AccessLog>;
}

/**
 * Opens the log, before the process confines itself and its program is executed anew: that one
 * finds the descriptor in its environment.
 * @throws UsageError
 */
export async function openAccessLogTarget({ file, ...filter }: AccessLogConfig): Promise<AccessLogTarget> {
  // Only those who want the log pay for the modules.
  const { AccessLog, openAccessLog } = await import('../../trace/access-log.js');
  const fd = (await inherited()) ?? openAccessLog(file);
  if (fd !== undefined) process.env[ACCESS_LOG_FD] = `${fd.value}`;
  return {
    fd: fd?.value,
    begin: (tracing) => {
      delete process.env[ACCESS_LOG_FD];
      return Promise.resolve(new AccessLog(fd, filter, tracing));
    },
  };
}

async function inherited(): Promise<OwnedFd | undefined> {
  const text = process.env[ACCESS_LOG_FD];
  if (text === undefined || !/^\d+$/.test(text)) return undefined;
  const { OwnedFd: Owned } = await import('../../system/index.js');
  return new Owned(Number(text) as Fd);
}
