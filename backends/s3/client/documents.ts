import type { Grant, Owner, Tag } from '@aws-sdk/client-s3';
import { elements, field } from './listing.js';

/** An object's access control list. */
export interface Acl {
  readonly owner: Owner | undefined;
  readonly grants: readonly Grant[];
}

/**
 * Reads an answer to GetObjectAcl (Amazon S3 API Reference).
 * @returns undefined if it is unusual. A general parser must read it then.
 */
export function readAcl(xml: string): Acl | undefined {
  const grants = elements(xml, 'Grant');
  const owner = elements(xml, 'Owner');
  if (!xml.includes('<AccessControlPolicy') || grants === undefined || owner?.length !== 1) return undefined;
  const ID = field(owner[0]!, 'ID');
  return {
    owner: ID === undefined ? undefined : { ID },
    grants: grants.map((grant) => ({
      Grantee: {
        Type: undefined,
        ID: field(grant, 'ID'),
        URI: field(grant, 'URI'),
        EmailAddress: field(grant, 'EmailAddress'),
      },
      Permission: field(grant, 'Permission') as Grant['Permission'],
    })),
  };
}

/** Reads an answer to GetObjectTagging, as {@link readAcl} does. */
export function readTags(xml: string): readonly Tag[] | undefined {
  const tags = elements(xml, 'Tag');
  if (!xml.includes('<Tagging') || tags === undefined) return undefined;
  return tags.map((tag) => ({ Key: field(tag, 'Key'), Value: field(tag, 'Value') ?? '' }));
}
