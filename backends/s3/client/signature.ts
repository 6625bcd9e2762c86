import { createHmac, hash } from 'node:crypto';

/* AWS Signature Version 4 (AWS General Reference, "Create a signed AWS API request"). */

/** The key that signs the requests of a scope's day, region and service. */
export function signingKey(secret: string, scope: string): Buffer {
  let key = Buffer.from(`AWS4${secret}`);
  for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
  return key;
}

/**
 * @param canonical the canonical request. Each character stands for a byte.
 * @param date as `20260131T235959Z`
 * @param scope as `20260131/REGION/s3/aws4_request`
 */
export function signatureOf(canonical: string, date: string, scope: string, key: Buffer): string {
  const digest = hash('sha256', Buffer.from(canonical, 'latin1'), 'hex');
  return createHmac('sha256', key).update(`AWS4-HMAC-SHA256\n${date}\n${scope}\n${digest}`).digest('hex');
}

/** Percent-encoding of RFC 3986, as the signature requires. */
export function encoded(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** A key as it stands in a path. */
export function encodedKey(key: string): string {
  return key.split('/').map(encoded).join('/');
}
