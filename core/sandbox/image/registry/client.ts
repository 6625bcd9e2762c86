import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, EnvHttpProxyAgent, fetch, type Response } from 'undici';
import * as z from 'zod';
import { UsageError } from '../../../backend/index.js';
import { parse } from '../documents.js';
import { type Credentials, credentialsFor } from './credentials.js';

/*
 * The HTTP of registries: OCI distribution specification 1.1, and Docker's token authentication
 * (distribution/distribution, docs/spec/auth). What a registry answers is checked by whoever asks.
 */

/** What an image may be described by. */
export const MANIFEST_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];

/** What the API's host is called where the name of images has another one. */
const API_HOSTS: Readonly<Record<string, string>> = { 'docker.io': 'registry-1.docker.io' };

/** Longest time without a byte. */
const STALL_MS = 60_000;

const MOST_REDIRECTIONS = 5;
const REDIRECTIONS = new Set([301, 302, 303, 307, 308]);

const MOST_ANSWER_BYTES = 1 << 20;

/** Least times between tries. */
const RETRY_MS = [500, 2000];

const errorsSchema = z.looseObject({
  errors: z.array(z.looseObject({ code: z.string().optional(), message: z.string().optional() })).min(1),
});

const tokenSchema = z.looseObject({ token: z.string().optional(), access_token: z.string().optional() });

/** What Node calls a server that is not who it says, or whom nobody known answers for. */
const CERTIFICATE_FAULT = /CERT|ISSUER|SIGNATURE|TRUST/;

/** What is sent: a form, or what gives the bytes. */
type FetchBody = URLSearchParams | (() => AsyncIterable<Uint8Array>);

/** A request of the API. */
interface ApiRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  /** Below the repository, or an address that the registry has given. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Makes what is sent, anew for each try. */
  readonly body?: (() => AsyncIterable<Uint8Array>) | undefined;
}

/** Reads from, and writes to, one repository of a registry. */
export class RegistryClient {
  readonly #registry: string;
  readonly #repository: string;
  readonly #host: string;
  readonly #isLoopback: boolean;
  readonly #connections: Agent | EnvHttpProxyAgent;
  #base: string | undefined;
  #authorization: string | undefined;

  /** @param registry `HOST[:PORT]`. */
  constructor(registry: string, repository: string) {
    this.#registry = registry;
    this.#repository = repository;
    this.#host = API_HOSTS[registry] ?? registry;
    this.#isLoopback = isLoopback(`https://${this.#host}`);
    const limits = { headersTimeout: STALL_MS, bodyTimeout: STALL_MS };
    // Nobody's proxy leads to this host.
    this.#connections = this.#isLoopback ? new Agent(limits) : new EnvHttpProxyAgent(limits);
  }

  /**
   * Asks for a manifest or a blob. What is not answered, or by an error that may pass, is asked
   * again.
   * @param version a digest; of manifests a tag, too.
   * @param signal ends this, and the reading of the answer.
   * @throws UsageError with what the registry, or the network, says.
   */
  async get(kind: 'manifests' | 'blobs', version: string, signal?: AbortSignal): Promise<Response> {
    const accept = kind === 'manifests' ? MANIFEST_TYPES.join(', ') : '*/*';
    const request: ApiRequest = { method: 'GET', path: `${kind}/${version}`, headers: { accept } };
    return this.#tried(version, signal, async () => this.#checked(await this.#ask(request, signal), version));
  }

  /**
   * Writes a blob, if the repository has it not yet.
   * @param open gives its bytes, again for each try.
   * @throws UsageError with what the registry, or the network, says.
   */
  async putBlob(
    { digest, size }: { readonly digest: string; readonly size: number },
    open: () => AsyncIterable<Uint8Array>,
    signal?: AbortSignal,
  ): Promise<void> {
    const blob: ApiRequest = { method: 'HEAD', path: `blobs/${digest}`, headers: {} };
    await this.#tried(digest, signal, async () => {
      const there = await this.#ask(blob, signal);
      await there.body?.cancel();
      if (there.ok) return there;
      const begin: ApiRequest = { method: 'POST', path: 'blobs/uploads/', headers: {} };
      const begun = await this.#checked(await this.#ask(begin, signal), digest);
      await begun.body?.cancel();
      const location = begun.headers.get('location') ?? '';
      if (!URL.canParse(location, begun.url))
        throw new UsageError(`${this.#registry}: does not say where a blob goes to`);
      const url = new URL(location, begun.url);
      url.searchParams.set('digest', digest);
      const headers = { 'content-type': 'application/octet-stream', 'content-length': `${size}` };
      const put: ApiRequest = { method: 'PUT', path: url.href, headers, body: open };
      return this.#checked(await this.#ask(put, signal), digest);
    });
  }

  /**
   * Writes a manifest under a tag.
   * @throws UsageError as {@link putBlob}.
   */
  async putManifest(tag: string, type: string, bytes: Buffer, signal?: AbortSignal): Promise<void> {
    const headers = { 'content-type': type, 'content-length': `${bytes.length}` };
    const body = (): AsyncIterable<Uint8Array> => Readable.from([bytes]);
    const put: ApiRequest = { method: 'PUT', path: `manifests/${tag}`, headers, body };
    await this.#tried(tag, signal, async () => this.#checked(await this.#ask(put, signal), tag));
  }

  /** Tries again what may succeed later. */
  async #tried(
    version: string,
    signal: AbortSignal | undefined,
    attempt: () => Promise<Response>,
  ): Promise<Response> {
    for (const wait of [...RETRY_MS, undefined]) {
      try {
        const response = await attempt();
        if (response.ok) return response;
        if (wait === undefined) throw await this.#refusal(response, version);
        await response.body?.cancel();
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof UsageError) throw error;
        if (wait === undefined) throw this.#unreachable(error);
      }
      await sleep(wait, undefined, { signal });
    }
    throw new UsageError(`${this.#registry}: no answer`);
  }

  /** @returns a success, or what may pass. @throws UsageError for what will not. */
  async #checked(response: Response, version: string): Promise<Response> {
    const isPassing = response.status === 429 || response.status >= 500;
    if (response.ok || isPassing) return response;
    throw await this.#refusal(response, version);
  }

  async #ask(request: ApiRequest, signal: AbortSignal | undefined): Promise<Response> {
    this.#base ??= await this.#findBase(signal);
    const { path } = request;
    const url = path.includes('://') ? path : `${this.#base}/v2/${this.#repository}/${path}`;
    this.#checkSafe(url);
    const isOwn = new URL(url).origin === new URL(this.#base).origin;
    const ask = (): Promise<Response> =>
      this.#fetch(url, { ...request.headers, ...(isOwn ? this.#header : undefined) }, signal, request);
    const response = await ask();
    if (response.status !== 401) return response;
    await response.body?.cancel();
    await this.#authorize(response.headers.get('www-authenticate') ?? '', signal);
    return ask();
  }

  get #header(): { authorization: string } | undefined {
    return this.#authorization === undefined ? undefined : { authorization: this.#authorization };
  }

  /** Follows redirections, without the authorization where one leads to another origin. */
  async #fetch(
    url: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal | undefined,
    { method = 'GET', body }: Partial<Pick<ApiRequest, 'method'>> & { body?: FetchBody | undefined } = {},
  ): Promise<Response> {
    let sent: Record<string, string> = { 'user-agent': 'virtiofs-kit', ...headers };
    for (let at = url, hops = 0; hops <= MOST_REDIRECTIONS; hops++) {
      const response = await fetch(at, {
        headers: sent,
        method,
        ...(body === undefined
          ? {}
          : { body: body instanceof URLSearchParams ? body : body(), duplex: 'half' as const }),
        redirect: 'manual',
        dispatcher: this.#connections,
        signal: signal ?? null,
      });
      const location = response.headers.get('location');
      if (!REDIRECTIONS.has(response.status) || location === null || body !== undefined) return response;
      await response.body?.cancel();
      const next = URL.canParse(location, at) ? new URL(location, at) : undefined;
      this.#checkSafe(next?.href ?? location);
      if (next?.origin !== new URL(at).origin) {
        const { authorization: _, ...others } = sent;
        sent = others;
      }
      at = next!.href;
    }
    throw new UsageError(`${this.#registry}: redirects more than ${MOST_REDIRECTIONS} times`);
  }

  /** Registries of the loopback device need no TLS, as for Docker; others do. */
  async #findBase(signal: AbortSignal | undefined): Promise<string> {
    const secure = `https://${this.#host}`;
    if (!this.#isLoopback) return secure;
    try {
      await (await this.#fetch(`${secure}/v2/`, {}, signal)).body?.cancel();
      return secure;
    } catch (error) {
      signal?.throwIfAborted();
      if (isCertificateFault(error)) throw this.#unreachable(error);
      return `http://${this.#host}`;
    }
  }

  /** Answers a challenge (RFC 9110, section 11.6.1): `Bearer` by a token, else `Basic`. */
  async #authorize(challenge: string, signal: AbortSignal | undefined): Promise<void> {
    const credentials = await credentialsFor(this.#registry, signal);
    const bearer = /(?:^|,\s*)bearer\s+(.*)/i.exec(challenge)?.[1];
    if (bearer !== undefined) {
      this.#authorization = `Bearer ${await this.#token(parametersOf(bearer), credentials, signal)}`;
    } else if (/(?:^|,\s*)basic\b/i.test(challenge)) {
      if (credentials === undefined || !('user' in credentials))
        throw new UsageError(`${this.#registry}: needs a user and a password: docker login has none stored`);
      this.#authorization = basic(credentials);
    } else {
      throw new UsageError(`${this.#registry}: asks for credentials of an unknown kind`);
    }
  }

  async #token(
    { realm = '', service, scope }: Partial<Record<string, string>>,
    credentials: Credentials | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const what = `${this.#registry}: its server of tokens`;
    if (!URL.canParse(realm)) throw new UsageError(`${what} has no address`);
    this.#checkSafe(realm);
    const wanted = new URLSearchParams({
      ...(service === undefined ? {} : { service }),
      scope: scope ?? `repository:${this.#repository}:pull`,
    });
    let response;
    if (credentials !== undefined && 'identityToken' in credentials) {
      wanted.set('grant_type', 'refresh_token');
      wanted.set('client_id', 'virtiofs-kit');
      wanted.set('refresh_token', credentials.identityToken);
      response = await this.#fetch(realm, {}, signal, { method: 'POST', body: wanted });
    } else {
      const url = new URL(realm);
      for (const [name, value] of wanted) url.searchParams.set(name, value);
      const headers = credentials === undefined ? {} : { authorization: basic(credentials) };
      response = await this.#fetch(url.href, headers, signal);
    }
    if (!response.ok) throw await this.#refusal(response, '');
    const { token, access_token: other } = parse(
      tokenSchema,
      await bytesOf(response, MOST_ANSWER_BYTES),
      what,
    );
    const found = token ?? other;
    if (found === undefined || !/^[\x21-\x7e]+$/.test(found)) throw new UsageError(`${what} gives none`);
    return found;
  }

  /** @throws UsageError for an address where others could read along, or answer. */
  #checkSafe(address: string): void {
    const isPlain = this.#base?.startsWith('http://') === true;
    if (address.startsWith('https://') || (isPlain && URL.canParse(address) && isLoopback(address))) return;
    throw new UsageError(`${this.#registry}: leads to ${address.slice(0, 200)}, which is not HTTPS`);
  }

  async #refusal(response: Response, version: string): Promise<UsageError> {
    let said = `${response.status} ${response.statusText}`;
    try {
      const { errors } = parse(errorsSchema, await bytesOf(response, MOST_ANSWER_BYTES), '');
      said = `${errors[0]?.code ?? ''} ${errors[0]?.message ?? ''}`.trim() || said;
    } catch {
      // It answers in another form, whose status says enough.
    }
    const image = `${this.#registry}/${this.#repository}${version === '' ? '' : ` ${version}`}`;
    return new UsageError(`image ${image}: the registry says: ${printable(said)}`);
  }

  #unreachable(error: unknown): UsageError {
    const { message, cause } = error as Error;
    const why = cause instanceof Error ? cause.message || (cause as NodeJS.ErrnoException).code : message;
    const hint = isCertificateFault(error) ? ': a certificate of your own goes into NODE_EXTRA_CA_CERTS' : '';
    return new UsageError(`registry ${this.#registry}: ${why}${hint}`, { cause: error });
  }
}

function isCertificateFault(error: unknown): boolean {
  const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
  return CERTIFICATE_FAULT.test(code ?? '');
}

/** The whole body of an answer. @throws UsageError if it is longer than `most` bytes. */
export async function bytesOf(response: Response, most: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    length += part.length;
    if (length > most) throw new UsageError(`an answer is longer than ${most} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function isLoopback(address: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(new URL(address).hostname);
}

function basic(credentials: Credentials): string {
  if (!('user' in credentials)) throw new UsageError('an identity token is no password');
  return `Basic ${Buffer.from(`${credentials.user}:${credentials.password}`).toString('base64')}`;
}

/** `realm="…",service="…"` as an object. */
function parametersOf(text: string): Partial<Record<string, string>> {
  return Object.fromEntries(
    Array.from(text.matchAll(/(\w+)="([^"]*)"/g), ([, name = '', value = '']) => [name.toLowerCase(), value]),
  );
}

/** What a registry says, for a line of a terminal. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?').slice(0, 300);
}
