import type { Page } from './bucket-types.js';

const entities: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

/** Decodes text of XML: the five entities and numbered characters (XML 1.0, section 4.6). */
function text(raw: string): string {
  if (!raw.includes('&')) return raw;
  return raw.replace(/&(?:#(\d+)|#x([\da-f]+)|(\w+));/gi, (whole, decimal, hex, name) => {
    if (name !== undefined) return entities[name as string] ?? whole;
    return String.fromCodePoint(decimal === undefined ? Number.parseInt(hex, 16) : Number(decimal));
  });
}

/**
 * The content of the first element of that name. Such elements have no attributes and no child
 * elements.
 */
export function field(xml: string, name: string): string | undefined {
  const start = xml.indexOf(`<${name}>`);
  if (start < 0) return undefined;
  const from = start + name.length + 2;
  const end = xml.indexOf(`</${name}>`, from);
  return end < 0 ? undefined : text(xml.slice(from, end));
}

/**
 * The content of all elements of a name, each from its start tag; undefined if one has no end tag.
 */
export function elements(xml: string, name: string): string[] | undefined {
  const found: string[] = [];
  for (let at = xml.indexOf(`<${name}>`); at >= 0;) {
    const end = xml.indexOf(`</${name}>`, at);
    if (end < 0) return undefined;
    found.push(xml.slice(at, end));
    at = xml.indexOf(`<${name}>`, end);
  }
  return found;
}

/**
 * Reads an answer to ListObjectsV2 with `encoding-type=url` (Amazon S3 API Reference). A general
 * XML parser takes ten times as long.
 * @param decode decodes keys
 * @returns undefined if the answer is unusual or incomplete. A general parser must read it then.
 */
export function readListing(xml: string, decode: (key: string) => string): Page | undefined {
  if (!xml.includes('<ListBucketResult') || !xml.trimEnd().endsWith('</ListBucketResult>')) return undefined;
  if (/<!\[CDATA\[|<!--/.test(xml) || field(xml, 'EncodingType') !== 'url') return undefined;
  const contents = elements(xml, 'Contents');
  const groups = elements(xml, 'CommonPrefixes');
  const truncated = field(xml, 'IsTruncated');
  if (contents === undefined || groups === undefined || truncated === undefined) return undefined;
  const keyCount = field(xml, 'KeyCount');
  if (keyCount !== undefined && Number(keyCount) !== contents.length + groups.length) return undefined;
  const objects: Page['objects'][number][] = [];
  for (const element of contents) {
    const key = field(element, 'Key');
    const etag = field(element, 'ETag');
    const size = Number(field(element, 'Size'));
    const modified = Math.floor(Date.parse(field(element, 'LastModified') ?? '') / 1000);
    if (key === undefined || etag === undefined || !Number.isInteger(size + modified)) return undefined;
    objects.push({
      key: decode(key),
      etag: etag.replace(/^"|"$/g, ''),
      size,
      modified,
      storageClass: field(element, 'StorageClass'),
    });
  }
  const prefixes: string[] = [];
  for (const element of groups) {
    const prefix = field(element, 'Prefix');
    if (prefix === undefined) return undefined;
    prefixes.push(decode(prefix));
  }
  const next = truncated === 'true' ? field(xml, 'NextContinuationToken') : undefined;
  if (truncated === 'true' && next === undefined) return undefined;
  return { objects, prefixes, next };
}
