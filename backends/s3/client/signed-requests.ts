import { createHmac, hash, webcrypto } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import type { Dispatcher } from 'undici';
import type { Content, Head } from './bucket.js';
import { S3Failure } from './failure.js';
import { Collected, connectionsTo, exchange } from './wire.js';
import type { Sink, WireAnswer, WireRequest } from './wire.js';

/** SHA-256 of nothing. */
const EMPTY = hash('sha256', '', 'hex');
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
/**
 * What a header may hold so that the signature needs no rule for it: ASCII, no spaces but single
 * ones within.
 */
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

/** No headers beside those of the template. */
const NONE: Readonly<Record<string, string>> = {};
const HEAD: Parts = { method: 'HEAD', query: '', headers: NONE };
const unwanted = (): undefined => undefined;

/** Milliseconds for which one time and one set of credentials are good enough to sign with. */
const MOMENT = 1000;

/** What requests are signed with. */
interface Moment {
  /** Milliseconds of `performance.now()`. */
  readonly until: number;
  /** As signatures have it: `20260131T235959Z`. */
  readonly date: string;
  readonly credentials: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string | undefined;
  };
  readonly plain: Map<Template, Fields>;
}

/** The headers of a request, and as the signature has them. */
interface Fields {
  readonly headers: Readonly<Record<string, string>>;
  /** The canonical request from its headers on. */
  readonly canonical: string;
  /** Their names. */
  readonly names: string;
}

/**
 * The requests that are made by thousands, at a fraction of what they cost by the SDK. Its own
 * first HEAD, PUT, part and listing show where requests go and how they are signed (region,
 * redirects, addressing, encryption); those that follow are made alike, signed by Signature Version
 * 4. Any answer that is not plain is left to the SDK, which then asks again.
 */
export class Quick {
  readonly #client: S3Client;
  readonly #connections = new Map<string, Dispatcher>();
  readonly #reads: boolean;
  readonly #templates = new Map<string, Template>();
  #moment: Moment | undefined;
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
    const answer = await this.#send('HeadObjectCommand', key, HEAD, signal, unwanted);
    if (answer?.status === 404) throw new S3Failure('missing', 404, 'NotFound');
    return answer?.status === 200 ? headOf(key, answer) : undefined;
  }

  /**
   * Reads bytes `start` to `end` (exclusive) of the version with an ETag.
   * @param match the ETag as the server wants it in If-Match.
   * @returns whether it was done: else the SDK must ask, and nothing has come.
   * @throws S3Failure of kind precondition or transient; what the connection throws, perhaps after
   * some bytes.
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

  /**
   * Writes a part.
   * @returns its ETag, or nothing where the SDK must write it.
   * @throws as {@link put}
   */
  async part(
    key: string,
    upload: string,
    number: number,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const query = `partNumber=${number}&uploadId=${encoded(upload)}`;
    return this.#write('UploadPartCommand', key, { method: 'PUT', query, headers: NONE, body }, signal);
  }

  /**
   * @param query fields of ListObjectsV2, as the query has them.
   * @returns the answer's body, or nothing where the SDK must ask.
   */
  async list(query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<string | undefined> {
    const fields = Object.entries({ ...query, 'list-type': '2', 'encoding-type': 'url' });
    const parts = fields.map(([name, value]) => `${name}=${encoded(value)}`).sort();
    const request = { method: 'GET', query: parts.join('&'), headers: NONE } as const;
    const body = new Collected();
    const answer = await this.#send('ListObjectsV2Command', undefined, request, signal, ({ status }) =>
      status === 200 ? body : undefined,
    );
    return answer?.status === 200 ? body.toString() : undefined;
  }

  async #write(kind: Kind, key: string, parts: Parts, signal: AbortSignal): Promise<string | undefined> {
    const answer = await this.#send(kind, key, parts, signal, unwanted);
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
    if (template === undefined) return undefined;
    if (parts.headers !== NONE && Object.values(parts.headers).some((value) => !PLAIN.test(value)))
      return undefined;
    const path = template.prefix + (key === undefined ? '' : `/${encodedKey(key)}`);
    const { method, query, body } = parts;
    const digest = body === undefined || body.length === 0 ? EMPTY : await hashOf(body);
    let moment = this.#moment;
    if (moment === undefined || performance.now() > moment.until) moment = await this.#renewed();
    const headers = this.#signed(template, path, parts, digest, moment);
    const request = { method, path: query === '' ? path : `${path}?${query}`, headers, body };
    const answer = await exchange(template.connections, request, signal, accept);
    const { status } = answer;
    if (status >= 500 && status !== 501) throw new S3Failure('transient', status, 'ServerError');
    if (status === 412) throw new S3Failure('precondition', 412, 'PreconditionFailed');
    if (status >= 200 && status < 300) return answer;
    if (method === 'HEAD' && status === 404) return answer;
    this.#templates.delete(kind);
    return undefined;
  }

  /**
   * AWS Signature Version 4, "Create a signed request".
   * @param digest SHA-256 of the body, in hexadecimal.
   */
  #signed(
    template: Template,
    path: string,
    { method, query, headers }: Parts,
    digest: string,
    moment: Moment,
  ): Record<string, string> {
    const plain = digest === EMPTY && headers === NONE;
    const fields = plain ? this.#plainFields(template, moment) : fieldsOf(template, headers, digest, moment);
    const canonical = `${method}\n${path}\n${query}\n${fields.canonical}`;
    const scope = `${moment.date.slice(0, 8)}/${template.region}/s3/aws4_request`;
    const text = `AWS4-HMAC-SHA256\n${moment.date}\n${scope}\n${hash('sha256', canonical, 'hex')}`;
    const { accessKeyId, secretAccessKey } = moment.credentials;
    const signature = createHmac('sha256', this.#keyFor(scope, secretAccessKey)).update(text).digest('hex');
    const authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${fields.names}, Signature=${signature}`;
    return { ...fields.headers, authorization };
  }

  /** All but the path of most requests is the same for as long as the moment is. */
  #plainFields(template: Template, moment: Moment): Fields {
    let fields = moment.plain.get(template);
    if (fields === undefined) {
      fields = fieldsOf(template, NONE, EMPTY, moment);
      moment.plain.set(template, fields);
    }
    return fields;
  }

  /** Time and credentials to sign with: asked for once in a second. */
  async #renewed(): Promise<Moment> {
    const { config } = this.#client;
    const credentials = await config.credentials();
    const date = new Date(Date.now() + config.systemClockOffset).toISOString().replace(/[-:]|\.\d+/g, '');
    this.#moment = { until: performance.now() + MOMENT, date, credentials, plain: new Map() };
    return this.#moment;
  }

  #keyFor(scope: string, secret: string): Buffer {
    if (this.#signingKey?.scope !== scope || this.#signingKey.secret !== secret) {
      let key = Buffer.from(`AWS4${secret}`);
      for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
      this.#signingKey = { scope, secret, key };
    }
    return this.#signingKey.key;
  }

  /**
   * @returns nothing where the request is not one that can be made alike: signed otherwise, or the
   * key not at its end.
   */
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

function fieldsOf(
  template: Template,
  own: Readonly<Record<string, string>>,
  digest: string,
  { date, credentials: { sessionToken } }: Moment,
): Fields {
  const headers: Record<string, string> = {
    ...template.headers,
    ...own,
    'x-amz-date': date,
    'x-amz-content-sha256': digest,
    ...(sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken }),
  };
  const sorted = Object.keys(headers).sort();
  const names = sorted.join(';');
  const lines = sorted.map((name) => `${name}:${headers[name]!.trim()}\n`).join('');
  return { headers, canonical: `${lines}\n${names}\n${digest}`, names };
}

async function hashOf(body: Uint8Array): Promise<string> {
  if (body.length < HASH_ELSEWHERE) return hash('sha256', body, 'hex');
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
