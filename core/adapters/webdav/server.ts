import { FsError } from '../../backend/index.js';

/** How a WebDAV server is reached. */
export interface WebdavOptions {
  /** Sent with each request: `{ authorization: 'Basic …' }`. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /**
   * Milliseconds after which a request fails (ETIMEDOUT), 1 or more; content has as much again for
   * each mebibyte. Default: 30,000.
   */
  readonly timeoutMs?: number | undefined;
  /**
   * Bytes of all files together that were written and are not closed yet; more is ENOSPC. Default:
   * 256 MiB.
   */
  readonly draftBytes?: number | undefined;
  /**
   * Whether changes of modes, owners and times, which WebDAV does not have, succeed without effect,
   * as git and rsync need it. Default: they are EPERM.
   */
  readonly isQuiet?: boolean | undefined;
}

/** Bytes of an answer that is no file's content. */
const ANSWER_MAX = 2 ** 24;
const MEBIBYTE = 2 ** 20;

/** Requests to a WebDAV server (RFC 4918), with its errors as guests are told them. */
export class Server {
  /** Address of the root, with a slash at its end. */
  readonly root: URL;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #timeoutMs: number;

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
    init: { readonly headers?: Record<string, string>; readonly body?: Uint8Array<ArrayBuffer> } = {},
    { bytes = 0, accepts = [] }: { readonly bytes?: number; readonly accepts?: readonly number[] } = {},
  ): Promise<Response> {
    const signal = AbortSignal.timeout(Math.ceil(this.#timeoutMs * (1 + bytes / MEBIBYTE)));
    const headers = { ...this.#headers, ...init.headers };
    const response = await fetch(url, { ...init, method, headers, signal }).catch((error: unknown) => {
      if (signal.aborted) throw FsError.of('ETIMEDOUT');
      throw error;
    });
    if (response.ok || accepts.includes(response.status)) return response;
    await response.body?.cancel();
    throw (
      errorOf(response.status) ?? new Error(`${method} ${url.href}: the server answered ${response.status}`)
    );
  }

  /** Does what answers nothing of interest. @returns the status. */
  async do(
    method: string,
    url: URL,
    headers: Record<string, string> = {},
    accepts: readonly number[] = [],
  ): Promise<number> {
    const response = await this.ask(method, url, { headers }, { accepts });
    await response.body?.cancel();
    return response.status;
  }

  /** The text of an answer. @throws EFBIG beyond 16 MiB. */
  async text(response: Response): Promise<string> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const part of response.body ?? []) {
      length += part.length;
      if (length > ANSWER_MAX) throw FsError.of('EFBIG');
      parts.push(part);
    }
    return Buffer.concat(parts).toString();
  }
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
