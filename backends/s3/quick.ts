import { createHash, createHmac, webcrypto } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import type { Dispatcher } from 'undici';
import type { Content, Head } from './bucket.js';
import { S3Failure } from './failure.js';
import { Collected, connectionsTo, exchange } from './wire.js';
import type { Sink, WireAnswer, WireRequest } from './wire.js';

/** SHA-256 of nothing. */
const EMPTY = createHash('sha256').digest('hex');
/** A body from this size on is hashed on another thread. */
const HASH_ELSEWHERE = 256 * 1024;

/** Headers that each request has anew. */
const OWN = new Set([
  'x-amz-date',
  'x-amz-content-sha256',
  'x-amz-user-agent',
  'x-amz-security-token',
  'authorization',
]);
/** Where the SDK says these, it does with a body, or with an answer, what is not done here. */
const BEYOND = ['x-amz-checksum', 'x-amz-sdk-checksum', 'x-amz-trailer', 'x-amz-s3session'];
/** What a header may hold so that the signature needs no rule for it: ASCII, no spaces but single ones within. */
const PLAIN = /^[!-~]+(?: [!-~]+)*$/;

/** How the SDK made its last request of a kind: where it went, and what it said beside the key. */
interface Template {
  readonly connections: Dispatcher;
  /** All of the path before the key and its slash. */
  readonly prefix: string;
  readonly region: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** A request as the SDK's middleware sees it when it is signed. */
interface SignedRequest {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** Requests that are made here, and after which of the SDK's they are made. */
type Kind = 'HeadObjectCommand' | 'PutObjectCommand' | 'UploadPartCommand' | 'ListObjectsV2Command';
const kinds: ReadonlySet<string> = new Set<Kind>([
  'HeadObjectCommand',
  'PutObjectCommand',
  'UploadPartCommand',
  'ListObjectsV2Command',
]);

/** The request of one template. */
interface Parts {
  readonly method: WireRequest['method'];
  readonly query: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}

/**
 * The requests that are made by thousands, at a fraction of what they cost by the SDK. Its own first HEAD, PUT, part and listing show where requests go
 * and how they are signed (region, redirects, addressing, encryption); those that follow are made alike, signed by Signature Version 4.
 * Any answer that is not plain is left to the SDK, which then asks again.
 */
export class Quick {
  readonly #client: S3Client;
  readonly #connections = new Map<string, Dispatcher>();
  readonly #reads: boolean;
  readonly #templates = new Map<string, Template>();
  #signingKey: { readonly scope: string; readonly secret: string; readonly key: Buffer } | undefined;

  /** @param reads GETs too: not where the SDK is to check what comes. */
  constructor(client: S3Client, reads: boolean) {
    this.#client = client;
    this.#reads = reads;
    client.middlewareStack.add(
      (next, { commandName }) =>
        async (sent) => {
          const { Key } = sent.input as { Key?: string };
          if (commandName !== undefined && kinds.has(commandName)) {
            const template = this.#templateOf(sent.request as SignedRequest, Key);
            if (template !== undefined) this.#templates.set(commandName, template);
          }
          return next(sent);
        },
      { step: 'deserialize', priority: 'low', name: 'noteRequest' },
    );
  }

  /**
   * @returns nothing where the SDK must ask.
   * @throws S3Failure of kind missing or transient; what the connection throws.
   */
  async head(key: string, signal: AbortSignal): Promise<Head | undefined> {
    const request = { method: 'HEAD', query: '', headers: {} } as const;
    const answer = await this.#send('HeadObjectCommand', key, request, signal, () => undefined);
    if (answer?.status === 404) throw new S3Failure('missing', 404, 'NotFound');
    return answer?.status === 200 ? headOf(key, answer) : undefined;
  }

  /**
   * Reads bytes `start` to `end` (exclusive) of the version with an ETag.
   * @param match the ETag as the server wants it in If-Match.
   * @returns whether it was done: else the SDK must ask, and nothing has come.
   * @throws S3Failure of kind precondition or transient; what the connection throws, perhaps after some bytes.
   */
  async get(
    key: string,
    etag: string,
    match: string,
    start: number,
    end: number,
    sink: Sink,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (!this.#reads) return false;
    const range = `bytes=${start}-${end - 1}`;
    const request = { method: 'GET', query: '', headers: { 'if-match': match, range } } as const;
    const expected = (answer: WireAnswer): boolean =>
      answer.status === 206 &&
      unquoted(answer.headers.get('etag')) === etag &&
      answer.headers.get('content-range')?.startsWith(`bytes ${start}-${end - 1}/`) === true &&
      answer.headers.get('content-length') === String(end - start);
    const answer = await this.#send('HeadObjectCommand', key, request, signal, (head) =>
      expected(head) ? sink : undefined,
    );
    return answer !== undefined && expected(answer);
  }

  /**
   * Writes an object.
   * @param condition fields of the condition, named as the SDK names them.
   * @returns its ETag, or nothing where the SDK must write it.
   * @throws S3Failure of kind precondition or transient; what the connection throws.
   */
  async put(
    key: string,
    body: Uint8Array,
    content: Content,
    condition: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const headers: Record<string, string> = { 'content-type': 'application/octet-stream' };
    for (const [name, value] of Object.entries({ ...content.headers, ...condition })) {
      if (value !== undefined) headers[name.replace(/(?!^)[A-Z]/g, '-$&').toLowerCase()] = value;
    }
    for (const [name, value] of Object.entries(content.metadata)) {
      headers[`x-amz-meta-${name.toLowerCase()}`] = value;
    }
    return this.#write('PutObjectCommand', key, { method: 'PUT', query: '', headers, body }, signal);
  }

  /** Writes a part. @returns its ETag, or nothing where the SDK must write it. @throws as {@link put} */
  async part(
    key: string,
    upload: string,
    number: number,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const query = `partNumber=${number}&uploadId=${encoded(upload)}`;
    return this.#write('UploadPartCommand', key, { method: 'PUT', query, headers: {}, body }, signal);
  }

  /** @param query fields of ListObjectsV2, as the query has them. @returns the answer's body, or nothing where the SDK must ask. */
  async list(query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<string | undefined> {
    const fields = Object.entries({ ...query, 'list-type': '2', 'encoding-type': 'url' });
    const parts = fields.map(([name, value]) => `${name}=${encoded(value)}`).sort();
    const request = { method: 'GET', query: parts.join('&'), headers: {} } as const;
    const body = new Collected();
    const answer = await this.#send('ListObjectsV2Command', undefined, request, signal, ({ status }) =>
      status === 200 ? body : undefined,
    );
    return answer?.status === 200 ? body.toString() : undefined;
  }

  async #write(kind: Kind, key: string, parts: Parts, signal: AbortSignal): Promise<string | undefined> {
    const answer = await this.#send(kind, key, parts, signal, () => undefined);
    const etag = unquoted(answer?.headers.get('etag'));
    return answer?.status === 200 && etag !== '' ? etag : undefined;
  }

  /** @returns the answer, or nothing where it is the SDK's turn. */
  async #send(
    kind: Kind,
    key: string | undefined,
    parts: Parts,
    signal: AbortSignal,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer | undefined> {
    const template = this.#templates.get(kind);
    if (template === undefined || Object.values(parts.headers).some((value) => !PLAIN.test(value))) {
      return undefined;
    }
    const path = template.prefix + (key === undefined ? '' : `/${encodedKey(key)}`);
    const headers = await this.#signed(template, path, parts);
    const { method, query, body } = parts;
    const request = {
      method,
      path: query === '' ? path : `${path}?${query}`,
      headers,
      ...(body && { body }),
    };
    const answer = await exchange(template.connections, request, signal, accept);
    const { status } = answer;
    if (status >= 500 && status !== 501) throw new S3Failure('transient', status, 'ServerError');
    if (status === 412) throw new S3Failure('precondition', 412, 'PreconditionFailed');
    if (status >= 200 && status < 300) return answer;
    if (method === 'HEAD' && status === 404) return answer;
    this.#templates.delete(kind);
    return undefined;
  }

  /** AWS Signature Version 4, "Create a signed request". */
  async #signed(template: Template, path: string, parts: Parts): Promise<Record<string, string>> {
    const { config } = this.#client;
    const { accessKeyId, secretAccessKey, sessionToken } = await config.credentials();
    const now = new Date(Date.now() + config.systemClockOffset);
    const date = now.toISOString().replace(/[-:]|\.\d+/g, '');
    const hash = await hashOf(parts.body);
    const headers: Record<string, string> = {
      ...template.headers,
      ...parts.headers,
      'x-amz-date': date,
      'x-amz-content-sha256': hash,
      ...(sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken }),
    };
    const names = Object.keys(headers).sort();
    const lines = names.map((name) => `${name}:${headers[name]!.trim()}\n`).join('');
    const canonical = `${parts.method}\n${path}\n${parts.query}\n${lines}\n${names.join(';')}\n${hash}`;
    const scope = `${date.slice(0, 8)}/${template.region}/s3/aws4_request`;
    const digest = createHash('sha256').update(canonical).digest('hex');
    const text = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${digest}`;
    const signature = createHmac('sha256', this.#keyFor(scope, secretAccessKey)).update(text).digest('hex');
    headers['authorization'] =
      `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`;
    return headers;
  }

  #keyFor(scope: string, secret: string): Buffer {
    if (this.#signingKey?.scope !== scope || this.#signingKey.secret !== secret) {
      let key = Buffer.from(`AWS4${secret}`);
      for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
      this.#signingKey = { scope, secret, key };
    }
    return this.#signingKey.key;
  }

  /** @returns nothing where the request is not one that can be made alike: signed otherwise, or the key not at its end. */
  #templateOf(request: SignedRequest, key: string | undefined): Template | undefined {
    const { path } = request;
    const end = key === undefined ? '' : `/${encodedKey(key)}`;
    const authorization = Object.entries(request.headers).find(([name]) =>
      /^authorization$/i.test(name),
    )?.[1];
    const region = /^AWS4-HMAC-SHA256 Credential=[^/]+\/\d+\/([^/]+)\/s3\/aws4_request/.exec(
      authorization ?? '',
    )?.[1];
    if (region === undefined || !path.endsWith(end)) return undefined;
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(request.headers)) {
      const lower = name.toLowerCase();
      if (BEYOND.some((start) => lower.startsWith(start))) return undefined;
      const kept = lower === 'host' || (lower.startsWith('x-amz-') && !lower.startsWith('x-amz-meta-'));
      if (kept && !OWN.has(lower)) headers[lower] = value;
    }
    if (headers['host'] === undefined) return undefined;
    const prefix = path.slice(0, path.length - end.length);
    return { connections: this.#connectionsFor(request), prefix, region, headers };
  }

  #connectionsFor({ protocol, hostname, port }: SignedRequest): Dispatcher {
    const origin = `${protocol}//${hostname}${port === undefined ? '' : `:${port}`}`;
    const connections = this.#connections.get(origin) ?? connectionsTo(origin);
    this.#connections.set(origin, connections);
    return connections;
  }

  close(): void {
    this.#templates.clear();
    for (const connections of this.#connections.values()) void connections.destroy();
  }
}

async function hashOf(body: Uint8Array | undefined): Promise<string> {
  if (body === undefined || body.length === 0) return EMPTY;
  if (body.length < HASH_ELSEWHERE) return createHash('sha256').update(body).digest('hex');
  return Buffer.from(await webcrypto.subtle.digest('SHA-256', body)).toString('hex');
}

function unquoted(etag: string | undefined): string {
  return (etag ?? '').replace(/^"|"$/g, '');
}

/** RFC 3986, as S3's signature has it. */
function encoded(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function encodedKey(key: string): string {
  return key.split('/').map(encoded).join('/');
}

function headOf(key: string, { headers }: WireAnswer): Head {
  const metadata: Record<string, string> = {};
  for (const [name, value] of headers) {
    if (name.startsWith('x-amz-meta-')) metadata[name.slice(11)] = value;
  }
  return {
    key,
    etag: unquoted(headers.get('etag')),
    size: Number(headers.get('content-length') ?? 0),
    modified: Math.floor(Date.parse(headers.get('last-modified') ?? '') / 1000) || 0,
    storageClass: headers.get('x-amz-storage-class'),
    metadata,
    headers: {
      ContentType: headers.get('content-type'),
      ContentEncoding: headers.get('content-encoding'),
      ContentLanguage: headers.get('content-language'),
      ContentDisposition: headers.get('content-disposition'),
      CacheControl: headers.get('cache-control'),
    },
  };
}
