import type { CarriedHeaders } from './carried.js';
import type { PartChecksum } from './checksums.js';
import type { ContentHeaders, RemoteObject } from '../objects/attributes.js';

/* Types that the files of the client share: what they read and write, and what a provider keeps. */

/**
 * The state of the key that a write requires: no object, or the object with an ETag. Absent: any
 * state.
 */
export type Condition = 'absent' | { readonly etag: string };

/** An object with its metadata. */
export interface Head extends RemoteObject {
  readonly metadata: Readonly<Record<string, string>>;
  readonly headers: ContentHeaders;
  /** How the bucket keeps it: class, encryption, lock; see `carried.ts`. */
  readonly properties: CarriedHeaders;
}

/** What is written with the bytes. */
export interface Content {
  readonly metadata: Readonly<Record<string, string>>;
  /** Those of the content, and those that carry over what the object had; see `carried.ts`. */
  readonly headers: ContentHeaders;
}

/** One page of a listing. */
export interface Page {
  readonly objects: readonly RemoteObject[];
  /** Common prefixes, which end in the delimiter. */
  readonly prefixes: readonly string[];
  readonly next: string | undefined;
}

/** An uploaded part. */
export interface Part {
  readonly number: number;
  readonly etag: string;
  readonly checksum: PartChecksum;
}

/**
 * Which conditions a provider keeps. Where it ignores one, `Bucket` looks before it writes, and the
 * start logs it.
 */
export interface Capabilities {
  /** PutObject with If-None-Match: *. */
  readonly create: boolean;
  /** PutObject with If-Match. */
  readonly replace: boolean;
  /** If-Match works only with an ETag without quotes. */
  readonly unquoted: boolean;
  /** CompleteMultipartUpload with either. */
  readonly complete: boolean;
  /** CopyObject with x-amz-copy-source-if-match. */
  readonly copySource: boolean;
  /** The ETag of an object that was written by one request is the MD5 of its bytes. */
  readonly digests: boolean;
}
