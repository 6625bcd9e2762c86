import type { Logger } from '../backend/index.js';
import type { DaemonFigures, MetricsServer } from '../monitoring/index.js';
import { type Fd, OwnedFd } from '../system/index.js';

/** Environment variable with the descriptor that listens for Prometheus, through execve(2). */
const METRICS_FD = 'VIRTIOFS_KIT_METRICS_FD';

/** Where metrics will be served when there is something to see. */
export interface MetricsListener {
  /** The path of the socket to make; undefined for a port. */
  readonly path: string | undefined;
  /** The descriptor that listens on a port already; undefined for a path. */
  readonly fd: number | undefined;
  serve(collect: () => Promise<DaemonFigures>, log: Logger): Promise<MetricsServer>;
}

/**
 * Listens on a port, before the process confines itself and its program is executed anew: that one
 * finds the descriptor in its environment.
 * @param address as `--metrics` takes it.
 * @throws UsageError
 */
export async function openMetrics(address: string): Promise<MetricsListener> {
  // Only those who ask for figures pay for the modules.
  const { listenForMetrics, MetricsServer, parseMetricsAddress } = await import('../monitoring/index.js');
  const parsed = parseMetricsAddress(address);
  let where: string | OwnedFd;
  if ('path' in parsed) where = parsed.path;
  else {
    where = inherited() ?? listenForMetrics(parsed);
    process.env[METRICS_FD] = `${where.value}`;
  }
  return {
    path: typeof where === 'string' ? where : undefined,
    fd: typeof where === 'string' ? undefined : where.value,
    async serve(collect, log) {
      const server = await MetricsServer.start(where, collect, log);
      log.info({ ...parsed }, 'serving metrics');
      return server;
    },
  };
}

function inherited(): OwnedFd | undefined {
  const text = process.env[METRICS_FD];
  return text !== undefined && /^\d+$/.test(text) ? new OwnedFd(Number(text) as Fd) : undefined;
}
