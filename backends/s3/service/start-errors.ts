import { UsageError } from '../../../core/backend/index.js';
import { endpointOf, isBareHost } from '../client/endpoint.js';
import { S3Failure } from '../client/failure.js';
import { proxyTo } from '../client/proxies.js';
import type { S3Options } from '../options.js';

/** Seconds by which clocks may differ without a word of it. Amazon refuses 15 minutes. */
const SKEW_SECONDS = 60;

/** What the SDK adds to the errors that it makes of answers. */
interface Answered {
  readonly Region?: unknown;
  readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
  readonly cause?: unknown;
}

/**
 * Makes of what ended a start an error that names the cause and the way out.
 * @param isWriting whether the bucket could be read before
 */
export function explained(error: unknown, options: S3Options, isWriting = false): unknown {
  if (!(error instanceof S3Failure)) return error;
  const endpoint = endpointOf(options);
  // Without its password.
  const proxy = proxyTo(endpoint)?.origin;
  const way = proxy === undefined ? '' : ` by way of the proxy ${proxy}`;
  const where = `bucket ${options.bucket}${endpoint === undefined ? '' : ` at ${endpoint}`}${way}`;
  const { failure, headers, region } = origin(error);
  const text = reason(failure, options, endpoint, region, isWriting);
  return new UsageError(`${where}: ${text}${skew(failure, headers)}`, { cause: error });
}

/** Failures to reach a server that do not pass by themselves within a minute. */
const LASTING = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  // Of connecting alone.
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'NoS3Answer',
  'ECONNRESET',
  'EPIPE',
  'EPROTO',
  'CredentialsProviderError',
  'ProxyRefused',
  // The SDK corrects its clock by the answer, and has tried with that.
  'RequestTimeTooSkewed',
]);

/** Whether a failed start would most likely fail again if it went on trying. */
export function isLasting(error: unknown): boolean {
  if (!(error instanceof S3Failure)) return true;
  const { code, kind, status } = origin(error).failure;
  return kind === 'expired' || LASTING.has(code) || (status >= 300 && status < 400);
}

/** Whether a start is worth another try at all. */
export function mayPass(error: unknown): boolean {
  return error instanceof S3Failure && origin(error).failure.transient;
}

/** The failure that the others were made of, and what its answer had. */
function origin(error: S3Failure): {
  failure: S3Failure;
  headers: Readonly<Record<string, string>>;
  region: string | undefined;
} {
  let failure = error;
  let headers: Readonly<Record<string, string>> = {};
  let region: string | undefined;
  for (let at: unknown = error; typeof at === 'object' && at !== null; at = (at as Answered).cause) {
    // The reason in words that a page of HTML got has a code of its own.
    if (at instanceof S3Failure && failure.code !== 'NoS3Answer') failure = at;
    const { $response, Region } = at as Answered;
    headers = $response?.headers ?? headers;
    if (typeof Region === 'string') region = Region;
  }
  return { failure, headers, region: region ?? headers['x-amz-bucket-region'] };
}

function reason(
  failure: S3Failure,
  { region: asked, readOnly, anonymous }: S3Options,
  endpoint: string | undefined,
  region: string | undefined,
  isWriting: boolean,
): string {
  const { kind, code, status, message } = failure;
  if (region !== undefined && region !== asked && (status === 301 || status === 400)) {
    return `it is in region ${region}; --region ${region}`;
  }
  switch (code) {
    case 'InvalidAccessKeyId':
      return 'the server does not know the access key (InvalidAccessKeyId): check AWS_ACCESS_KEY_ID or the profile';
    case 'SignatureDoesNotMatch':
      return 'the secret key is not that of the access key (SignatureDoesNotMatch): check AWS_SECRET_ACCESS_KEY or the profile';
    case 'RequestTimeTooSkewed':
      return "this machine's clock is wrong (RequestTimeTooSkewed): set it by NTP";
    case 'ECONNREFUSED':
      return 'nothing listens there (ECONNREFUSED): check host and port of --endpoint, and that the server runs';
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return endpoint === undefined || isBareHost(endpoint)
        ? `the host name can't be found (${code}): check the endpoint, the region and DNS`
        : `the host name can't be found (${code}): check the endpoint and DNS; --path-style if the server does not have names for buckets`;
    case 'ProxyRefused':
      return `the proxy of HTTP_PROXY or HTTPS_PROXY refuses (${message}): check its name and password; NO_PROXY names what is reached without one`;
    case 'NoS3Answer':
      return 'what answers there is no S3 server: a web page or something else; check the endpoint, and captive portals';
    case 'RequestTimeout':
    case 'TimeoutError':
    case 'ETIMEDOUT':
      return `no answer in time (${code}): check the endpoint and firewalls`;
    case 'EPROTO':
      return `what answers there does not speak TLS (${code}): http:// in --endpoint, or another port`;
    case 'ECONNRESET':
    case 'EPIPE':
      return `it breaks off the connection without an answer (${code}): check the port of --endpoint, and https:// where it wants TLS`;
    case 'CredentialsTimeout':
      return 'the source of the credentials does not answer: check the profile, its credential_process, and the service of the machine or container';
    case 'CredentialsProviderError':
      return `no credentials (${code}): set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; --anonymous for what everybody may read`;
    default:
  }
  if (kind === 'missing' || kind === 'no-bucket') return 'no such bucket; --create-bucket makes it';
  if (kind === 'untrusted') {
    return (
      `the server's certificate is not trusted (${code}); ` +
      'NODE_EXTRA_CA_CERTS or AWS_CA_BUNDLE names a file with the certificate of its authority'
    );
  }
  if (kind === 'denied' && isWriting && !readOnly) {
    return `these credentials may not write (${message}): --read-only serves it for reading`;
  }
  if (kind === 'denied' || kind === 'expired') {
    return `${message}: check ${anonymous ? 'that everybody may list it' : 'the credentials and their rights'}`;
  }
  if (status >= 300 && status < 400) {
    return `the server sends us elsewhere (${message}): check --endpoint and --region`;
  }
  return message;
}

/** What the answer's date says of this machine's clock, where that may be the cause. */
function skew({ kind, code }: S3Failure, headers: Readonly<Record<string, string>>): string {
  const seconds = Math.round((Date.now() - Date.parse(headers['date'] ?? '')) / 1000);
  const isSuspect = kind === 'denied' || code === 'RequestTimeTooSkewed';
  if (!isSuspect || !(Math.abs(seconds) > SKEW_SECONDS)) return '';
  return `; its clock and this machine's differ by ${Math.abs(seconds)} seconds`;
}
