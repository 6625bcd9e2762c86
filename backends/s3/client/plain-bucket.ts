import type { S3Options } from '../options.js';
import { endpointOf, isBareHost } from './endpoint.js';
import type { Server } from './proxies.js';

/** How a bucket is reached and who asks, where nothing but options and the environment tells. */
export interface PlainBucket {
  readonly server: Server;
  /** For the header of that name. */
  readonly host: string;
  /** The path before the slash and the key. */
  readonly prefix: string;
  readonly region: string;
  readonly credentials: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string | undefined;
  };
}

/** Names that need no encoding, and are the same in a host's name. */
const PLAIN_NAME = /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/;

export function regionOf({ region }: Pick<S3Options, 'region'>, environment = process.env): string {
  return region ?? environment['AWS_REGION'] ?? environment['AWS_DEFAULT_REGION'] ?? 'us-east-1';
}

/**
 * What the SDK would find out of a bucket on a server that is named, with credentials of the
 * environment that do not expire.
 * @returns undefined where that takes more: files, other credentials, Amazon's rules of endpoints,
 * headers of encryption.
 */
export function plainBucket(options: S3Options, environment = process.env): PlainBucket | undefined {
  const endpoint = endpointOf(options, environment);
  const { bucket, profile, anonymous, encryption, storageClass, requesterPays, pathStyle } = options;
  if (endpoint === undefined || !PLAIN_NAME.test(bucket)) return undefined;
  const hasOwnHeaders = encryption !== 'none' || storageClass !== undefined || requesterPays;
  if (hasOwnHeaders || anonymous || profile !== undefined) return undefined;
  const {
    AWS_PROFILE: named,
    AWS_ACCESS_KEY_ID: accessKeyId = '',
    AWS_SECRET_ACCESS_KEY: secretAccessKey = '',
    AWS_SESSION_TOKEN: token = '',
    AWS_CREDENTIAL_EXPIRATION: expiration,
  } = environment;
  if (named !== undefined || expiration !== undefined || accessKeyId === '' || secretAccessKey === '')
    return undefined;
  const { protocol, hostname, port, pathname, search, username } = new URL(endpoint);
  const isOther = !/^https?:$/.test(protocol) || pathname !== '/' || search !== '' || username !== '';
  if (isOther || hostname.endsWith('.amazonaws.com')) return undefined;
  const isPath = pathStyle || isBareHost(endpoint);
  const name = isPath ? hostname : `${bucket}.${hostname}`;
  return {
    server: { protocol, hostname: name, port: port === '' ? undefined : Number(port) },
    host: port === '' ? name : `${name}:${port}`,
    prefix: isPath ? `/${bucket}` : '',
    region: regionOf(options, environment),
    credentials: { accessKeyId, secretAccessKey, sessionToken: token === '' ? undefined : token },
  };
}
