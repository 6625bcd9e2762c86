import { Agent, createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createHash } from 'node:crypto';
import { ProxiedChecksums } from './proxied-checksums.js';
import { signed } from './signature.js';

/** What the proxy does to one request instead of, or beside, passing it on. */
export type Fault =
  /** Answers 503 SlowDown without asking the server. */
  | 'slow-down'
  /** Answers 500 after the server has done what was asked. */
  | 'internal-error'
  /** Closes the connection without asking the server. */
  | 'reset-before'
  /** Closes the connection after the server has done what was asked. */
  | 'reset-after'
  /** Cuts the body of the answer short. */
  | 'short-body'
  /** Waits a little first. */
  | 'delay'
  /** Carries the request out three seconds later, when nobody may wait for the answer any more. */
  | 'late'
  /** Never answers. */
  | 'hang'
  /** 400 ExpiredToken. */
  | 'expired'
  /** 403 QuotaExceeded, AccessDenied, InvalidObjectState. */
  | 'quota'
  | 'denied'
  | 'archived'
  /** 404 NoSuchBucket. */
  | 'no-bucket'
  /** 409 ConditionalRequestConflict. */
  | 'conflict'
  /** 501 NotImplemented. */
  | 'not-implemented'
  /** 405 MethodNotAllowed. */
  | 'not-allowed'
  /** 200, in which every key of DeleteObjects is refused by a code of the server's own. */
  | 'refuse-keys'
  /** The same, in which no key is there. */
  | 'no-keys'
  /** 200, with bytes that are no document. */
  | 'no-document'
  /** 200, with an ETag and no body. */
  | 'no-body'
  /** 200 with a page of a thousand names, after which there are more. */
  | 'endless'
  /** 400 BadDigest. */
  | 'bad-digest'
  /** Carries the request out without looking at its conditions. */
  | 'ignore-conditions'
  /** Carries the request out twice, and gives the second answer. */
  | 'duplicate'
  /** 200 with a page of HTML, as a captive portal answers, without asking the server. */
  | 'portal'
  /** Leaves the ETag out of the answer. */
  | 'no-etag'
  /** Gives another ETag in the answer. */
  | 'wrong-etag'
  /** Flips a bit of the body of the answer, whose length stays. */
  | 'flip'
  /** Refuses the request for its condition, whatever is there. */
  | 'refuse-conditions';

/** A request as the proxy sees it. */
export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** Operation, told by method and query: `PutObject`, `UploadPart`, …. */
  readonly operation: string;
  readonly headers: IncomingMessage['headers'];
  /** It has a condition on what is there, or on the source of a copy. */
  readonly conditional: boolean;
}

const codes: Readonly<Partial<Record<Fault, readonly [number, string]>>> = {
  'slow-down': [503, 'SlowDown'],
  'internal-error': [500, 'InternalError'],
  expired: [400, 'ExpiredToken'],
  quota: [403, 'QuotaExceeded'],
  denied: [403, 'AccessDenied'],
  archived: [403, 'InvalidObjectState'],
  'no-bucket': [404, 'NoSuchBucket'],
  conflict: [409, 'ConditionalRequestConflict'],
  'not-implemented': [501, 'NotImplemented'],
  'not-allowed': [405, 'MethodNotAllowed'],
  'bad-digest': [400, 'BadDigest'],
};

/**
 * A proxy of our own in front of the real server. It injects faults, and gives what this server
 * lacks: If-Match with quotes, conditions on CompleteMultipartUpload and on the source of a copy,
 * and checksums of objects, as Amazon has them.
 */
export class Proxy {
  readonly endpoint: string;
  /** Called for each request. It returns a fault, or undefined to let the request pass. */
  fault: (seen: Seen) => Fault | undefined = () => undefined;
  readonly seen: Seen[] = [];
  /** Leaves conditions to the server, which has its own ideas of them. */
  raw = false;
  readonly #checksums = new ProxiedChecksums();
  readonly #server: Server;
  readonly #target: URL;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 64 });
  readonly #writes = new Map<string, Promise<unknown>>();
  readonly #onward = new Set<Promise<unknown>>();
  /** Of requests: those that came before the last cut are not passed on any more. */
  #era = 0;

  private constructor(server: Server, endpoint: string, target: URL) {
    this.#server = server;
    this.endpoint = endpoint;
    this.#target = target;
    server.on('request', (request, response) => {
      this.#serve(request, response).catch(() => response.destroy());
    });
  }

  static async start(target: string): Promise<Proxy> {
    const server = createServer({ keepAliveTimeout: 60_000 });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no TCP address');
    return new Proxy(server, `http://127.0.0.1:${address.port}`, new URL(target));
  }

  /** Returns when the server has dealt with all that was passed on to it. */
  async settled(): Promise<void> {
    while (this.#onward.size > 0) await Promise.allSettled(this.#onward);
  }

  /**
   * Breaks all connections. What was not passed on yet is not passed on any more. Returns when the
   * server has dealt with the rest.
   */
  async cut(): Promise<void> {
    this.#era += 1;
    this.#server.closeAllConnections();
    await this.settled();
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    await this.cut();
    await closed;
    this.#agent.destroy();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const era = this.#era;
    const body = await collect(request);
    const seen = describe(request);
    this.seen.push(seen);
    const fault = this.fault(seen);
    if (fault === 'hang') return;
    if (fault === 'reset-before') {
      response.destroy();
      return;
    }
    const code = fault === undefined ? undefined : codes[fault];
    if (code !== undefined && fault !== 'internal-error') return answerError(request, response, ...code);
    if (fault === 'delay') await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 100));
    if (fault === 'late') await new Promise((resolve) => setTimeout(resolve, 3000));
    if (fault === 'portal') return answerPage(request, response);
    if (fault === 'no-body') return void response.writeHead(200, { etag: '"0"' }).end();
    if (fault === 'no-document') return void response.writeHead(200, { etag: '"0"' }).end('bytes');
    if (fault === 'endless') return answerNames(response, seen.query);
    if (fault === 'refuse-keys') return answerKeys(response, body, 'WormEnforced');
    if (fault === 'no-keys') return answerKeys(response, body, 'NoSuchKey');
    if (fault === 'refuse-conditions') return answerError(request, response, 412, 'PreconditionFailed');
    const asked = { ...seen, url: request.url ?? '/', body };
    if (!(await this.#checksums.isSound(asked))) return answerError(request, response, 400, 'BadDigest');
    if (era !== this.#era) return;
    const always = fault === 'ignore-conditions';
    const once = (): Promise<Answer | undefined> => this.#carryOut(request, body, seen, always);
    const work = fault === 'duplicate' ? once().then(once) : once();
    this.#onward.add(work);
    const answer = await work.finally(() => this.#onward.delete(work));
    if (fault === 'reset-after') {
      response.destroy();
      return;
    }
    if (fault === 'internal-error') return answerError(request, response, 500, 'InternalError');
    if (answer === undefined) return answerError(request, response, 412, 'PreconditionFailed');
    const { etag } = answer.headers;
    if (answer.status === 200) await this.#checksums.note(asked, etag);
    const { etag: _, ...own } = answer.headers;
    const others = { ...own, ...this.#checksums.answered(asked, answer.headers) };
    const told = fault === 'wrong-etag' && etag !== undefined ? `"${'0'.repeat(32)}"` : etag;
    if (fault === 'flip' && answer.body.length > 0) answer.body[answer.body.length >> 1]! ^= 1;
    response.writeHead(
      answer.status,
      fault === 'no-etag' || told === undefined ? others : { ...others, etag: told },
    );
    if (fault === 'short-body' && answer.body.length > 1 && request.method === 'GET') {
      response.write(answer.body.subarray(0, answer.body.length >> 1), () => response.destroy());
    } else response.end(answer.body);
  }

  /**
   * Writes of one key come one after the other, so that a condition holds until its write is done.
   */
  #carryOut(
    request: IncomingMessage,
    body: Buffer,
    seen: Seen,
    always: boolean,
  ): Promise<Answer | undefined> {
    if (this.raw || (seen.method !== 'PUT' && seen.method !== 'POST')) return this.#forward(request, body);
    const before = this.#writes.get(seen.path) ?? Promise.resolve();
    const work = before.then(async () =>
      always || (await this.#conditionHolds(request, seen)) ? this.#forward(request, body) : undefined,
    );
    const done = work.catch(() => undefined);
    this.#writes.set(seen.path, done);
    void done.finally(() => {
      if (this.#writes.get(seen.path) === done) this.#writes.delete(seen.path);
    });
    return work;
  }

  async #conditionHolds(request: IncomingMessage, seen: Seen): Promise<boolean> {
    const { headers } = request;
    const source = headers['x-amz-copy-source'];
    const sourceMatch = headers['x-amz-copy-source-if-match'];
    if (typeof source === 'string' && typeof sourceMatch === 'string') {
      return (await this.#etag(`/${source.replace(/^\//, '')}`)) === sourceMatch;
    }
    if (seen.operation !== 'CompleteMultipartUpload' && seen.operation !== 'PutObject') return true;
    if (headers['if-match'] !== undefined) return (await this.#etag(seen.path)) === headers['if-match'];
    return headers['if-none-match'] !== '*' || (await this.#etag(seen.path)) === undefined;
  }

  async #etag(path: string): Promise<string | undefined> {
    const { status, headers } = await this.#send('HEAD', new URL(path, this.#target), {}, Buffer.alloc(0));
    return status === 200 ? headers.etag : undefined;
  }

  /**
   * Passes a request on, without the conditions, which the proxy has checked, and so with a
   * signature of its own.
   */
  #forward(request: IncomingMessage, body: Buffer): Promise<Answer> {
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(request.headers)) {
      const isKept = !dropped.has(name) || (conditions.has(name) && (this.raw || request.method === 'GET'));
      if (typeof value === 'string' && isKept) headers[name] = value;
    }
    return this.#send(request.method ?? 'GET', new URL(request.url ?? '/', this.#target), headers, body);
  }

  #send(method: string, url: URL, headers: Record<string, string>, body: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const onward = httpRequest(url, {
        method,
        agent: this.#agent,
        headers: signed(method, url, headers, body),
      });
      onward.on('response', (answer) => {
        const { statusCode: status = 502, headers: answered } = answer;
        collect(answer).then((bytes) => resolve({ status, headers: answered, body: bytes }), reject);
      });
      onward.on('error', reject);
      onward.end(body);
    });
  }
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

const conditions = new Set(['if-match', 'if-none-match', 'x-amz-copy-source-if-match']);

/** Headers that the proxy answers for itself. */
const dropped = new Set([
  'host',
  'connection',
  'authorization',
  ...conditions,
  'transfer-encoding',
  'expect',
  // The proxy's own keys have no session.
  'x-amz-security-token',
  // The real server has no keys of its own to encrypt with, and no accounts that pay.
  'x-amz-server-side-encryption',
  'x-amz-server-side-encryption-aws-kms-key-id',
  'x-amz-request-payer',
]);

function describe(request: IncomingMessage): Seen {
  const url = new URL(request.url ?? '/', 'http://proxy');
  const method = request.method ?? 'GET';
  const { headers } = request;
  const conditional = method !== 'GET' && Object.keys(headers).some((name) => /if-(none-)?match$/.test(name));
  const operation = operationOf(method, url, headers);
  return { method, path: url.pathname, query: url.searchParams, operation, headers, conditional };
}

/** What requests name besides the object itself. */
const SUBRESOURCES = [
  ['acl', 'Acl'],
  ['tagging', 'Tagging'],
  ['retention', 'Retention'],
  ['legal-hold', 'LegalHold'],
] as const;

function operationOf(
  method: string,
  { pathname, searchParams }: URL,
  headers: IncomingMessage['headers'],
): string {
  const object = pathname.split('/').length > 2 && pathname.split('/')[2] !== '';
  const copy = headers['x-amz-copy-source'] !== undefined;
  if (!object) {
    if (searchParams.has('uploads')) return 'ListMultipartUploads';
    if (searchParams.has('delete')) return 'DeleteObjects';
    if (searchParams.has('ownershipControls')) return 'GetBucketOwnershipControls';
    return method === 'GET' ? 'ListObjectsV2' : method === 'HEAD' ? 'HeadBucket' : 'CreateBucket';
  }
  if (searchParams.has('uploads')) return 'CreateMultipartUpload';
  for (const [query, what] of SUBRESOURCES) {
    if (searchParams.has(query)) return `${method === 'PUT' ? 'Put' : 'Get'}Object${what}`;
  }
  if (searchParams.has('partNumber')) return copy ? 'UploadPartCopy' : 'UploadPart';
  if (searchParams.has('uploadId'))
    return method === 'POST' ? 'CompleteMultipartUpload' : 'AbortMultipartUpload';
  if (method === 'PUT') return copy ? 'CopyObject' : 'PutObject';
  return method === 'DELETE' ? 'DeleteObject' : method === 'HEAD' ? 'HeadObject' : 'GetObject';
}

async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function answerPage(request: IncomingMessage, response: ServerResponse): void {
  const page = '<html><body>Log in</body></html>';
  response.writeHead(200, { 'content-type': 'text/html', 'content-length': page.length });
  response.end(request.method === 'HEAD' ? '' : page);
}

function answerNames(response: ServerResponse, query: URLSearchParams): void {
  const page = Number(query.get('continuation-token') ?? 0);
  const contents = Array.from(
    { length: 1000 },
    (_, i) =>
      `<Contents><Key>${query.get('prefix')}${page}-${i}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>` +
      `<ETag>"0"</ETag><Size>1</Size></Contents>`,
  );
  response.writeHead(200, { 'content-type': 'application/xml' });
  response.end(
    `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>` +
      `<NextContinuationToken>${page + 1}</NextContinuationToken>${contents.join('')}</ListBucketResult>`,
  );
}

function answerKeys(response: ServerResponse, body: Buffer, code: string): void {
  const errors = Array.from(
    body.toString().matchAll(/<Key>[^<]*<\/Key>/g),
    ([key]) => `<Error>${key}<Code>${code}</Code><Message>injected</Message></Error>`,
  );
  response.writeHead(200, { 'content-type': 'application/xml' });
  response.end(`<?xml version="1.0" encoding="UTF-8"?><DeleteResult>${errors.join('')}</DeleteResult>`);
}

function answerError(request: IncomingMessage, response: ServerResponse, status: number, code: string): void {
  const id = createHash('sha1').update(String(request.url)).digest('hex').slice(0, 8);
  const xml = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>injected</Message><RequestId>${id}</RequestId></Error>`;
  response.writeHead(status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(xml) });
  response.end(request.method === 'HEAD' ? '' : xml);
}
