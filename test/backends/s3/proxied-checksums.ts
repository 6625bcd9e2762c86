import type { IncomingHttpHeaders } from 'node:http';
import { checksum } from '../../../backends/s3/client/checksums.js';
import type { ChecksumName } from '../../../backends/s3/client/checksums.js';

/** A request, as much as is needed here. */
interface Asked {
  readonly operation: string;
  /** Path of bucket and key. */
  readonly path: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

interface Kept {
  readonly etag: string | undefined;
  readonly name: string;
  readonly value: string;
}

/** Checksums of objects, which the real server of the tests does not keep, as Amazon keeps them. */
export class ProxiedChecksums {
  readonly #kept = new Map<string, Kept>();
  /** Of uploads, by path: the algorithm, and the checksums of parts. */
  readonly #uploads = new Map<string, { readonly name: ChecksumName; readonly parts: Map<string, Buffer> }>();

  /** Whether a request's body is that of its checksum. */
  async isSound({ headers, body }: Asked): Promise<boolean> {
    const [name, value] = given(headers);
    return name === undefined || (await checksum(name, [body])) === value;
  }

  /** Takes note of what was carried out. */
  async note({ operation, path, url, headers, body }: Asked, etag: string | undefined): Promise<void> {
    const [name, value] = given(headers);
    if (operation === 'PutObject') {
      this.#kept.delete(path);
      if (name !== undefined && value !== undefined) this.#kept.set(path, { etag, name, value });
    }
    if (operation === 'CreateMultipartUpload') {
      const algorithm = headers['x-amz-checksum-algorithm'];
      this.#uploads.delete(path);
      if (typeof algorithm === 'string')
        this.#uploads.set(path, { name: algorithm.toLowerCase() as ChecksumName, parts: new Map() });
    }
    const upload = this.#uploads.get(path);
    const part = new URL(url, 'http://proxy').searchParams.get('partNumber');
    if (operation === 'UploadPart' && part !== null && upload !== undefined) {
      upload.parts.set(part.padStart(5, '0'), body);
    }
    if (operation === 'CompleteMultipartUpload' && upload !== undefined) {
      const bodies = [...upload.parts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, bytes]) => bytes);
      const { name: algorithm } = upload;
      const isWhole = algorithm === 'crc64nvme';
      const sums = await Promise.all(bodies.map((bytes) => checksum(algorithm, [bytes])));
      const summed = isWhole ? bodies : sums.map((text) => Buffer.from(text, 'base64'));
      const text = `${await checksum(algorithm, summed)}${isWhole ? '' : `-${bodies.length}`}`;
      this.#kept.set(path, { etag, name: algorithm, value: text });
    }
  }

  /** Headers for an answer with all of an object, for whoever asks for them. */
  answered({ operation, path, headers }: Asked, answer: IncomingHttpHeaders): Record<string, string> {
    const kept = this.#kept.get(path);
    const range = answer['content-range'];
    const isRead = operation === 'GetObject' || operation === 'HeadObject';
    const isAsked = isRead && headers['x-amz-checksum-mode'] === 'ENABLED';
    const isWhole =
      range === undefined || /^bytes 0-(\d+)\/(\d+)$/.exec(range)?.slice(1).reduce(differ) === '1';
    if (!isAsked || !isWhole || kept === undefined) return {};
    if (kept.etag !== undefined && kept.etag !== answer.etag) return {};
    return { [`x-amz-checksum-${kept.name}`]: kept.value };
  }
}

const differ = (last: string, size: string): string => String(Number(size) - Number(last));

function given(headers: IncomingHttpHeaders): [ChecksumName, string] | [undefined, undefined] {
  for (const [header, value] of Object.entries(headers)) {
    const name = /^x-amz-checksum-(crc32|crc32c|crc64nvme|sha1|sha256)$/.exec(header)?.[1];
    if (name !== undefined && typeof value === 'string') return [name as ChecksumName, value];
  }
  return [undefined, undefined];
}
