import type { SecureContext } from 'node:tls';
import { type Dispatcher, Pool, ProxyAgent } from 'undici';
import { CONNECT_TIMEOUT_MS, DirectConnections } from './direct.js';
import { proxyFor } from './proxies.js';
import type { Server } from './proxies.js';

/**
 * Milliseconds after which an idle connection is closed. Servers close theirs after 5 seconds or
 * more.
 */
const IDLE_MAX_MS = 4_000;

/**
 * @param origin such as `https://bucket.s3.example`
 * @param secureContext the authorities that are trusted, instead of Node's defaults
 * @param connections most connections; null: as many as there are requests at a time
 * @returns a pool of connections.
 */
export function connectionsTo(
  origin: string,
  connections: number | null = null,
  secureContext?: SecureContext,
): Dispatcher {
  // The caller's signal ends requests that take too long.
  return new Pool(origin, {
    connections,
    keepAliveTimeout: IDLE_MAX_MS,
    keepAliveMaxTimeout: IDLE_MAX_MS,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(secureContext === undefined ? {} : { secureContext }) },
  });
}

/** As {@link connectionsTo}, by way of a proxy. */
function connectionsBy(proxy: URL, origin: string, secureContext: SecureContext | undefined): Dispatcher {
  const tls = { timeout: CONNECT_TIMEOUT_MS, ...(secureContext === undefined ? {} : { secureContext }) };
  const agent = new ProxyAgent({
    uri: proxy.href,
    // Proxies may refuse tunnels to what is not encrypted.
    proxyTunnel: false,
    keepAliveTimeout: IDLE_MAX_MS,
    keepAliveMaxTimeout: IDLE_MAX_MS,
    headersTimeout: 0,
    bodyTimeout: 0,
    requestTls: tls,
    proxyTls: tls,
  });
  return agent.compose((dispatch) => (options, handler) => dispatch({ ...options, origin }, handler));
}

/** Connections to servers, each kept as long as this is. */
export class Connections {
  readonly #pools = new Map<string, Dispatcher>();
  readonly #direct = new Map<string, DirectConnections>();
  readonly #secureContext: SecureContext | undefined;

  /** @param secureContext the authorities that are trusted, instead of Node's defaults. */
  constructor(secureContext?: SecureContext) {
    this.#secureContext = secureContext;
  }

  to(server: Server): Dispatcher {
    const origin = originOf(server);
    let pool = this.#pools.get(origin);
    if (pool === undefined) {
      const proxy = proxyFor(server);
      pool =
        proxy === undefined
          ? connectionsTo(origin, null, this.#secureContext)
          : connectionsBy(proxy, origin, this.#secureContext);
      this.#pools.set(origin, pool);
    }
    return pool;
  }

  /** @returns undefined where the server is reached by way of a proxy. */
  directTo(server: Server): DirectConnections | undefined {
    if (proxyFor(server) !== undefined) return undefined;
    const origin = originOf(server);
    let connections = this.#direct.get(origin);
    if (connections === undefined) {
      connections = new DirectConnections(server, this.#secureContext);
      this.#direct.set(origin, connections);
    }
    return connections;
  }

  close(): void {
    for (const pool of this.#pools.values()) void pool.destroy();
    for (const connections of this.#direct.values()) connections.close();
  }
}

function originOf({ protocol, hostname, port }: Server): string {
  return `${protocol}//${hostname}${port === undefined ? '' : `:${port}`}`;
}
