import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deadline } from '../../../../backends/s3/client/deadline.js';
import { S3Failure } from '../../../../backends/s3/client/failure.js';
import { Metrics } from '../../../../backends/s3/client/metrics.js';
import { Requests } from '../../../../backends/s3/client/requests.js';
import { optionsSchema } from '../../../../backends/s3/options.js';
import { keepingLog } from '../../../support/host-mount.js';

test('an attempt that does not end by its signal is left alone when its time is up', async () => {
  const options = optionsSchema.parse({ bucket: 'name', endpoint: 'http://127.0.0.1:1' });
  const requests = new Requests(options, keepingLog(), new Metrics());
  const never = (): Promise<never> => new Promise(() => undefined);
  await assert.rejects(
    requests.send('GetObject', Deadline.after(0.05), 0, never),
    (error) => error instanceof S3Failure && error.kind === 'transient',
  );
  requests.close();
});
