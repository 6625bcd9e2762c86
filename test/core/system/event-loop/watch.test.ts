import assert from 'node:assert/strict';
import { openSync, closeSync } from 'node:fs';
import { constants } from 'node:os';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { type Fd, drain, eventfd, isEventfd, memfd, signal, watch } from '../../../../core/system/index.js';

/** Lets the event loop poll often enough to see what is readable. */
async function turns(): Promise<void> {
  for (let i = 0; i < 10; i++) await turn();
}

test('an eventfd that was signalled drains once', () => {
  using fd = eventfd();
  assert.equal(drain(fd.value), -constants.errno.EAGAIN);
  assert.equal(signal(fd.value), 8);
  assert.equal(signal(fd.value), 8);
  assert.equal(drain(fd.value), 8);
  assert.equal(drain(fd.value), -constants.errno.EAGAIN);
});

test('only eventfds pass for eventfds', () => {
  using fd = eventfd();
  using other = memfd('test', 1);
  assert.ok(isEventfd(fd.value));
  assert.ok(!isEventfd(other.value));
  assert.ok(!isEventfd(99999 as Fd));
});

test('a watch calls back for each signal, and not while it is paused or closed', async () => {
  using fd = eventfd();
  let calls = 0;
  const polled = watch(fd.value, () => {
    drain(fd.value);
    calls += 1;
  });
  signal(fd.value);
  await turns();
  assert.equal(calls, 1);
  polled.pause();
  signal(fd.value);
  await turns();
  assert.equal(calls, 1);
  polled.resume();
  await turns();
  assert.equal(calls, 2);
  polled.close();
  polled.close();
  polled.resume();
  signal(fd.value);
  await turns();
  assert.equal(calls, 2);
});

test('promises that a callback resolved advance although nothing else wakes the loop', async () => {
  using fd = eventfd();
  const polled = await new Promise<{ close(): void }>((resolve) => {
    const self = watch(fd.value, () => {
      drain(fd.value);
      void Promise.resolve().then(() => resolve(self));
    });
    signal(fd.value);
  });
  polled.close();
});

test('a descriptor that cannot be polled, or is polled already, is refused', () => {
  const fd = openSync('/etc/passwd', 'r') as Fd;
  assert.throws(() => watch(fd, () => undefined), { message: `polling descriptor ${fd}: EPERM` });
  closeSync(fd);
  assert.throws(() => watch(-1 as Fd, () => undefined), { code: 'EBADF' });
  using event = eventfd();
  const polled = watch(event.value, () => undefined);
  assert.throws(() => watch(event.value, () => undefined), { code: 'EEXIST' });
  polled.close();
  watch(event.value, () => undefined).close();
});
