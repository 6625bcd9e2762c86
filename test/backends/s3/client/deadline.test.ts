import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deadline } from '../../../../backends/s3/client/deadline.js';

test('work that fails after its operation was given up is no unhandled rejection', async () => {
  const unhandled: unknown[] = [];
  const note = (error: unknown): void => void unhandled.push(error);
  process.on('unhandledRejection', note);
  const controller = new AbortController();
  const deadline = Deadline.after(1000, controller.signal);
  controller.abort();
  let fail: (error: Error) => void = () => undefined;
  const work = new Promise<never>((_, reject) => (fail = reject));
  await assert.rejects(deadline.wait(work), { code: 'EINTR' });
  fail(new Error('given up too'));
  await new Promise(setImmediate);
  process.off('unhandledRejection', note);
  assert.deepEqual(unhandled, []);
});
