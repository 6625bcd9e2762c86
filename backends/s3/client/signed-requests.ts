import { hash } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import { CARRIED_CHECKSUMS, CARRIES, headOf, unquoted } from './answers.js';
import type { Content, Head } from './bucket-types.js';
import { SLICE_BYTES, sumOf } from './checksums.js';
import type { Connections } from './connections.js';
import type { DirectConnections } from './direct.js';
import { noAnswer, S3Failure } from './failure.js';
import { Collected, exchange } from './http.js';
import type { Pace, Sending, Sink, WireAnswer, WireRequest } from './http.js';
import { field } from './listing.js';
import type { PlainBucket } from './plain-bucket.js';
import type { Server } from './proxies.js';
import { encoded, encodedKey, signatureOf, signingKey } from './signature.js';

/** SHA-256 of an empty body. */
const EMPTY_SHA256 = hash('sha256', '', 'hex');

/** Headers that differ for each request, so that no template keeps them. */
const PER_REQUEST_HEADERS = new Set([
  'x-amz-date',
  'x-amz-content-sha256',
  'x-amz-user-agent',
  'x-amz-security-token',
  'authorization',
]);
/**
 * Headers with which the SDK does something to the body or expects something of the answer that is
 * not done here. Such requests are left to the SDK.
 */
const SDK_ONLY_HEADERS = ['x-amz-checksum', 'x-amz-sdk-checksum', 'x-amz-trailer', 'x-amz-s3session'];
/**
 * Header values that the signature covers as they are: printable ASCII, with single spaces inside
 * only.
 */
const UNAMBIGUOUS_VALUE = /^[!-~]+(?: [!-~]+)*$/;

/** Where requests of a kind go, and their headers, as the SDK's last one or the options tell. */
interface Template {
  readonly server: Server;
  /** Undefined where there is a proxy between. */
  readonly direct: DirectConnections | undefined;
  /** The path before the slash and the key. */
  readonly prefix: string;
  readonly region: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** A signed request as the SDK's middleware sees it. */
interface SignedRequest {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * The kinds of requests that are made here. Each needs one request of the SDK as a template, but
 * for a {@link PlainBucket}; GETs and DELETEs use that of HEAD, uploads in parts begin by that of
 * PUT and are completed by that of a part, and what a bucket has is asked for by that of a listing.
 */
type Kind = 'HeadObjectCommand' | 'PutObjectCommand' | 'UploadPartCommand' | 'ListObjectsV2Command';
const ALL_KINDS: readonly Kind[] = [
  'HeadObjectCommand',
  'PutObjectCommand',
  'UploadPartCommand',
  'ListObjectsV2Command',
];
const kinds: ReadonlySet<string> = new Set(ALL_KINDS);

/**
 * Most bytes of a document: a listing of a thousand keys of 1,024 bytes, each of which is three in
 * a URL, has less than 4 MiB.
 */
const DOCUMENT_MAX_BYTES = 16 * 2 ** 20;

/** An ETag that is the same in XML. */
const PLAIN_ETAG = /^[\w-]+$/;

/** What distinguishes one request from its template. */
interface RequestParts {
  readonly method: WireRequest['method'];
  readonly query: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly pace?: Pace | undefined;
  /** That there is nothing of the kind is an answer, too. */
  readonly isOptional?: boolean;
}

/** No headers other than the template's. */
const NONE: Readonly<Record<string, string>> = {};
const HEAD: RequestParts = { method: 'HEAD', query: '', headers: NONE };
const DELETE: RequestParts = { method: 'DELETE', query: '', headers: NONE };
const unwanted = (): undefined => undefined;

/** Milliseconds for which time and credentials are reused. */
const SIGNING_CONTEXT_MS = 1000;

/** Time and credentials that requests are signed with. */
interface SigningContext {
  /** Valid until this time, in milliseconds of `performance.now()`. */
  readonly until: number;
  /** The time as signatures need it: `20260131T235959Z`. */
  readonly date: string;
  readonly credentials: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string | undefined;
  };
  readonly plain: Map<Template, SignedHeaders>;
}

/** The headers of a request, and their form in the signature. */
interface SignedHeaders {
  readonly headers: Readonly<Record<string, string>>;
  /** The canonical request from its headers on. */
  readonly canonical: string;
  /** The names of the signed headers. */
  readonly names: string;
}

/**
 * The most frequent requests, made without the SDK at a fraction of its CPU time. The SDK's own
 * first HEAD, PUT, part and listing show where requests go and how they are signed (region,
 * redirects, addressing, encryption). The following ones are made alike, with Signature Version 4.
 * Where the options and the environment say all of that, the SDK need not even be loaded. Any
 * answer other than a plain success or failure is left to the SDK, which makes the request again.
 */
export class SignedRequests {
  /** Makes the SDK's client, if there is none yet. */
  readonly #client: () => S3Client;
  readonly #connections: Connections;
  readonly #plain: PlainBucket | undefined;
  /** Of the server's clock before ours, in milliseconds, as the SDK has found. */
  #clockOffset = (): number => 0;
  readonly #templates = new Map<string, Template>();
  #signing: SigningContext | undefined;
  #signingKey: { readonly scope: string; readonly secret: string; readonly key: Buffer } | undefined;

  /** @param plain what is known of the bucket without the SDK. */
  constructor(connections: Connections, client: () => S3Client, plain: PlainBucket | undefined) {
    this.#client = client;
    this.#connections = connections;
    this.#plain = plain;
    if (plain === undefined) return;
    const { server, prefix, region, host } = plain;
    const template = { server, direct: connections.directTo(server), prefix, region, headers: { host } };
    for (const kind of ALL_KINDS) this.#templates.set(kind, template);
    this.#templates.set('ListObjectsV2Command', { ...template, prefix: `${prefix}/` });
  }

  /** Learns from the requests of the SDK's client. */
  watch(client: S3Client): void {
    this.#clockOffset = () => client.config.systemClockOffset;
    client.middlewareStack.add(
      (next, context) => async (sent) => {
        const { Key } = sent.input as { Key?: string };
        const { commandName, [CARRIES]: carries, [CARRIED_CHECKSUMS]: checksums } = context;
        // What one object has must not be given to all.
        if (commandName !== undefined && kinds.has(commandName) && carries !== true) {
          const own = new Set((checksums as readonly string[] | undefined) ?? []);
          const template = this.#templateOf(sent.request as SignedRequest, Key, own);
          if (template !== undefined) this.#templates.set(commandName, template);
        }
        return next(sent);
      },
      { step: 'deserialize', priority: 'low', name: 'noteRequest' },
    );
  }

  /**
   * @returns undefined if the SDK must make the request.
   * @throws S3Failure of kind missing or transient; what the connection throws.
   */
  async head(key: string, signal: AbortSignal): Promise<Head | undefined> {
    const answer = await this.#send('HeadObjectCommand', key, HEAD, signal, unwanted);
    if (answer?.status === 404) throw new S3Failure('missing', 404, 'NotFound');
    return answer?.status === 200 ? headOf(key, answer.headers) : undefined;
  }

  /**
   * Reads bytes `start` to `end` (exclusive) of the version with an ETag.
   * @param match the ETag as the server expects it in If-Match; undefined: the answer's ETag alone
   * tells
   * @param others headers that are sent too
   * @param sinkOf called with the answer's head; returns where the bytes go
   * @returns whether it was read; otherwise nothing has arrived and the SDK must make the request.
   * @throws S3Failure of kind precondition or transient; what the connection throws, perhaps after
   * some bytes.
   */
  async get(
    key: string,
    etag: string,
    match: string | undefined,
    start: number,
    end: number,
    others: Readonly<Record<string, string>>,
    sinkOf: (headers: ReadonlyMap<string, string>) => Sink,
    signal: AbortSignal,
  ): Promise<boolean> {
    const range = `bytes=${start}-${end - 1}`;
    const headers = { ...others, ...(match === undefined ? { range } : { 'if-match': match, range }) };
    const request = { method: 'GET', query: '', headers } as const;
    const expected = (answer: WireAnswer): boolean =>
      answer.status === 206 &&
      unquoted(answer.headers.get('etag')) === etag &&
      answer.headers.get('content-range')?.startsWith(`bytes ${start}-${end - 1}/`) === true &&
      answer.headers.get('content-length') === String(end - start);
    const sink = (head: WireAnswer): Sink | undefined => (expected(head) ? sinkOf(head.headers) : undefined);
    const answer = await this.#send('HeadObjectCommand', key, request, signal, sink);
    return answer !== undefined && expected(answer);
  }

  /**
   * Writes an object.
   * @param condition fields of the condition, named as the SDK names them
   * @returns its ETag, or undefined if the SDK must write it.
   * @throws S3Failure of kind precondition or transient; what the connection throws.
   */
  async put(
    key: string,
    body: Uint8Array,
    content: Content,
    condition: Readonly<Record<string, string>>,
    { signal, pace }: Sending,
  ): Promise<string | undefined> {
    const headers = { 'content-type': 'application/octet-stream', ...conditionHeaders(condition) };
    give(headers, content);
    return this.#write('PutObjectCommand', key, { method: 'PUT', query: '', headers, body, pace }, signal);
  }

  /**
   * Copies an object.
   * @param source headers that tell of what, and how
   * @param content what it is given
   * @returns the copy's ETag, or undefined if the SDK must copy it.
   * @throws as {@link put}
   */
  async copy(
    key: string,
    source: Readonly<Record<string, string>>,
    content: Content,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const headers = { ...source };
    give(headers, content);
    const request = { method: 'PUT', query: '', headers } as const;
    // It creates an object as a write does.
    const text = await this.#documentOf('PutObjectCommand', key, request, signal);
    // A failure may come with 200, once the copy has begun (Amazon S3 API Reference, CopyObject).
    return /<CopyObjectResult[\s>][^]*<ETag>(?:"|&quot;|&#34;)?([^<"&]+)/.exec(text ?? '')?.[1];
  }

  /**
   * Writes a part.
   * @returns its ETag, or undefined if the SDK must write it.
   * @throws as {@link put}
   */
  async part(
    key: string,
    upload: string,
    number: number,
    body: Uint8Array,
    checksum: Readonly<Record<string, string>>,
    { signal, pace }: Sending,
  ): Promise<string | undefined> {
    const query = `partNumber=${number}&uploadId=${encoded(upload)}`;
    const headers = Object.keys(checksum).length === 0 ? NONE : checksum;
    return this.#write('UploadPartCommand', key, { method: 'PUT', query, headers, body, pace }, signal);
  }

  /**
   * Deletes a key.
   * @returns whether it is deleted; otherwise the SDK must make the request.
   * @throws S3Failure of kind transient; what the connection throws.
   */
  async remove(key: string, signal: AbortSignal): Promise<boolean> {
    const answer = await this.#send('HeadObjectCommand', key, DELETE, signal, unwanted);
    return answer?.status === 204;
  }

  /**
   * @param subresource of an object, such as `acl`
   * @returns the document, or undefined if the SDK must make the request.
   */
  document(key: string, subresource: string, signal: AbortSignal): Promise<string | undefined> {
    const request = { method: 'GET', query: `${subresource}=`, headers: NONE } as const;
    return this.#documentOf('HeadObjectCommand', key, request, signal);
  }

  /**
   * @param subresource of the bucket, such as `ownershipControls`
   * @returns as {@link document} does; an empty text where the bucket has none.
   */
  bucketDocument(subresource: string, signal: AbortSignal): Promise<string | undefined> {
    const request = { method: 'GET', query: `${subresource}=`, headers: NONE, isOptional: true } as const;
    return this.#documentOf('ListObjectsV2Command', undefined, request, signal);
  }

  /**
   * Begins an upload of parts.
   * @param content what the object is given
   * @returns the upload's id, or undefined if the SDK must begin it.
   * @throws as {@link put}
   */
  async begin(key: string, content: Content, signal: AbortSignal): Promise<string | undefined> {
    const headers: Record<string, string> = { 'content-type': 'application/octet-stream' };
    give(headers, content);
    const request = { method: 'POST', query: 'uploads=', headers } as const;
    // Such an upload is given what an object is given that is written.
    const text = await this.#documentOf('PutObjectCommand', key, request, signal);
    if (text === undefined) return undefined;
    const id = text.includes('<InitiateMultipartUploadResult') ? field(text, 'UploadId') : undefined;
    if (id === undefined || id === '') throw noAnswer('an upload without id');
    return id;
  }

  /**
   * Completes an upload of parts.
   * @param parts numbers and ETags, in order
   * @param condition as of {@link put}
   * @returns the object's ETag, empty where the server does not tell it; undefined if the SDK must
   * complete it.
   * @throws as {@link put}
   */
  async complete(
    key: string,
    upload: string,
    parts: readonly { readonly number: number; readonly etag: string }[],
    condition: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    if (parts.some(({ etag }) => !PLAIN_ETAG.test(etag))) return undefined;
    const list = parts.map(
      ({ number, etag }) => `<Part><PartNumber>${number}</PartNumber><ETag>"${etag}"</ETag></Part>`,
    );
    const xmlns = 'http://s3.amazonaws.com/doc/2006-03-01/';
    const body = Buffer.from(
      `<CompleteMultipartUpload xmlns="${xmlns}">${list.join('')}</CompleteMultipartUpload>`,
    );
    const headers = { 'content-type': 'application/xml', ...conditionHeaders(condition) };
    const request = { method: 'POST', query: `uploadId=${encoded(upload)}`, headers, body } as const;
    // A failure may come with 200, once the work has begun (Amazon S3 API Reference).
    const text = await this.#documentOf('UploadPartCommand', key, request, signal);
    if (text?.includes('<CompleteMultipartUploadResult') !== true) return undefined;
    return unquoted(field(text, 'ETag'));
  }

  /**
   * Aborts an upload of parts.
   * @returns whether it is gone; otherwise the SDK must make the request.
   * @throws S3Failure of kind transient; what the connection throws.
   */
  async abort(key: string, upload: string, signal: AbortSignal): Promise<boolean> {
    const query = `uploadId=${encoded(upload)}`;
    const request = { method: 'DELETE', query, headers: NONE, isOptional: true } as const;
    const answer = await this.#send('HeadObjectCommand', key, request, signal, unwanted);
    return answer?.status === 204 || answer?.status === 404;
  }

  /**
   * @param query fields of ListObjectsV2, named as in the query string
   * @returns the answer's body, or undefined if the SDK must make the request.
   */
  list(query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<string | undefined> {
    const fields = Object.entries({ ...query, 'list-type': '2', 'encoding-type': 'url' });
    const parts = fields.map(([name, value]) => `${name}=${encoded(value)}`).sort();
    const request = { method: 'GET', query: parts.join('&'), headers: NONE } as const;
    return this.#documentOf('ListObjectsV2Command', undefined, request, signal);
  }

  /**
   * @returns the answer's body, empty where there is nothing of an optional kind; undefined if the
   * SDK must make the request.
   */
  async #documentOf(
    kind: Kind,
    key: string | undefined,
    request: RequestParts,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const body = new Collected(DOCUMENT_MAX_BYTES);
    const answer = await this.#send(kind, key, request, signal, ({ status }) =>
      status === 200 ? body : undefined,
    );
    return answer?.status === 200 || answer?.status === 404 ? body.toString() : undefined;
  }

  async #write(
    kind: Kind,
    key: string,
    parts: RequestParts,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const answer = await this.#send(kind, key, parts, signal, unwanted);
    const etag = unquoted(answer?.headers.get('etag'));
    return answer?.status === 200 && etag !== '' ? etag : undefined;
  }

  /**
   * @returns the answer, or undefined if the SDK must make the request.
   */
  async #send(
    kind: Kind,
    key: string | undefined,
    parts: RequestParts,
    signal: AbortSignal,
    accept: (answer: WireAnswer) => Sink | undefined,
  ): Promise<WireAnswer | undefined> {
    const template = this.#templates.get(kind);
    if (template === undefined) return undefined;
    if (
      parts.headers !== NONE &&
      Object.values(parts.headers).some((value) => !UNAMBIGUOUS_VALUE.test(value))
    )
      return undefined;
    const path = template.prefix + (key === undefined ? '' : `/${encodedKey(key)}`);
    const { method, query, body, pace } = parts;
    const digest = body === undefined || body.length === 0 ? EMPTY_SHA256 : await hashOf(body);
    let signing = this.#signing;
    if (signing === undefined || performance.now() > signing.until) signing = await this.#renewed();
    const headers = this.#signed(template, path, parts, digest, signing);
    const request = { method, path: query === '' ? path : `${path}?${query}`, headers, body, pace };
    const { direct, server } = template;
    const answer = await (direct === undefined
      ? exchange(this.#connections.to(server), request, signal, accept)
      : direct.exchange(request, signal, accept));
    const { status } = answer;
    if (status >= 500 && status !== 501) throw new S3Failure('transient', status, 'ServerError');
    if (status === 412) throw new S3Failure('precondition', 412, 'PreconditionFailed');
    if (status >= 200 && status < 300) return answer;
    if ((method === 'HEAD' || parts.isOptional === true) && status === 404) return answer;
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
    { method, query, headers }: RequestParts,
    digest: string,
    signing: SigningContext,
  ): Record<string, string> {
    const plain = digest === EMPTY_SHA256 && headers === NONE;
    const fields = plain
      ? this.#plainFields(template, signing)
      : fieldsOf(template, headers, digest, signing);
    const canonical = `${method}\n${path}\n${query}\n${fields.canonical}`;
    const scope = `${signing.date.slice(0, 8)}/${template.region}/s3/aws4_request`;
    const { accessKeyId, secretAccessKey } = signing.credentials;
    const signature = signatureOf(canonical, signing.date, scope, this.#keyFor(scope, secretAccessKey));
    const authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${fields.names}, Signature=${signature}`;
    return { ...fields.headers, authorization };
  }

  /**
   * The fields of requests without a body and own headers. They are the same while time and
   * credentials are reused.
   */
  #plainFields(template: Template, signing: SigningContext): SignedHeaders {
    let fields = signing.plain.get(template);
    if (fields === undefined) {
      fields = fieldsOf(template, NONE, EMPTY_SHA256, signing);
      signing.plain.set(template, fields);
    }
    return fields;
  }

  /** Gets time and credentials, at most once a second. */
  async #renewed(): Promise<SigningContext> {
    const credentials = this.#plain?.credentials ?? (await this.#client().config.credentials());
    const date = new Date(Date.now() + this.#clockOffset()).toISOString().replace(/[-:]|\.\d+/g, '');
    this.#signing = { until: performance.now() + SIGNING_CONTEXT_MS, date, credentials, plain: new Map() };
    return this.#signing;
  }

  #keyFor(scope: string, secret: string): Buffer {
    if (this.#signingKey?.scope !== scope || this.#signingKey.secret !== secret) {
      this.#signingKey = { scope, secret, key: signingKey(secret, scope) };
    }
    return this.#signingKey.key;
  }

  /**
   * @param own names of headers that each request is given anew
   * @returns undefined if the request is no template: it is signed in another way, or the key is
   * not at the end of its path.
   */
  #templateOf(
    request: SignedRequest,
    key: string | undefined,
    own: ReadonlySet<string>,
  ): Template | undefined {
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
      if (own.has(lower)) continue;
      if (SDK_ONLY_HEADERS.some((start) => lower.startsWith(start))) return undefined;
      const kept = lower === 'host' || (lower.startsWith('x-amz-') && !lower.startsWith('x-amz-meta-'));
      if (kept && !PER_REQUEST_HEADERS.has(lower)) headers[lower] = value;
    }
    if (headers['host'] === undefined) return undefined;
    const prefix = path.slice(0, path.length - end.length);
    const { protocol, hostname, port } = request;
    const server = { protocol, hostname, port };
    return { server, direct: this.#connections.directTo(server), prefix, region, headers };
  }

  close(): void {
    this.#templates.clear();
    this.#connections.close();
  }
}

/** The headers of a condition whose fields are named as the SDK names them. */
function conditionHeaders(condition: Readonly<Record<string, string>>): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(condition))
    headers[name.replace(/(?!^)[A-Z]/g, '-$&').toLowerCase()] = value;
  return headers;
}

/** Adds the headers of what an object is given. */
function give(headers: Record<string, string>, content: Content): void {
  Object.assign(headers, content.headers);
  for (const [name, value] of Object.entries(content.metadata)) {
    headers[`x-amz-meta-${name.toLowerCase()}`] = value;
  }
}

function fieldsOf(
  template: Template,
  own: Readonly<Record<string, string>>,
  digest: string,
  { date, credentials: { sessionToken } }: SigningContext,
): SignedHeaders {
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
  if (body.length <= SLICE_BYTES) return hash('sha256', body, 'hex');
  // On this thread: another one's digest begins with a copy, which takes longer than the sum.
  return (await sumOf('sha256', [body])).toString('hex');
}
