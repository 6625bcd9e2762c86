import type { AccessLogConfig } from '../../plugins/options/config-schema.js';
import { inheritedFd } from '../../system/index.js';
import type { AccessLog } from '../../trace/access-log.js';
import type { Tracing } from '../../trace/tracing.js';

/** Environment variable with the descriptor of the log, through execve(2). */
const ACCESS_LOG_FD = 'VIRTIOFS_KIT_ACCESS_LOG_FD';

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
  const { AccessLog, openAccessLog, textForm } = await import('../../trace/access-log.js');
  const fd = inheritedFd(ACCESS_LOG_FD) ?? openAccessLog(file);
  if (fd !== undefined) process.env[ACCESS_LOG_FD] = `${fd.value}`;
  return {
    fd: fd?.value,
    begin: (tracing) => {
      delete process.env[ACCESS_LOG_FD];
      return Promise.resolve(new AccessLog(fd, textForm(filter), tracing));
    },
  };
}
