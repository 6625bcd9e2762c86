import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, it } from 'node:test';
import s3Plugin from '../../../../backends/s3/index.js';
import { runOffline } from '../../../support/commands.js';
import { keepingLog } from '../../../support/host-mount.js';
import { proxiedBucket } from '../proxied-bucket.js';
import type { Seen } from '../proxy.js';
import { context, Mount, pattern } from '../support.js';

/**
 * Actions that a request needs (Amazon S3 User Guide, "Required permissions for API operations").
 */
const ACTIONS: Readonly<Record<string, string>> = {
  ListObjectsV2: 'ListBucket',
  ListMultipartUploads: 'ListBucketMultipartUploads',
  GetBucketOwnershipControls: 'GetBucketOwnershipControls',
  GetObject: 'GetObject',
  HeadObject: 'GetObject',
  PutObject: 'PutObject',
  CopyObject: 'PutObject',
  CreateMultipartUpload: 'PutObject',
  UploadPart: 'PutObject',
  UploadPartCopy: 'PutObject',
  CompleteMultipartUpload: 'PutObject',
  AbortMultipartUpload: 'AbortMultipartUpload',
  DeleteObject: 'DeleteObject',
  DeleteObjects: 'DeleteObject',
  GetObjectAcl: 'GetObjectAcl',
  GetObjectTagging: 'GetObjectTagging',
  PutObjectTagging: 'PutObjectTagging',
};

function actionsOf({ operation, headers }: Seen): string[] {
  const action = ACTIONS[operation];
  assert.ok(action !== undefined, `what ${operation} needs is not known`);
  const names = Object.keys(headers);
  return [
    action,
    ...(operation === 'CopyObject' || operation === 'UploadPartCopy' ? ['GetObject'] : []),
    ...(names.some((name) => /^x-amz-(?:grant-|acl$)/.test(name)) ? ['PutObjectAcl'] : []),
    ...(names.includes('x-amz-tagging') ? ['PutObjectTagging'] : []),
  ];
}

const readme = readFileSync(
  fileURLToPath(new URL('../../../../../backends/s3/README.md', import.meta.url)),
  'utf8',
);

/** The actions of the first policy in the documentation. */
function documented(): string[] {
  const [, text = ''] = /```json\n(\{\n {2}"Version"[\s\S]*?)```/.exec(readme) ?? [];
  const { Statement } = JSON.parse(text) as { Statement: { Action: string[] }[] };
  return Statement.flatMap(({ Action }) => Action.map((action) => action.replace(/^s3:/, ''))).sort();
}

describe('the policy in the documentation', () => {
  const server = proxiedBucket();
  const needed = (): string[] => [...new Set(server.proxy.seen.flatMap(actionsOf))].sort();

  it('allows what a mount asks for, and nothing else', async () => {
    const { bucket, proxy } = server;
    const theirs = { Tagging: 'a=b', GrantRead: 'uri="http://acs.amazonaws.com/groups/global/AllUsers"' };
    await bucket.put('p/theirs', 'theirs', theirs);
    await bucket.put('p/moved', 'moved', theirs);
    const options = { endpoint: proxy.endpoint, prefix: 'p', partSize: '5m' };
    const mount = await Mount.open(bucket, options);
    const file = await mount.openFile('theirs');
    await mount.write(file, 0, 'ours');
    await mount.fsync(file);
    await mount.write(file, 3, pattern(11 * 2 ** 20));
    await mount.fsync(file);
    await mount.release(file);
    await mount.backend.mkdir(mount.root, 'd', 0o755, context);
    await mount.put('d/file', 'content');
    await mount.backend.rename(mount.root, 'moved', mount.root, 'there', 0, context);
    await mount.backend.rename(mount.root, 'd', mount.root, 'e', 0, context);
    await mount.backend.setattr(await mount.at('e/file'), { mode: 0o600 }, undefined, context);
    assert.equal((await mount.content('there')).toString(), 'moved');
    for (const name of ['there', 'theirs']) await mount.backend.unlink(mount.root, name, context);
    await mount.names('');
    await mount.close();
    await runOffline(s3Plugin, 'sweep', { bucket: bucket.name, ...options }, keepingLog());
    assert.deepEqual(needed(), documented());
  });

  it('is less for a mount that only reads, as it says there', async () => {
    const { bucket, proxy } = server;
    await bucket.put('q/d/file', 'content');
    proxy.seen.length = 0;
    const mount = await Mount.open(bucket, { endpoint: proxy.endpoint, prefix: 'q', readOnly: true });
    assert.deepEqual(await mount.names('d'), ['file']);
    assert.equal((await mount.content('d/file')).toString(), 'content');
    await mount.close();
    assert.deepEqual(needed(), ['GetObject', 'ListBucket']);
    assert.match(readme, /With `--read-only` `s3:ListBucket` and `s3:GetObject` are enough/);
  });
});
