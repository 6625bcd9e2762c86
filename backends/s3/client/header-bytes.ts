import { Readable } from 'node:stream';
import type { S3Client } from '@aws-sdk/client-s3';
import { proxyFor } from './proxies.js';
import { encoded, signatureOf, signingKey } from './signature.js';
import { Collected, exchange } from './http.js';
import type { Connections } from './connections.js';
import type { WireRequest } from './http.js';

/** A character of a header that stands for a byte beyond ASCII, as Node shows those. */
const BEYOND_ASCII = /[\u0080-\u00ff]/;
/** Headers that concern a connection of the SDK's, and not the request. */
const HOP_HEADERS = new Set(['connection', 'expect', 'transfer-encoding']);

/** A request that the SDK has signed, with what it needs of it here. */
interface SdkRequest {
  readonly method: string;
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | string[] | null>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

interface SdkAnswer {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: unknown;
}

/** What sends the SDK's requests, the last of its layers. */
interface SdkHandler {
  handle(
    request: SdkRequest,
    options?: { readonly abortSignal?: AbortSignal },
  ): Promise<{ response: SdkAnswer }>;
}

/**
 * Lets requests of the SDK carry headers with any bytes, each as one character. What others have
 * put into metadata must go back as it came, and the SDK alone can't do that: it signs the UTF-8 of
 * a value, of which Node sends the Latin-1, and in front of a body Node rewrites
 * Content-Disposition. Such requests are signed anew and sent here, and so are those that go by way
 * of a proxy, of which the SDK knows nothing; all others pass.
 */
export function sendHeaderBytes(client: S3Client, connections: Connections): void {
  const handler = client.config.requestHandler as unknown as SdkHandler;
  const pass = handler.handle.bind(handler);
  handler.handle = (request, options) => {
    const isOurs =
      proxyFor(request) !== undefined ||
      Object.values(request.headers).some((value) => BEYOND_ASCII.test(value));
    return isOurs ? send(client, connections, request, options?.abortSignal) : pass(request, options);
  };
}

async function send(
  client: S3Client,
  connections: Connections,
  request: SdkRequest,
  signal = new AbortController().signal,
): Promise<{ response: SdkAnswer }> {
  const query = canonicalQuery(request.query ?? {});
  const headers = await signedAnew(client, request, query);
  const { method, path, body } = request;
  const bytes = body instanceof Uint8Array ? body : Buffer.from((body as string | undefined) ?? '');
  const sent = {
    method: method as WireRequest['method'],
    path: query === '' ? path : `${path}?${query}`,
    headers,
    body: method === 'HEAD' || method === 'GET' ? undefined : bytes,
  };
  const content = new Collected();
  const answer = await exchange(connections.to(request), sent, signal, () => content);
  const response = {
    statusCode: answer.status,
    headers: Object.fromEntries(answer.headers),
    body: Readable.from([content.bytes()]),
  };
  return { response };
}

function canonicalQuery(query: NonNullable<SdkRequest['query']>): string {
  return Object.entries(query)
    .flatMap(([name, value]) =>
      (Array.isArray(value) ? value : [value ?? '']).map((one) => `${encoded(name)}=${encoded(one)}`),
    )
    .sort()
    .join('&');
}

/** @returns the headers to send. One that is signed in another way is sent as it is. */
async function signedAnew(
  client: S3Client,
  request: SdkRequest,
  query: string,
): Promise<Record<string, string>> {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(request.headers)) {
    if (!HOP_HEADERS.has(name.toLowerCase())) headers[name.toLowerCase()] = value;
  }
  const was = /^AWS4-HMAC-SHA256 Credential=[^/]+\/([^,]+\/s3\/aws4_request), ?SignedHeaders=([^,]+),/.exec(
    headers['authorization'] ?? '',
  );
  if (was === null) return headers;
  const [, scope, names] = was as unknown as [string, string, string];
  const { accessKeyId, secretAccessKey, sessionToken } = await client.config.credentials();
  if (sessionToken !== undefined) headers['x-amz-security-token'] = sessionToken;
  const lines = names
    .split(';')
    .map((name) => `${name}:${(headers[name] ?? '').replace(/[ \t]+/g, ' ').replace(/^ | $/g, '')}\n`);
  const digest = headers['x-amz-content-sha256'] ?? '';
  const canonical = `${request.method}\n${request.path}\n${query}\n${lines.join('')}\n${names}\n${digest}`;
  const date = headers['x-amz-date'] ?? '';
  const signature = signatureOf(canonical, date, scope, signingKey(secretAccessKey, scope));
  headers['authorization'] =
    `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${names}, Signature=${signature}`;
  return headers;
}
