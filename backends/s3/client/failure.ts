import { FsError } from '../../../core/backend/index.js';
import type { ErrnoName } from '../../../core/backend/index.js';

/** The kinds of failed requests, by what must be done. */
export type FailureKind =
  | 'missing'
  | 'precondition'
  | 'conflict'
  | 'range'
  | 'denied'
  | 'archived'
  | 'full'
  | 'expired'
  | 'unsupported'
  | 'no-bucket'
  | 'no-upload'
  | 'untrusted'
  | 'transient'
  | 'refused';

/** A failed request to the bucket. */
export class S3Failure extends Error {
  override readonly name = 'S3Failure';
  readonly kind: FailureKind;
  readonly status: number;
  readonly code: string;

  constructor(kind: FailureKind, status: number, code: string, cause?: unknown) {
    const reason = cause instanceof S3Failure && code !== cause.code ? `: ${cause.message}` : '';
    super(`${code}${status === 0 ? '' : ` (${status})`}${reason}`, { cause });
    this.kind = kind;
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may succeed when it is repeated. */
  get transient(): boolean {
    return this.kind === 'transient' || this.kind === 'conflict' || this.kind === 'expired';
  }
}

/**
 * Error codes that mean more than their status says (Amazon S3 API Reference, "Error responses").
 */
const kindsByCode: Readonly<Record<string, FailureKind>> = {
  NoSuchBucket: 'no-bucket',
  NoSuchUpload: 'no-upload',
  QuotaExceeded: 'full',
  InsufficientCapacity: 'full',
  InvalidObjectState: 'archived',
  ObjectNotInActiveTierError: 'archived',
  ExpiredToken: 'expired',
  ExpiredTokenException: 'expired',
  TokenRefreshRequired: 'expired',
  CredentialsProviderError: 'expired',
  RequestTimeTooSkewed: 'transient',
  RequestTimeout: 'transient',
  IncompleteBody: 'transient',
  BadDigest: 'transient',
  XAmzContentSHA256Mismatch: 'transient',
  InternalError: 'transient',
  SlowDown: 'transient',
  ServiceUnavailable: 'transient',
  Throttling: 'transient',
  ThrottlingException: 'transient',
  RequestLimitExceeded: 'transient',
  OperationAborted: 'conflict',
  ConditionalRequestConflict: 'conflict',
  PreconditionFailed: 'precondition',
  NotImplemented: 'unsupported',
  NotModified: 'precondition',
};

/**
 * Codes of certificates that were not accepted: OpenSSL's reasons as Node names them (Node.js, TLS,
 * "X509 certificate error codes").
 */
const UNTRUSTED =
  /^(?:(?:UNABLE_TO_(?:GET|DECRYPT|DECODE|VERIFY)|CERT|CRL|ERROR_IN_C|DEPTH_ZERO|SELF_SIGNED|INVALID_(?:CA|PURPOSE)|PATH_LENGTH|HOSTNAME_MISMATCH).*|ERR_TLS_CERT_ALTNAME_INVALID)$/;

/** What undici says of a proxy that lets nobody pass: of a tunnel, and else. */
const PROXY_REFUSAL = /^Proxy (?:response|Authentication Required) \((4\d\d)\)/;

const kindsByStatus: Readonly<Record<number, FailureKind>> = {
  404: 'missing',
  405: 'missing',
  403: 'denied',
  401: 'denied',
  409: 'conflict',
  412: 'precondition',
  416: 'range',
  429: 'transient',
  501: 'unsupported',
  507: 'full',
};

const errnos: Readonly<Record<FailureKind, ErrnoName>> = {
  missing: 'ENOENT',
  precondition: 'ESTALE',
  conflict: 'EIO',
  range: 'EIO',
  denied: 'EACCES',
  archived: 'EACCES',
  full: 'ENOSPC',
  expired: 'EACCES',
  unsupported: 'EOPNOTSUPP',
  'no-bucket': 'EIO',
  'no-upload': 'EIO',
  untrusted: 'EIO',
  transient: 'EIO',
  refused: 'EIO',
};

const errnosByCode: Readonly<Record<string, ErrnoName>> = {
  KeyTooLongError: 'ENAMETOOLONG',
  EntityTooLarge: 'EFBIG',
  MetadataTooLarge: 'ENOSPC',
  RequestTimeout: 'ETIMEDOUT',
  Deadline: 'ETIMEDOUT',
  TooManyNames: 'ENOMEM',
};

/**
 * An answer that no S3 server gives, such as the page of a captive portal. Nothing of it is
 * believed.
 */
export function noAnswer(what: string): S3Failure {
  return new S3Failure('transient', 0, 'NoS3Answer', new S3Failure('transient', 0, what));
}

/** The error that the guest gets. */
export function errnoOf(failure: S3Failure): FsError {
  return FsError.of(errnosByCode[failure.code] ?? errnos[failure.kind]);
}

/**
 * Classifies an error of the SDK. An error without a server's answer (a reset, a broken body) is
 * transient.
 */
export function classify(error: unknown): S3Failure {
  if (error instanceof S3Failure) return error;
  if (typeof error !== 'object' || error === null) return new S3Failure('transient', 0, 'Unknown', error);
  const { name, code, Code, $metadata } = error as {
    name?: string;
    code?: string;
    Code?: string;
    $metadata?: { httpStatusCode?: number };
  };
  const refusal = PROXY_REFUSAL.exec((error as { message?: unknown }).message as string)?.[1];
  if (refusal !== undefined) return new S3Failure('refused', Number(refusal), 'ProxyRefused', error);
  const status = $metadata?.httpStatusCode ?? 0;
  const isPlain = name === undefined || name === 'Error' || name === 'AggregateError';
  const label = Code ?? (isPlain ? code : name) ?? 'Unknown';
  const byCode = kindsByCode[label];
  if (byCode !== undefined) return new S3Failure(byCode, status, label, error);
  if (status === 0 && UNTRUSTED.test(label)) return new S3Failure('untrusted', 0, label, error);
  const byStatus = kindsByStatus[status];
  if (byStatus !== undefined) return new S3Failure(byStatus, status, label, error);
  return new S3Failure(status >= 400 && status < 500 ? 'refused' : 'transient', status, label, error);
}
