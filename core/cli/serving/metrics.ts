import { type Logger, UsageError } from '../../backend/index.js';
import type { DaemonFigures, MetricsServer } from '../../monitoring/index.js';
import { type Fd, inheritedFd, UnixListener } from '../../system/index.js';

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
  const loading = whenCompiled(() => import('../../monitoring/index.js'));
  const { listenForMetrics, MetricsServer, parseMetricsAddress } = await loading;
  const parsed = parseMetricsAddress(address);
  const where = inheritedFd(METRICS_FD) ?? ('path' in parsed ? parsed.path : listenForMetrics(parsed));
  if (typeof where !== 'string') process.env[METRICS_FD] = `${where.value}`;
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

/**
 * Loads modules and waits until the WebAssembly of theirs is compiled. From Node 22 on, `node:http`
 * begins to compile some when it is loaded; if a confined process has given up machine code before
 * that ends, V8 ends the process.
 */
async function whenCompiled<T>(load: () => Promise<T>): Promise<T> {
  const { WebAssembly: assembly } = globalThis as unknown as { WebAssembly: Compiler };
  const { compile } = assembly;
  const compiling: Promise<unknown>[] = [];
  assembly.compile = (code) => {
    const result = compile(code);
    compiling.push(result);
    return result;
  };
  try {
    return await load();
  } finally {
    assembly.compile = compile;
    await Promise.allSettled(compiling);
  }
}

interface Compiler {
  compile(code: unknown): Promise<unknown>;
}

/** What the engines of a keeper inherit. */
export interface KeptMetrics {
  readonly fd: Fd;
  /** Removes the socket, if it has a path. */
  close(): void;
}

/**
 * Listens in the place of engines, of which one at a time serves: what is asked between two of them
 * waits.
 * @param inheritedAs the descriptor's number in an engine.
 * @throws UsageError
 */
export async function keepMetrics(address: string, inheritedAs: number): Promise<KeptMetrics> {
  const { listenForMetrics, parseMetricsAddress } = await import('../../monitoring/index.js');
  const parsed = parseMetricsAddress(address);
  let kept: KeptMetrics;
  if ('path' in parsed) {
    try {
      kept = UnixListener.listen(parsed.path);
    } catch (error) {
      throw new UsageError(`--metrics ${address}: ${(error as Error).message}`, { cause: error });
    }
  } else {
    const listening = listenForMetrics(parsed);
    kept = { fd: listening.value, close: () => listening.close() };
  }
  process.env[METRICS_FD] = `${inheritedAs}`;
  return kept;
}
