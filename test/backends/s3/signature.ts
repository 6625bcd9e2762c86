import { createHash, createHmac } from 'node:crypto';
import { ACCESS_KEY, SECRET_KEY } from '../../s3-server/radosgw.js';

const sha256 = (text: string | Buffer): string => createHash('sha256').update(text).digest('hex');
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();

/** RFC 3986, as the signature has it: more than encodeURIComponent encodes. */
function encoded(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/**
 * Signs a request with the test user's key (AWS Signature Version 4, "Create a signed request").
 * @param headers lower-case names, a character of a value for each byte; host and those that begin
 * with x-amz- are signed.
 * @returns the headers to send.
 */
export function signed(
  method: string,
  url: URL,
  headers: Readonly<Record<string, string>>,
  body: Buffer,
): Record<string, string> {
  const date = new Date().toISOString().replace(/[-:]|\.\d+/g, '');
  const day = date.slice(0, 8);
  const all: Record<string, string> = {
    ...headers,
    host: url.host,
    'x-amz-date': date,
    'x-amz-content-sha256': sha256(body),
  };
  delete all['authorization'];
  const names = Object.keys(all)
    .filter((name) => name === 'host' || name.startsWith('x-amz-'))
    .sort();
  const query = [...url.searchParams]
    .map(([name, value]) => `${encoded(name)}=${encoded(value)}`)
    .sort()
    .join('&');
  const canonical = [
    method,
    url.pathname,
    query,
    ...names.map((name) => `${name}:${all[name]!.replace(/^[ \t]+|[ \t]+$/g, '').replace(/ +/g, ' ')}`),
    '',
    names.join(';'),
    all['x-amz-content-sha256'],
  ].join('\n');
  const scope = `${day}/us-east-1/s3/aws4_request`;
  const text = ['AWS4-HMAC-SHA256', date, scope, sha256(Buffer.from(canonical, 'latin1'))].join('\n');
  const key = ['us-east-1', 's3', 'aws4_request'].reduce(hmac, hmac(`AWS4${SECRET_KEY}`, day));
  const signature = hmac(key, text).toString('hex');
  all['authorization'] =
    `AWS4-HMAC-SHA256 Credential=${ACCESS_KEY}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`;
  return all;
}
