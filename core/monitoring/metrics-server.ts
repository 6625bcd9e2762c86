import { createServer, type Server } from 'node:http';
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { UsageError, type Logger } from '../backend/index.js';
import { isPathTaken } from '../control/index.js';
import { listenOnLoopback, type OwnedFd, SystemError } from '../system/index.js';
import type { DaemonFigures } from './figures.js';

/** Where metrics are served: a unix socket, or a port of this host's loopback interface. */
export type MetricsAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Prometheus asks with a few hundred bytes. */
const MAX_HEADER_BYTES = 8192;
const MAX_CONNECTIONS = 16;
const TIMEOUT_MS = 10_000;
/** Between two collections of the figures, at least, in ms: any user of the host may ask. */
const PAUSE_MS = 50;

/**
 * Reads `unix:PATH`, `PORT`, `127.0.0.1:PORT` or `[::1]:PORT`. Figures tell much of what guests do,
 * and nobody has to say who he is: other addresses are refused.
 * @throws UsageError
 */
export function parseMetricsAddress(text: string): MetricsAddress {
  if (text.startsWith('unix:') && text.length > 5) return { path: text.slice(5) };
  const [, host = '127.0.0.1', digits] = /^(?:\[?([0-9a-f.:]+?)\]?:)?(\d{1,5})$/i.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port < 1 || port > 65_535) {
    throw new UsageError(`--metrics ${text}: must be PORT, 127.0.0.1:PORT, [::1]:PORT or unix:PATH`);
  }
  if (!host.startsWith('127.') && host !== '::1') {
    throw new UsageError(
      `--metrics ${text}: only addresses of the loopback interface; forward it if need be`,
    );
  }
  if (isIP(host) === 0) throw new UsageError(`--metrics ${text}: ${host} is no IP address`);
  return { host, port };
}

/**
 * Listens on a port. To be called before the process confines itself, which takes its network away:
 * what listens already goes on.
 * @throws UsageError if the port cannot be had.
 */
export function listenForMetrics(address: { readonly host: string; readonly port: number }): OwnedFd {
  try {
    return listenOnLoopback(address.host, address.port);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new UsageError(`--metrics ${address.host}:${address.port}: ${error.message}`, { cause: error });
  }
}

/**
 * Does something for all who ask meanwhile. Who asks while it is done gets what comes of the next
 * time, which begins {@link PAUSE_MS} after this one did.
 */
function together<T>(work: () => Promise<T>): () => Promise<T> {
  let began = -Infinity;
  let running: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | undefined;
  const begin = async (): Promise<T> => {
    await running;
    const left = began + PAUSE_MS - performance.now();
    if (left > 0) await sleep(left);
    began = performance.now();
    next = undefined;
    const result = work();
    running = result.catch(() => undefined);
    return result;
  };
  return () => (next ??= begin());
}

/** Serves figures to Prometheus: `GET /metrics`. */
export class MetricsServer {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /**
   * @param where the path of a unix socket, or a descriptor that listens, which is the server's
   * from here on.
   * @param collect gives the figures. A scrape waits for it.
   * @throws UsageError if the socket cannot be had.
   */
  static async start(
    where: string | OwnedFd,
    collect: () => Promise<DaemonFigures>,
    log: Logger,
  ): Promise<MetricsServer> {
    if (typeof where === 'string' && (await isPathTaken(where))) {
      throw new UsageError(`--metrics unix:${where}: another process listens there`);
    }
    // Only those who ask for figures pay for the library.
    const { CONTENT_TYPE, prometheusText } = await import('./prometheus.js');
    const text = together(async () => prometheusText(await collect(), log));
    const server = createServer(
      { maxHeaderSize: MAX_HEADER_BYTES, requestTimeout: TIMEOUT_MS, headersTimeout: TIMEOUT_MS },
      (request, response) => {
        const { method, url } = request;
        if (method !== 'GET' || url === undefined || url.replace(/\?.*/s, '') !== '/metrics') {
          response.writeHead(method === 'GET' ? 404 : 405).end();
          return;
        }
        text().then(
          (body) => response.writeHead(200, { 'content-type': CONTENT_TYPE }).end(body),
          (error: unknown) => {
            log.error({ err: error }, 'the figures could not be collected');
            response.writeHead(500).end();
          },
        );
      },
    );
    server.maxConnections = MAX_CONNECTIONS;
    server.timeout = TIMEOUT_MS;
    await new Promise<void>((resolve, reject) => {
      server.once('listening', resolve);
      server.once('error', (error) =>
        reject(new UsageError(`--metrics: ${error.message}`, { cause: error })),
      );
      if (typeof where === 'string') server.listen(where);
      else server.listen({ fd: where.take() });
    });
    server.on('error', (error) => log.error({ err: error }, 'metrics are not served any more'));
    server.unref();
    return new MetricsServer(server);
  }

  /** Ends every connection, and stops listening. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
