import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pass } from 'node:timers/promises';
import {
  type Fd,
  drainForeign,
  eventfd,
  signal,
  signalBeforeSleep,
  signalKind,
  signalOwed,
  UnixConnection,
  watchSignals,
} from '../../../../core/system/index.js';

const NOTHING_THERE = -11;

/** Runs what a source of the thread's own sleep would run, and waits for a turn of the loop. */
async function asSource(work: () => void): Promise<void> {
  using kick = eventfd();
  const served = new Promise<void>((resolve, reject) => {
    const watched = watchSignals(kick.value, () => {
      watched.close();
      try {
        resolve(work());
      } catch (error) {
        reject(error as Error);
      }
    });
  });
  signal(kick.value);
  await served;
  await pass(1);
}

function isSignalled(fd: Fd): boolean {
  return drainForeign(fd) !== NOTHING_THERE;
}

test('a descriptor is signalled when what it was asked by is over', async () => {
  using call = eventfd();
  await asSource(() => {
    signalBeforeSleep(call.value, 'eventfd');
    assert.equal(isSignalled(call.value), false);
  });
  assert.ok(isSignalled(call.value));
  assert.equal(isSignalled(call.value), false);
});

test('a socket, as User-Mode Linux has it, gets eight bytes', async () => {
  const [one, other] = UnixConnection.pair();
  assert.equal(signalKind(one.fd), 'socket');
  await asSource(() => {
    signalBeforeSleep(one.fd, 'socket');
    assert.equal(isSignalled(other.fd), false);
  });
  assert.ok(isSignalled(other.fd));
  assert.equal(isSignalled(other.fd), false);
  one.close();
  other.close();
});

test('it wakes the thread that signalled it, which sleeps by then', async () => {
  using kick = eventfd();
  using call = eventfd();
  let left = 1000;
  await new Promise<void>((resolve) => {
    const called = watchSignals(call.value, () => {
      if (--left > 0) {
        signal(kick.value);
        return;
      }
      called.close();
      kicked.close();
      resolve();
    });
    const kicked = watchSignals(kick.value, () => signalBeforeSleep(call.value, 'eventfd'));
    signal(kick.value);
  });
  assert.equal(left, 0);
});

test('what else is done before the sleep can have it signalled at once', async () => {
  using call = eventfd();
  await asSource(() => {
    signalBeforeSleep(call.value, 'eventfd');
    signalOwed();
    assert.ok(isSignalled(call.value));
    signalOwed();
    assert.equal(isSignalled(call.value), false);
  });
  assert.equal(isSignalled(call.value), false);
});

test('of several descriptors only the last one waits', async () => {
  using first = eventfd();
  using second = eventfd();
  await asSource(() => {
    signalBeforeSleep(first.value, 'eventfd');
    signalBeforeSleep(second.value, 'eventfd');
    assert.ok(isSignalled(first.value));
    assert.equal(isSignalled(second.value), false);
  });
  assert.ok(isSignalled(second.value));
});

test('a source finds signalled what the one before it has asked for', async () => {
  using call = eventfd();
  using one = eventfd();
  using other = eventfd();
  let isLast = false;
  await new Promise<void>((resolve) => {
    const serve = (): void => {
      if (isLast) {
        assert.ok(isSignalled(call.value));
        for (const watched of sources) watched.close();
        resolve();
      } else signalBeforeSleep(call.value, 'eventfd');
      isLast = true;
    };
    const sources = [one, other].map(({ value }) => watchSignals(value, serve));
    for (const { value } of [one, other]) signal(value);
  });
});

test('where no sleep comes next it is signalled at once', () => {
  using call = eventfd();
  signalBeforeSleep(call.value, 'eventfd');
  assert.ok(isSignalled(call.value));
});

test('descriptors are told apart', () => {
  using call = eventfd();
  assert.equal(signalKind(call.value), 'eventfd');
  assert.equal(signalKind(9999 as Fd), undefined);
});
