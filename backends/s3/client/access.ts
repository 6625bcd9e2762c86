import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { SecureContext } from 'node:tls';
import { S3Client } from '@aws-sdk/client-s3';
import type { S3Options } from '../options.js';
import { refusePages } from './answers.js';
import { Connections } from './connections.js';
import { CONNECT_TIMEOUT_MS } from './direct.js';
import { endpointOf, isBareHost, trust } from './endpoint.js';
import { sendHeaderBytes } from './header-bytes.js';
import { proxyTo } from './proxies.js';
import { plainBucket, regionOf } from './plain-bucket.js';
import { SignedRequests } from './signed-requests.js';

/** The two ways by which requests reach a bucket. */
export interface Access {
  readonly signed: SignedRequests;
  /** The SDK's client, made when it is first asked for: loading it takes longer than a mount. */
  readonly client: () => S3Client;
  /** Resolves when there are credentials. @throws what the SDK's sources of them throw. */
  credentials(): Promise<void>;
  close(): void;
}

/** @throws UsageError if a file of the environment cannot be used. */
export function accessTo(options: S3Options): Access {
  const endpoint = endpointOf(options);
  const isEncrypted = [endpoint, proxyTo(endpoint)?.href].some((url) => url?.startsWith('https:'));
  // Reading the authorities takes a tenth of a mount.
  const secureContext = endpoint === undefined || isEncrypted ? trust() : undefined;
  const connections = new Connections(secureContext);
  let made: S3Client | undefined;
  const client = (): S3Client => {
    if (made !== undefined) return made;
    made = clientOf(options, secureContext);
    refusePages(made);
    sendHeaderBytes(made, connections);
    signed.watch(made);
    return made;
  };
  const plain = plainBucket(options);
  const signed = new SignedRequests(connections, client, plain);
  const credentials = async (): Promise<void> => {
    if (plain === undefined) await client().config.credentials();
  };
  const close = (): void => {
    signed.close();
    made?.destroy();
  };
  return { signed, client, credentials, close };
}

/** For requests that nobody signs. */
const UNSIGNED = {
  credentials: { accessKeyId: '', secretAccessKey: '' },
  signer: { sign: async <T>(request: T): Promise<T> => request },
};

function clientOf(options: S3Options, secureContext: SecureContext | undefined): S3Client {
  // The SDK's warning that later versions need a later Node is suppressed: the version is pinned,
  // and operators cannot change it.
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
  const { profile, requests, pathStyle, anonymous } = options;
  const endpoint = endpointOf(options);
  const agents = { keepAlive: true, maxSockets: requests * 2 };
  return new S3Client({
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(profile === undefined ? {} : { profile }),
    region: regionOf(options),
    forcePathStyle: pathStyle || isBareHost(endpoint),
    ...(anonymous ? UNSIGNED : {}),
    followRegionRedirects: true,
    // Checksums are those of checksums.ts: the SDK gives a wrong byte away before it tells.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    maxAttempts: 1,
    cacheMiddleware: true,
    requestHandler: {
      httpAgent: new HttpAgent(agents),
      httpsAgent: new HttpsAgent({ ...agents, ...(secureContext === undefined ? {} : { secureContext }) }),
      connectionTimeout: CONNECT_TIMEOUT_MS,
    },
  });
}
