import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { CopyPartResult } from '@aws-sdk/client-s3';
import { Crc32c, Crc64Nvme } from '@aws-sdk/checksums/crc';
import { pause } from '../../../core/backend/pauses.js';

/**
 * Algorithms of S3's checksums, the quickest first (Amazon S3 User Guide, "Checking object
 * integrity").
 */
export const CHECKSUMS = ['crc32', 'crc64nvme', 'crc32c', 'sha256', 'sha1'] as const;
export type ChecksumName = (typeof CHECKSUMS)[number];

/** Fields of the SDK for the checksum of a part. */
const FIELDS = {
  crc32: 'ChecksumCRC32',
  crc64nvme: 'ChecksumCRC64NVME',
  crc32c: 'ChecksumCRC32C',
  sha256: 'ChecksumSHA256',
  sha1: 'ChecksumSHA1',
} as const satisfies Readonly<Record<ChecksumName, keyof CopyPartResult>>;

/** The checksum of a part, in base64, for the request that completes an upload. */
export type PartChecksum = Readonly<Partial<Record<(typeof FIELDS)[ChecksumName], string>>>;

/** The header that asks for an object's checksum beside it. */
export const ASKS_CHECKSUM = { 'x-amz-checksum-mode': 'ENABLED' } as const;

/** Bytes that are summed in one turn of the event loop: at most about a millisecond. */
export const SLICE_BYTES = 256 * 1024;

/** Of a checksum of the checksums of parts. */
const COMPOSITE = /-(\d+)$/;

/** What a server says of an object's bytes. */
export interface Checksum {
  readonly name: ChecksumName;
  /** In base64. */
  readonly value: string;
  /** Whether it is that of the only part's checksum, and not of the bytes. */
  readonly isComposite: boolean;
}

/**
 * The checksum that an answer has of all bytes of an object.
 * @returns undefined where it has none, or one of several parts that says nothing of the whole.
 */
export function checksumOf(headers: ReadonlyMap<string, string>): Checksum | undefined {
  const isComposite = headers.get('x-amz-checksum-type') === 'COMPOSITE';
  for (const name of CHECKSUMS) {
    const text = headers.get(`x-amz-checksum-${name}`);
    if (text === undefined) continue;
    const parts = COMPOSITE.exec(text)?.[1];
    if (parts !== undefined && parts !== '1') continue;
    if (parts === undefined && isComposite) continue;
    return { name, value: text.replace(COMPOSITE, ''), isComposite: parts !== undefined };
  }
  return undefined;
}

/** A checksum of bytes, in base64 as in headers. */
export async function checksum(name: ChecksumName, pieces: Iterable<Uint8Array>): Promise<string> {
  return (await sumOf(name, pieces)).toString('base64');
}

/** A sum of bytes. Between two pieces of what is large the thread serves others. */
export async function sumOf(name: ChecksumName | 'md5', pieces: Iterable<Uint8Array>): Promise<Buffer> {
  const summing = summingOf(name);
  for await (const slice of slices(pieces)) summing.update(slice);
  return summing.digest();
}

/** A sum of bytes that come one after the other. */
export interface Summing {
  update(bytes: Uint8Array): unknown;
  /** To be called once, at the end. */
  digest(): Buffer | Promise<Buffer>;
}

/** What the bytes of an object must give. */
export interface Expectation {
  readonly summing: Summing;
  /** Whether the sum of all bytes is right. */
  readonly isRight: (sum: Buffer) => Promise<boolean>;
}

export function summingOf(name: ChecksumName | 'md5'): Summing {
  if (name === 'sha1' || name === 'sha256' || name === 'md5') return createHash(name);
  if (name === 'crc32') {
    let value = 0;
    return {
      update: (bytes) => (value = crc32(bytes, value)),
      digest: () => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32BE(value);
        return bytes;
      },
    };
  }
  const crc = name === 'crc32c' ? new Crc32c() : new Crc64Nvme();
  return {
    update: (bytes) => crc.update(bytes),
    digest: async () => Buffer.from(await crc.digest()),
  };
}

/** In each turn of the event loop one slice is given, however much is summed at a time. */
async function* slices(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let left = SLICE_BYTES;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length;) {
      if (left === 0) {
        await pause();
        left = SLICE_BYTES;
      }
      const slice = piece.subarray(at, at + left);
      yield slice;
      at += slice.length;
      left -= slice.length;
    }
  }
}

/** Whether bytes are those that a server has the checksum of. */
export async function agrees(
  { name, value, isComposite }: Checksum,
  pieces: Iterable<Uint8Array>,
): Promise<boolean> {
  return isSumOf({ name, value, isComposite }, await sumOf(name, pieces));
}

/** Whether the sum of an object's bytes is what a server has as their checksum. */
export async function isSumOf({ name, value, isComposite }: Checksum, found: Buffer): Promise<boolean> {
  return (isComposite ? await sumOf(name, [found]) : found).toString('base64') === value;
}

/** Headers that give a write its checksum. */
export async function checksumHeaders(
  name: ChecksumName | undefined,
  body: Uint8Array,
): Promise<Readonly<Record<string, string>>> {
  if (name === undefined) return {};
  return {
    'x-amz-sdk-checksum-algorithm': name.toUpperCase(),
    [`x-amz-checksum-${name}`]: await checksum(name, [body]),
  };
}

/** The checksum of a part that was sent with {@link checksumHeaders}. */
export function partChecksum(headers: Readonly<Record<string, string>>): PartChecksum {
  return fieldOf((name) => headers[`x-amz-checksum-${name}`]);
}

/** The checksum that the server has made of a part that it has copied. */
export function copiedChecksum(copied: CopyPartResult): PartChecksum {
  return fieldOf((name) => copied[FIELDS[name]]);
}

function fieldOf(value: (name: ChecksumName) => string | undefined): PartChecksum {
  for (const name of CHECKSUMS) {
    const found = value(name);
    if (found !== undefined) return { [FIELDS[name]]: found };
  }
  return {};
}
