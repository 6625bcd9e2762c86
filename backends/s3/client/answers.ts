import type { S3Client } from '@aws-sdk/client-s3';
import { HEADERS_OF_HEAD, PROPERTIES_OF_HEAD } from './carried.js';
import type { CarriedHeaders } from './carried.js';
import type { Head } from './bucket-types.js';
import { noAnswer } from './failure.js';

/* Headers of requests and answers of the SDK, as they are on the wire. */

/** In the context of a command, while it is sent: its headers are those of one object. */
export const CARRIES = 'virtiofsKitCarries';
/** As above: the names of those that tell the checksum of its body. */
export const CARRIED_CHECKSUMS = 'virtiofsKitCarriedChecksums';

type Layer = (
  next: (sent: object) => Promise<object>,
  context: Record<string, unknown>,
) => (sent: object) => Promise<object>;

/** The layers of a command, as much as is used here. */
interface Layered {
  readonly middlewareStack: { add(layer: Layer, options: object): void };
}

const isChecksum = (name: string): boolean => /^x-amz-(?:sdk-)?checksum-/.test(name);

/** Gives a command headers that the SDK has no fields for, or fields that change their bytes. */
export function carrying<C extends object>(command: C, headers: CarriedHeaders): C {
  const names = Object.keys(headers);
  const isOfOne = names.some((name) => name.startsWith('x-amz-') && !isChecksum(name));
  (command as unknown as Layered).middlewareStack.add(
    (next, context) => (sent) => {
      context[CARRIES] = isOfOne;
      context[CARRIED_CHECKSUMS] = names.filter(isChecksum);
      Object.assign((sent as { request: { headers: object } }).request.headers, headers);
      return next(sent);
    },
    { step: 'build', priority: 'low', name: 'carriedHeaders' },
  );
  return command;
}

/** Gives what the server's answer to a command had as headers, to `take`. */
export function answering<C extends object>(
  command: C,
  take: (headers: ReadonlyMap<string, string>) => void,
): C {
  (command as unknown as Layered).middlewareStack.add(
    (next) => async (sent) => {
      const result = await next(sent);
      const { response } = result as { response: { headers: Readonly<Record<string, string>> } };
      take(new Map(Object.entries(response.headers)));
      return result;
    },
    { step: 'deserialize', priority: 'low', name: 'answerHeaders' },
  );
  return command;
}

/** Their bodies are of any type; an ETag tells that the answer is of S3. */
const CONTENT_COMMANDS = new Set(['GetObjectCommand', 'HeadObjectCommand']);

/**
 * Refuses pages of HTML in the place of answers: a captive portal answers so, with 200, and the SDK
 * would read an empty listing from it, or a deletion that has been made.
 */
export function refusePages(client: S3Client): void {
  client.middlewareStack.add(
    (next, { commandName = '' }) =>
      async (sent) => {
        const result = await next(sent);
        const { statusCode, headers } = result.response as HttpAnswer;
        const isPage = /^\s*text\/html/i.test(headers['content-type'] ?? '');
        if (isPage && statusCode < 300 && !CONTENT_COMMANDS.has(commandName))
          throw noAnswer('a page of HTML');
        return result;
      },
    { step: 'deserialize', priority: 'low', name: 'refusePages' },
  );
}

interface HttpAnswer {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
}

export function unquoted(etag: string | undefined): string {
  return (etag ?? '').replace(/^"|"$/g, '');
}

/** @throws S3Failure of kind transient where the answer is not of S3. */
export function headOf(key: string, headers: ReadonlyMap<string, string>): Head {
  if (unquoted(headers.get('etag')) === '') throw noAnswer('HEAD without ETag');
  if (!/^\d+$/.test(headers.get('content-length') ?? '')) throw noAnswer('HEAD without length');
  const metadata: Record<string, string> = {};
  for (const [name, value] of headers) {
    if (name.startsWith('x-amz-meta-')) metadata[name.slice(11)] = value;
  }
  return {
    key,
    etag: unquoted(headers.get('etag')),
    size: Number(headers.get('content-length')),
    modified: Math.floor(Date.parse(headers.get('last-modified') ?? '') / 1000) || 0,
    storageClass: headers.get('x-amz-storage-class'),
    metadata,
    headers: picked(headers, HEADERS_OF_HEAD),
    properties: picked(headers, PROPERTIES_OF_HEAD),
  };
}

function picked(headers: ReadonlyMap<string, string>, names: readonly string[]): CarriedHeaders {
  const found: Record<string, string> = {};
  for (const name of names) {
    const value = headers.get(name);
    if (value !== undefined) found[name] = value;
  }
  return found;
}
