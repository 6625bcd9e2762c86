import { BlockList, isIP } from 'node:net';
import { UsageError } from '../../../core/backend/index.js';

/* The HTTP proxies that the environment names, as curl and the AWS CLI understand it. */

/** A server as requests name it. */
export interface Server {
  /** Such as `https:`. */
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number | undefined;
}

/**
 * The proxy for a server: `HTTPS_PROXY` or `HTTP_PROXY`, by the protocol of the server, unless
 * `NO_PROXY` names it; in lower or upper case.
 * @returns undefined where the server is reached without one.
 * @throws UsageError if the variable is no URL of a proxy.
 */
export function proxyFor(server: Server, environment: NodeJS.ProcessEnv = process.env): URL | undefined {
  const name = server.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const value = environment[name.toLowerCase()] ?? environment[name] ?? '';
  if (value === '' || isExempt(server, environment['no_proxy'] ?? environment['NO_PROXY'] ?? '')) {
    return undefined;
  }
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(value) ? value : `http://${value}`;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new UsageError(`${name}: is no URL of a proxy, such as http://proxy.example:3128`);
  }
  return url;
}

/** As {@link proxyFor}, for the server of an endpoint, or Amazon's. */
export function proxyTo(endpoint = 'https://s3.amazonaws.com'): URL | undefined {
  const { protocol, hostname, port } = new URL(endpoint);
  return proxyFor({ protocol, hostname, port: port === '' ? undefined : Number(port) });
}

/**
 * Whether a server is one of those in a list, by commas or spaces: `*`, hosts with all names below
 * them, addresses, ranges of addresses, each perhaps with a port.
 */
function isExempt({ protocol, hostname, port }: Server, list: string): boolean {
  const host = hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const isPort = (text: string | undefined): boolean =>
    text === undefined || Number(text) === (port ?? (protocol === 'https:' ? 443 : 80));
  return list.split(/[\s,]+/).some((entry) => {
    if (entry === '*') return true;
    if (entry.includes('/')) return isWithin(host, entry);
    const isBare = isIP(entry) !== 0;
    const [, name = '', at] = isBare ? [entry, entry] : (/^\[?([^\]]*?)\]?(?::(\d+))?$/.exec(entry) ?? []);
    const domain = name.replace(/^\*?\./, '').toLowerCase();
    return (
      domain !== '' && isPort(at) && (host === domain || (isIP(host) === 0 && host.endsWith(`.${domain}`)))
    );
  });
}

function isWithin(host: string, range: string): boolean {
  const [network = '', bits] = range.split('/');
  const family = isIP(network);
  if (family === 0 || isIP(host) !== family || !/^\d+$/.test(bits ?? '')) return false;
  const count = Number(bits);
  if (count > (family === 4 ? 32 : 128)) return false;
  const type = family === 4 ? 'ipv4' : 'ipv6';
  const within = new BlockList();
  within.addSubnet(network, count, type);
  return within.check(host, type);
}
