import assert from 'node:assert/strict';
import { test } from 'node:test';
import { copySource } from '../../../../backends/s3/client/bucket.js';

test('the source of a copy is a bucket and a key, or the ARN of an object of an access point', () => {
  assert.equal(copySource('bucket', 'a b/c+d'), 'bucket/a%20b/c%2Bd');
  const point = 'arn:aws:s3:eu-west-1:123456789012:accesspoint/point';
  assert.equal(
    decodeURIComponent(copySource(point, 'a/b')),
    'arn:aws:s3:eu-west-1:123456789012:accesspoint/point/object/a/b',
  );
});
