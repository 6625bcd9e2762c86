import { FsError } from '../../backend/index.js';
import { readMultistatus, type Resource } from './multistatus.js';

/** How a WebDAV server is reached. */
export interface WebdavOptions {
  /** Sent with each request: `{ authorization: 'Basic …' }`. No other server gets them. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /**
   * Milliseconds after which a request fails (ETIMEDOUT), 1 or more; content has as much again for
   * each mebibyte. Default: 30,000.
   */
  readonly timeoutMs?: number | undefined;
  /**
   * Bytes in memory of all files together that were written and are not closed yet, each in pieces
   * of 64 KiB; more is ENOSPC. Default: 256 MiB.
   */
  readonly draftBytes?: number | undefined;
  /**
   * Whether changes of modes, owners and times, which WebDAV does not have, succeed without effect,
   * as git and rsync need it. Default: they are EPERM.
   */
  readonly isQuiet?: boolean | undefined;
}

/** What is asked of each resource. */
const PROPERTIES = Buffer.from(
  '<?xml version="1.0"?><propfind xmlns="DAV:"><prop>' +
    '<resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>',
);

/** Bytes of an answer to PROPFIND, of one resource and of a directory with all that is in it. */
const ANSWER_MAX = { '0': 2 ** 16, '1': 2 ** 24 } as const;
/** Bytes of all such answers together. */
const ANSWERS_MAX = 2 ** 26;
const MEBIBYTE = 2 ** 20;

const REDIRECTIONS: ReadonlySet<number> = new Set([301, 302, 307, 308]);
const REDIRECTIONS_MAX = 5;

/** What is sent; from its begin again where the server has moved the resource. */
export type Body = Uint8Array<ArrayBuffer> | (() => AsyncIterable<Uint8Array<ArrayBuffer>>);

/** Requests to a WebDAV server (RFC 4918), with its errors as guests are told them. */
export class Server {
  /** Address of the root, with a slash at its end. */
  readonly root: URL;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #timeoutMs: number;
  /** Bytes of answers to PROPFIND that are in memory. */
  #answers = 0;

  constructor(url: string, { headers = {}, timeoutMs = 30_000 }: WebdavOptions) {
    this.root = new URL(url.endsWith('/') ? url : `${url}/`);
    this.#headers = headers;
    this.#timeoutMs = timeoutMs;
  }

  /** @param path from the root, as `PathFileSystem` has them. */
  urlOf(path: string): URL {
    return new URL(path.slice(1).split('/').map(encodeURIComponent).join('/'), this.root);
  }

  /**
   * Asks the server.
   * @param bytes of content that goes there or comes back, for the time that it may take.
   * @param accepts statuses beside 2xx that are no error.
   */
  async ask(
    method: string,
    url: URL,
    { headers, body }: { readonly headers?: Record<string, string>; readonly body?: Body } = {},
    { bytes = 0, accepts = [] }: { readonly bytes?: number; readonly accepts?: readonly number[] } = {},
  ): Promise<Response> {
    const signal = AbortSignal.timeout(Math.ceil(this.#timeoutMs * (1 + bytes / MEBIBYTE)));
    const init = { method, headers: { ...this.#headers, ...headers }, signal };
    const response = await this.#follow(url, init, body);
    if (response.ok || accepts.includes(response.status)) return response;
    await response.body?.cancel();
    throw (
      errorOf(response.status) ?? new Error(`${method} ${url.href}: the server answered ${response.status}`)
    );
  }

  /** Sends a request, also where the server has moved the resource to. It stays this server. */
  async #follow(url: URL, init: RequestInit, body?: Body): Promise<Response> {
    for (let at = url, count = 0; ; count++) {
      const content = typeof body === 'function' ? body() : body;
      const request = { ...init, redirect: 'manual', duplex: 'half', body: content ?? null } as const;
      const response = await fetch(at, request).catch(timedOut);
      const location = REDIRECTIONS.has(response.status) ? response.headers.get('location') : null;
      if (location === null || !URL.canParse(location, at.href)) return response;
      await response.body?.cancel();
      at = new URL(location, at);
      if (at.origin !== this.root.origin || count === REDIRECTIONS_MAX)
        throw new Error(
          `${init.method} ${url.href}: the server sends it to ${at.href}, which is not followed`,
        );
    }
  }

  /**
   * Does what answers nothing of interest.
   * @returns the status.
   * @throws Error if it was done in part (RFC 4918, sections 9.6.1 and 9.9.4).
   */
  async do(
    method: string,
    url: URL,
    headers: Record<string, string> = {},
    accepts: readonly number[] = [],
  ): Promise<number> {
    const response = await this.ask(method, url, { headers }, { accepts });
    await response.body?.cancel();
    if (response.status === 207) throw new Error(`${method} ${url.href}: the server did it in part`);
    return response.status;
  }

  /**
   * What the server says of a resource, and of what is right below it.
   * @throws EFBIG for an answer that is too long, ENOMEM for too many of them at a time.
   */
  async propfind(url: URL, depth: '0' | '1'): Promise<readonly Resource[]> {
    const headers = { depth, 'content-type': 'application/xml' };
    const response = await this.ask('PROPFIND', url, { headers, body: PROPERTIES });
    const parts: Uint8Array[] = [];
    let length = 0;
    try {
      for await (const part of contentOf(response)) {
        length += part.length;
        this.#answers += part.length;
        if (length > ANSWER_MAX[depth]) throw FsError.of('EFBIG');
        if (this.#answers > ANSWERS_MAX) throw FsError.of('ENOMEM');
        parts.push(part);
      }
      const resources = await readMultistatus(Buffer.concat(parts).toString());
      if (resources === undefined) throw new Error(`PROPFIND ${url.href}: the answer is no multistatus`);
      return resources;
    } finally {
      this.#answers -= length;
    }
  }
}

/** The content of an answer, as it comes. @throws ETIMEDOUT */
export async function* contentOf(response: Response): AsyncGenerator<Uint8Array, void> {
  try {
    yield* response.body ?? [];
  } catch (error) {
    timedOut(error);
  }
}

/** Throws an error, as guests are told it where time is over. */
function timedOut(error: unknown): never {
  throw error instanceof Error && error.name === 'TimeoutError' ? FsError.of('ETIMEDOUT') : error;
}

/** RFC 9110, section 15, and RFC 4918, section 11. */
function errorOf(status: number): FsError | undefined {
  switch (status) {
    case 401:
    case 403:
      return FsError.of('EACCES');
    case 404:
    case 410:
    // Of what is to be made: the directory around it is missing.
    case 409:
      return FsError.of('ENOENT');
    case 405:
    case 501:
      return FsError.of('EPERM');
    case 412:
      return FsError.of('EEXIST');
    case 413:
      return FsError.of('EFBIG');
    case 414:
      return FsError.of('ENAMETOOLONG');
    case 423:
      return FsError.of('EBUSY');
    case 507:
      return FsError.of('ENOSPC');
    default:
      return undefined;
  }
}
