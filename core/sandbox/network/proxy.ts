import { lookup, type LookupAddress, type LookupOptions } from 'node:dns';
import {
  Agent as PlainAgent,
  createServer,
  type IncomingMessage,
  request as requestPlain,
  type ServerResponse,
  validateHeaderName,
  validateHeaderValue,
} from 'node:http';
import { Agent as SecureAgent, request as requestSecure } from 'node:https';
import { connect, type LookupFunction } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Logger, UsageError } from '../../backend/index.js';
import { ControlShare, Folder, type PipeReader, Sink, Source, TextFile } from '../control-share.js';
import { GuestConnection } from './guest-connection.js';
import { isInternal } from './internal-addresses.js';

/** What a sandbox may reach. It has no network device: all goes through a proxy of this process. */
export interface NetworkOptions {
  /**
   * What commands may reach by HTTP, and by HTTPS or whatever else goes through a proxy's CONNECT:
   * `example.com` (ports 80 and 443), `*.example.com` (names below), `example.com:8443`, and
   * `host.internal:5000` for a port of this host's loopback device.
   */
  readonly allow: readonly string[];
  /**
   * Whether names may lead to addresses of private networks and of this host. Addresses that
   * `allow` has itself may be such in any case. Default: false.
   */
  readonly internal?: boolean | undefined;
  /**
   * Headers that requests get on their way, which the sandbox does not see, by where they go:
   * `{ 'https://api.example.com': { Authorization: 'Bearer …' } }`. The sandbox asks
   * `http://api.example.com` for it.
   */
  readonly headers?: Readonly<Record<string, Readonly<Record<string, string>>>> | undefined;
}

/** Where the guest mounts the share through which connections go. */
export const NETWORK = '/network';

/** The proxy's port, in the guest. */
const PORT = 3128;

/** The environment of commands. What they reach of themselves needs no proxy. */
export const PROXY_VARIABLES: Readonly<Record<string, string>> = Object.fromEntries([
  ...['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'].map((name) => [
    name,
    `http://127.0.0.1:${PORT}`,
  ]),
  ...['no_proxy', 'NO_PROXY'].map((name) => [name, 'localhost,127.0.0.1,::1']),
]);

/** Has the guest listen. */
export const LISTEN_LINE = `start-stop-daemon -S -b -p /none -x /bin/nc -- -ll -p ${PORT} -e ${NETWORK}/connect`;

/** Run for each connection, which is its input and output. */
const CONNECT = `#!/bin/sh
exec 2>/run/log 3<&0
read -r id <${NETWORK}/new || exit
cd "${NETWORK}/$id" || exit
dd bs=65536 <&3 >out &
dd bs=65536 <in
kill $!
`;

/** This host, for the sandbox. */
const HOST = 'host.internal';

const MOST_CONNECTIONS = 64;
const CONNECT_TIMEOUT_MS = 30_000;
/** Requests that one connection sends ahead of their answers. apt sends ten. */
const MOST_UNANSWERED = 16;

/** Headers for one connection (RFC 9110, section 7.6.1). */
const HOP_BY_HOP = new Set(
  ['connection', 'proxy-connection', 'keep-alive', 'proxy-authorization', 'te', 'trailer', 'upgrade'].concat([
    'transfer-encoding',
    'proxy-authenticate',
    'expect',
  ]),
);

interface Rule {
  readonly name: string;
  readonly isBelow: boolean;
  readonly ports: readonly number[];
}

/** @throws UsageError for what is no name. */
function ruleOf(text: string): Rule {
  const match = /^(\*\.)?([a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(\d{1,5}))?$/i.exec(text);
  const [, star, name = '', port] = match ?? [];
  // No name ends in a number (URL Standard, "ends in a number"), but addresses do.
  const isBelowNumber = star !== undefined && /(^|\.)\d+$/.test(name);
  if (match === null || isBelowNumber || Number(port ?? 1) < 1 || Number(port ?? 1) > 65_535)
    throw new UsageError(`network ${text}: no name that can be allowed: NAME, *.NAME, NAME:PORT`);
  return {
    name: bare(name),
    isBelow: star !== undefined,
    ports: port === undefined ? [80, 443] : [Number(port)],
  };
}

/** A name as rules have it. */
function bare(name: string): string {
  return name
    .toLowerCase()
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/\.$/, '');
}

/** Where a request really goes, and what it gets. */
interface Target {
  readonly host: string;
  readonly port: number;
  readonly isSecure: boolean;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Connects what a sandbox allows, and nothing else. The guest's side is a share: a folder for each
 * connection.
 */
export class NetworkProxy {
  /** To be served to the guest. */
  readonly share = new ControlShare();
  readonly #rules: readonly Rule[];
  readonly #allowsInternal: boolean;
  readonly #headers: readonly (readonly [origin: URL, headers: Readonly<Record<string, string>>])[];
  readonly #log: Logger;
  readonly #server = createServer({ requireHostHeader: false }, (request, response) =>
    this.#forward(request, response),
  );
  readonly #connections = new Map<Duplex, GuestConnection>();
  /** What goes on has connections of its own each time: none is used again, nor shared. */
  readonly #plainAgent = new PlainAgent({ maxTotalSockets: MOST_CONNECTIONS });
  readonly #secureAgent = new SecureAgent({
    maxTotalSockets: MOST_CONNECTIONS,
    // Not imported: the joined program would load the module for it wherever it is imported from.
    ca: process.getBuiltinModule('node:https').globalAgent.options.ca,
  });
  #count = 0;

  /** @throws UsageError for a mistake in the options. */
  constructor({ allow, internal: allowsInternal = false, headers = {} }: NetworkOptions, log: Logger) {
    this.#rules = allow.map(ruleOf);
    this.#allowsInternal = allowsInternal;
    this.#headers = Object.entries(headers).map(([origin, added]) => [
      originOf(origin),
      checkedHeaders(origin, added),
    ]);
    this.#log = log;
    this.#server.on('connect', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#tunnel(request, socket, head),
    );
    const { entries } = this.share.root;
    entries.set('connect', new TextFile(CONNECT));
    entries.set('new', new Source(() => this.#beginning()));
  }

  /** Ends all connections. */
  close(): void {
    for (const stream of this.#connections.keys()) stream.destroy();
  }

  /** Begins a connection when it is read. A shell reads byte by byte. */
  #beginning(): PipeReader {
    let text: Uint8Array | undefined;
    return {
      read: (most) => {
        text ??= this.#begin();
        const part = text.subarray(0, most);
        text = text.subarray(part.length);
        return part;
      },
    };
  }

  /** @returns the name of a new connection's folder; nothing if there are too many. */
  #begin(): Uint8Array {
    if (this.#connections.size >= MOST_CONNECTIONS) return new Uint8Array(0);
    const id = String((this.#count += 1));
    const connection = new GuestConnection();
    const folder = new Folder();
    folder.entries.set(
      'out',
      new Sink(
        (bytes) => connection.sent(bytes),
        () => connection.hangUp(),
      ),
    );
    folder.entries.set('in', new Source(() => ({ read: (most) => connection.received(most) })));
    this.share.root.entries.set(id, folder);
    const { stream } = connection;
    this.#connections.set(stream, connection);
    stream.once('close', () => {
      this.#connections.delete(stream);
      this.share.root.entries.delete(id);
    });
    this.#server.emit('connection', stream);
    return Buffer.from(`${id}\n`);
  }

  /** @returns undefined where a name is not allowed. */
  #target(name: string, port: number): Target | undefined {
    const host = bare(name);
    const isAllowed = this.#rules.some(
      (rule) =>
        rule.ports.includes(port) &&
        (rule.isBelow ? host !== HOST && host.endsWith(`.${rule.name}`) : host === rule.name),
    );
    if (!isAllowed) {
      this.#log.info({ host, port }, 'sandbox: a connection that is not allowed');
      return undefined;
    }
    return { host, port, isSecure: false, headers: {} };
  }

  /** What an address is looked up by: one that is not of the public network is refused. */
  #lookupOf(host: string): LookupFunction {
    return (name: string, options: LookupOptions, done) => {
      if (host === HOST)
        return options.all === true ? done(null, [LOOPBACK]) : done(null, LOOPBACK.address, 4);
      lookup(name, { ...options, all: true }, (error, addresses) => {
        const refused = addresses?.find(({ address }) => isInternal(address));
        const [first] = addresses ?? [];
        if (error !== null || first === undefined) done(error ?? new Error(`${name}: no address`), '', 0);
        else if (refused !== undefined && !this.#allowsInternal)
          done(new Error(`${name}: ${refused.address} is not of the public network`), '', 0);
        else if (options.all === true) done(null, addresses);
        else done(null, first.address, first.family);
      });
    };
  }

  #tunnel({ url = '' }: IncomingMessage, socket: Duplex, head: Buffer): void {
    const match = /^(.+):(\d{1,5})$/.exec(url);
    const target = match === null ? undefined : this.#target(match[1]!, Number(match[2]));
    const refuse = (status: string, why: string): void => {
      const text = `${url}: ${why}\n`;
      socket.end(
        `HTTP/1.1 ${status}\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
      );
    };
    if (target === undefined) return refuse('403 Forbidden', 'not allowed by this sandbox');
    const { host, port } = target;
    const upstream = connect({ host, port, lookup: this.#lookupOf(host), timeout: CONNECT_TIMEOUT_MS });
    upstream.once('timeout', () => upstream.destroy(new Error('it does not answer')));
    upstream.once('connect', () => {
      upstream.setTimeout(0).off('error', failed);
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      upstream.write(head);
      upstream.pipe(socket).pipe(upstream);
    });
    const failed = (error: Error): void => refuse('502 Bad Gateway', error.message);
    upstream.once('error', failed);
    upstream.on('error', () => upstream.destroy());
    upstream.once('close', () => socket.end());
    socket.once('close', () => upstream.destroy());
  }

  #forward(request: IncomingMessage, response: ServerResponse): void {
    const connection = this.#connections.get(request.socket);
    if (connection === undefined || connection.unanswered >= MOST_UNANSWERED)
      return void request.socket.destroy();
    connection.unanswered += 1;
    response.once('close', () => (connection.unanswered -= 1));
    const refuse = (status: number, why: string): void => {
      if (response.headersSent) return void response.destroy();
      response.writeHead(status, { 'Content-Type': 'text/plain', Connection: 'close' }).end(`${why}\n`);
    };
    const { url = '', method } = request;
    if (!/^http:\/\//i.test(url) || !URL.canParse(url))
      return refuse(400, `${url}: a proxy takes http://NAME/…`);
    const asked = new URL(url);
    const allowed = this.#target(asked.hostname, Number(asked.port) || 80);
    if (allowed === undefined) return refuse(403, `${asked.host}: not allowed by this sandbox`);
    const { host, port, isSecure, headers } = this.#withHeaders(allowed);
    const kept = Object.entries(request.headers).filter(([name]) => !isForOne(name, request));
    // The body of a GET or DELETE would else go as if it were the next request.
    const isChunked = request.headers['transfer-encoding'] !== undefined;
    const onward = (isSecure ? requestSecure : requestPlain)({
      agent: isSecure ? this.#secureAgent : this.#plainAgent,
      signal: connection.gone,
      host,
      port,
      method,
      path: `${asked.pathname}${asked.search}`,
      headers: {
        ...Object.fromEntries(kept),
        host: asked.host,
        ...(isChunked ? { 'transfer-encoding': 'chunked' } : {}),
        ...headers,
      },
      lookup: this.#lookupOf(host),
      timeout: CONNECT_TIMEOUT_MS,
    });
    // Whoever is connected may take its time for an answer.
    onward.once('socket', (to) =>
      to.once(isSecure ? 'secureConnect' : 'connect', () => onward.setTimeout(0)),
    );
    onward.on('timeout', () => onward.destroy(new Error('it does not answer')));
    onward.on('error', (error) => refuse(502, `${asked.host}: ${error.message}`));
    onward.on('response', (answer) => {
      const { statusCode = 0 } = answer;
      if (statusCode < 200) {
        onward.destroy();
        return refuse(502, `${asked.host}: it answers with the status ${statusCode}`);
      }
      const told = Object.entries(answer.headers).filter(([name]) => !isForOne(name, answer));
      response.writeHead(statusCode, Object.fromEntries(told));
      answer.pipe(response);
      answer.on('error', () => response.destroy());
    });
    response.once('close', () => onward.destroy());
    request.pipe(onward);
  }

  /** A secret goes only where it belongs. */
  #withHeaders(target: Target): Target {
    const found = this.#headers.find(
      ([{ hostname, port }]) =>
        bare(hostname) === target.host && (port === '' ? target.port === 80 : Number(port) === target.port),
    );
    if (found === undefined) return target;
    const [{ protocol, port }, headers] = found;
    const isSecure = protocol === 'https:';
    return { ...target, isSecure, headers, port: port === '' && isSecure ? 443 : target.port };
  }
}

const LOOPBACK: LookupAddress = { address: '127.0.0.1', family: 4 };

/** @throws UsageError for what is not the beginning of an address. */
function originOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.pathname !== '/')
    throw new UsageError(
      `network headers ${text}: must be http://NAME or https://NAME, with a port if need be`,
    );
  return url;
}

/** @throws UsageError for what no header can be, such as a line's end. */
function checkedHeaders(
  origin: string,
  headers: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  try {
    for (const [name, value] of Object.entries(headers)) {
      validateHeaderName(name);
      validateHeaderValue(name, value);
    }
  } catch (error) {
    throw new UsageError(`network headers ${origin}: ${(error as Error).message}`);
  }
  return headers;
}

/** Whether a header is about one connection. */
function isForOne(name: string, { headers }: IncomingMessage): boolean {
  if (HOP_BY_HOP.has(name)) return true;
  return (headers.connection ?? '')
    .toLowerCase()
    .split(/\s*,\s*/)
    .includes(name);
}
