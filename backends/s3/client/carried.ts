import type { Grant, Owner, Tag } from '@aws-sdk/client-s3';
import type { S3Options } from '../options.js';
import { encoded } from './signature.js';

/**
 * What belongs to an object beside its bytes and its user metadata, and is lost by PutObject,
 * CopyObject and multipart uploads unless they give it anew (Amazon S3 API Reference). As headers
 * of those requests, names in lower case.
 */
export type CarriedHeaders = Readonly<Record<string, string>>;

const REDIRECT = 'x-amz-website-redirect-location';

/** What HEAD tells of that, under the names of the headers that give it. */
export const HEADERS_OF_HEAD: readonly string[] = [
  'content-type',
  'content-encoding',
  'content-language',
  'content-disposition',
  'cache-control',
  'expires',
  REDIRECT,
];

const ENCRYPTION = [
  'x-amz-server-side-encryption',
  'x-amz-server-side-encryption-aws-kms-key-id',
  'x-amz-server-side-encryption-bucket-key-enabled',
];
const STORAGE_CLASS = 'x-amz-storage-class';
const LOCK_MODE = 'x-amz-object-lock-mode';
const LOCK_UNTIL = 'x-amz-object-lock-retain-until-date';
const LEGAL_HOLD = 'x-amz-object-lock-legal-hold';
const TAGS = 'x-amz-tagging';
const GRANT = 'x-amz-grant-';

/** What HEAD tells of how the bucket keeps an object, under the same names. */
export const PROPERTIES_OF_HEAD: readonly string[] = [
  ...ENCRYPTION,
  STORAGE_CLASS,
  LOCK_MODE,
  LOCK_UNTIL,
  LEGAL_HOLD,
];

const GRANT_HEADERS: Readonly<Record<string, string>> = {
  READ: `${GRANT}read`,
  WRITE: `${GRANT}write`,
  READ_ACP: `${GRANT}read-acp`,
  WRITE_ACP: `${GRANT}write-acp`,
  FULL_CONTROL: `${GRANT}full-control`,
};

/** The encryption of an object, unless the options set another. */
export function encryptionOf(properties: CarriedHeaders, { encryption }: S3Options): CarriedHeaders {
  return encryption === 'none' ? only(properties, ENCRYPTION) : {};
}

/**
 * Encryption and storage class of an object, unless the options set others, and its lock while that
 * holds.
 */
export function propertiesOf(properties: CarriedHeaders, options: S3Options): CarriedHeaders {
  const holds = Date.parse(properties[LOCK_UNTIL] ?? '') > Date.now();
  return {
    ...encryptionOf(properties, options),
    ...(options.storageClass === undefined ? only(properties, [STORAGE_CLASS]) : {}),
    ...(holds ? only(properties, [LOCK_MODE, LOCK_UNTIL]) : {}),
    ...(properties[LEGAL_HOLD] === 'ON' ? only(properties, [LEGAL_HOLD]) : {}),
  };
}

function only(headers: CarriedHeaders, names: readonly string[]): CarriedHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => names.includes(name)));
}

/**
 * @param self canonical id of the account that writes
 * @returns nothing if the object belongs to that account alone, as every new one does.
 */
export function grantsOf(
  grants: readonly Grant[],
  owner: Owner | undefined,
  self: string | undefined,
): CarriedHeaders {
  const values = new Map<string, string[]>();
  const give = (permission: string, grantee: string): void => {
    const header = GRANT_HEADERS[permission];
    if (header !== undefined) values.set(header, [...(values.get(header) ?? []), grantee]);
  };
  const full = `id="${self}"`;
  for (const { Grantee, Permission } of grants) {
    const { ID, URI, EmailAddress } = Grantee ?? {};
    if (URI !== undefined) give(Permission ?? '', `uri="${URI}"`);
    else if (ID !== undefined) give(Permission ?? '', `id="${ID}"`);
    else if (EmailAddress !== undefined) give(Permission ?? '', `emailAddress="${EmailAddress}"`);
  }
  const fully = values.get(GRANT_HEADERS['FULL_CONTROL']!);
  if (values.size === 1 && fully?.join() === full && owner?.ID === self) return {};
  if (values.size === 0) return {};
  // Whoever writes the object owns it from now on, and has nothing of it that is not granted.
  if (self !== undefined && fully?.includes(full) !== true) give('FULL_CONTROL', full);
  return Object.fromEntries([...values].map(([header, grantees]) => [header, grantees.join(', ')]));
}

/** The grants of a new object. */
export function cannedAcl({ acl }: S3Options): CarriedHeaders {
  return acl === undefined ? {} : { 'x-amz-acl': acl };
}

/** Of an object's headers, those that are not its content's. */
export function besideOf(headers: CarriedHeaders): CarriedHeaders {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => name === REDIRECT || !HEADERS_OF_HEAD.includes(name)),
  );
}

/** What of all that a copy on the server is not given by itself: it keeps metadata and tags. */
export function notCopied(headers: CarriedHeaders): CarriedHeaders {
  return Object.fromEntries(Object.entries(besideOf(headers)).filter(([name]) => name !== TAGS));
}

export function tagsOf(tags: readonly Tag[]): CarriedHeaders {
  if (tags.length === 0) return {};
  const text = tags.map(({ Key, Value }) => `${encoded(Key ?? '')}=${encoded(Value ?? '')}`).join('&');
  return { [TAGS]: text };
}

export function withoutGrants(headers: CarriedHeaders): CarriedHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith(GRANT)));
}

export function hasGrants(headers: CarriedHeaders): boolean {
  return Object.keys(headers).some((name) => name.startsWith(GRANT));
}

/** Tags and lock of what was to be carried, in the form of the requests that set them alone. */
export function settled(headers: CarriedHeaders): {
  readonly tags: readonly Tag[];
  readonly retention: { readonly mode: string; readonly until: Date } | undefined;
  readonly legalHold: boolean;
} {
  const mode = headers[LOCK_MODE];
  const until = headers[LOCK_UNTIL];
  const tags = [...new URLSearchParams(headers[TAGS] ?? '')].map(([Key, Value]) => ({ Key, Value }));
  return {
    tags,
    retention: mode === undefined || until === undefined ? undefined : { mode, until: new Date(until) },
    legalHold: headers[LEGAL_HOLD] === 'ON',
  };
}

/** Whether it is encrypted otherwise than the rest of the bucket may be. */
export function isEncrypted(headers: CarriedHeaders): boolean {
  return headers[ENCRYPTION[0]!] !== undefined;
}

/** Whether a request with these headers needs the MD5 of its body (PutObject, "Content-MD5"). */
export function isLocked(headers: CarriedHeaders): boolean {
  return headers[LOCK_MODE] !== undefined || headers[LEGAL_HOLD] !== undefined;
}
