import { createServer } from 'node:http';
import { Mount, TestBucket, context, removeFolders } from '../backends/s3/support.js';

/*
 * Mounts a bucket whose listings never end, lists its root, and says how that ended, and that other
 * requests are still served.
 */

const NAMES_A_PAGE = 1000;
let pages = 0;

function page(): string {
  pages += 1;
  const keys = Array.from({ length: NAMES_A_PAGE }, (_, i) => `file-${pages}-${i}`);
  const objects = keys.map(
    (key) =>
      `<Contents><Key>${key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;${'0'.repeat(32)}&quot;</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>`,
  );
  return `<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix><MaxKeys>${NAMES_A_PAGE}</MaxKeys><KeyCount>${keys.length}</KeyCount><IsTruncated>true</IsTruncated><NextContinuationToken>t${pages}</NextContinuationToken>${objects.join('')}</ListBucketResult>`;
}

const server = createServer((request, response) => {
  request.resume();
  if (request.method === 'GET' && request.url!.includes('list-type=2'))
    response.writeHead(200, { 'content-type': 'application/xml' }).end(page());
  else response.writeHead(404).end();
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const { port } = server.address() as { port: number };
const bucket = TestBucket.open('bucket', `http://127.0.0.1:${port}`);
const mount = await Mount.open(bucket, { readOnly: true });
const outcome = await mount.names('').then(
  (names) => `${names.length} names`,
  (error: unknown) => (error as { code?: string }).code,
);
const other = (await mount.backend.getattr(mount.root, undefined, context)).mode.toString(8);
console.log(JSON.stringify({ outcome, other, pages }));
await removeFolders();
process.exit(0);
