import assert from 'node:assert/strict';
import { openSync } from 'node:fs';
import { constants } from 'node:os';
import { test } from 'node:test';
import type { Message } from '../../../core/memory/index.js';
import { drain, eventfd, type Fd, OwnedFd, signal, UnixConnection } from '../../../core/system/index.js';
import { Poller, RingFeature } from '../../../core/virtqueue/index.js';
import { DATA, echo, GUEST, Rig, type RigOptions, until } from './rig.js';

const EAGAIN = -constants.errno.EAGAIN;
/** `VIRTQ_AVAIL_F_NO_INTERRUPT` of the available ring's flags (virtio 1.2, 2.7.6). */
const NO_INTERRUPT = 1;

/** Sends one request of three bytes for an echo; returns its token. */
function submit(rig: Rig, at: number, readable = 3, writable = 8): number {
  const { driver } = rig;
  driver.begin();
  driver.readable(GUEST + at, readable);
  if (writable > 0) driver.writable(GUEST + at + 64, writable);
  return driver.submit();
}

/** Submits a request without room for a reply. */
function submitForget(rig: Rig): number {
  return submit(rig, DATA, 48, 0);
}

for (const [name, options] of Object.entries<RigOptions>({
  'a ring with EVENT_IDX': { eventIdx: true },
  'a ring without EVENT_IDX': { eventIdx: false },
  'a ring of indirect chains': { indirect: 4 },
  'a ring of 1024 entries': { size: 1024 },
  'a ring of one entry for indirect chains': { size: 1, indirect: 2 },
})) {
  test(`${name} carries requests there and back, many times around`, async () => {
    const rig = new Rig(options);
    const { driver, queue } = rig;
    rig.start(echo);
    const batch = Math.min(5, options.indirect === undefined ? driver.size >> 1 : driver.size);
    let value = 0;
    for (let round = 0; round < 300; round++) {
      const tokens: number[] = [];
      for (let i = 0; i < batch; i++) {
        rig.bytes.set([value, value + 1, value + 2], DATA + i * 256);
        tokens.push(submit(rig, DATA + i * 256));
      }
      driver.enableInterrupts();
      driver.kick(rig.kick.value);
      await until(() => drain(rig.call.value) > 0);
      for (const [i, expected] of tokens.entries()) {
        await until(() => driver.ready);
        assert.equal(driver.poll(), expected);
        assert.equal(driver.usedLength, 3);
        const reply = rig.bytes.subarray(DATA + i * 256 + 64, DATA + i * 256 + 67);
        assert.deepEqual(
          [...reply],
          [value + 1, value + 2, value + 3].map((byte) => byte & 0xff),
        );
      }
      assert.equal(driver.poll(), -1);
      value = (value + 1) & 0xff;
    }
    assert.equal(driver.pending, 0);
    assert.equal(queue.inFlight, 0);
    assert.equal(queue.base, (300 * batch) & 0xffff);
    assert.deepEqual(rig.warnings, []);
    rig.close();
  });
}

test('indices run over 2^16', () => {
  const rig = new Rig();
  rig.start(echo);
  for (let i = 0; i < 70_000; i++) {
    const token = submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    assert.equal(rig.driver.poll(), token);
  }
  assert.equal(rig.queue.stop(), 70_000 & 0xffff);
  rig.close();
});

test('a driver that asks for no interrupts gets none', () => {
  for (const eventIdx of [true, false]) {
    const rig = new Rig({ eventIdx });
    rig.start(echo);
    rig.driver.enableInterrupts();
    submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    assert.equal(drain(rig.call.value), 8);
    // With EVENT_IDX each interrupt must be asked for.
    if (!eventIdx) rig.halves[(rig.driver.available - GUEST) / 2] = NO_INTERRUPT;
    submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    assert.equal(drain(rig.call.value), EAGAIN);
    rig.close();
  }
});

test('with EVENT_IDX the interrupt comes when the used index passes the event, once', () => {
  const rig = new Rig();
  rig.start(echo);
  rig.driver.enableInterrupts(3);
  for (let i = 0; i < 7; i++) {
    submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    assert.equal(drain(rig.call.value), i === 3 ? 8 : EAGAIN, `request ${i}`);
  }
  rig.close();
});

test('requests without replies wait for the next one that has a reply, or for a moment', async () => {
  const poller = new Poller(0);
  const forgets = new Rig({ poller, hasReplies: false });
  const others = new Rig({ poller });
  const served: string[] = [];
  for (const [name, rig] of Object.entries({ forgets, others })) {
    rig.start((message) => {
      served.push(name);
      message.complete(0);
    });
  }
  // The first one is notified of, as in any queue. What comes after it is not.
  forgets.driver.enableInterrupts(0);
  submitForget(forgets);
  assert.equal(forgets.driver.publish(), true);
  forgets.queue.kick();
  assert.deepEqual(served, ['forgets']);
  assert.equal(drain(forgets.call.value), EAGAIN);
  submitForget(forgets);
  assert.equal(forgets.driver.publish(), false);
  submit(others, DATA);
  assert.equal(others.driver.publish(), true);
  others.queue.kick();
  assert.deepEqual(served.splice(0), ['forgets', 'forgets', 'others']);
  assert.equal(drain(forgets.call.value), EAGAIN);
  // Where the machine is busy, a drain ends early and goes on in the next turn.
  const availEvent = (forgets.driver.used - GUEST + 4 + 8 * forgets.driver.size) / 2;
  await until(() => forgets.halves[availEvent] === 5);
  // A quarter of the ring is served, and announced, at once.
  for (let i = 0; i < 4; i++) {
    submitForget(forgets);
    assert.equal(forgets.driver.publish(), i === 3, `request ${i}`);
  }
  forgets.queue.kick();
  await until(() => served.length === 4);
  assert.equal(drain(forgets.call.value), 8);
  // What comes last is neither forgotten nor left without an interrupt.
  while (forgets.driver.poll() >= 0);
  forgets.driver.enableInterrupts();
  submitForget(forgets);
  assert.equal(forgets.driver.publish(), false);
  await until(() => served.length === 5);
  await until(() => drain(forgets.call.value) === 8);
  // Of an idle queue it is notified again.
  await until(() => forgets.halves[availEvent] === 7);
  submitForget(forgets);
  assert.equal(forgets.driver.publish(), true);
  for (const rig of [forgets, others]) rig.close();
});

test('a queue without replies is notified of each request while one of the guest is in flight', async () => {
  const rig = new Rig({ hasReplies: false });
  const availEvent = (rig.driver.used - GUEST + 4 + 8 * rig.driver.size) / 2;
  const held: Message[] = [];
  rig.start((message) => (held.length < 2 ? held.push(message) : message.complete(0)));
  for (let i = 0; i < 4; i++) {
    submitForget(rig);
    assert.equal(rig.driver.publish(), true);
    rig.queue.kick();
    await until(() => rig.halves[availEvent] === i + 1);
  }
  rig.close();
});

test('requests that have room for a reply come back at once from a queue without replies', () => {
  const rig = new Rig({ hasReplies: false });
  rig.start((message) => message.complete(0));
  for (let i = 0; i < 3; i++) {
    rig.driver.enableInterrupts();
    submit(rig, DATA, 48, 16);
    assert.equal(rig.driver.publish(), true);
    rig.queue.kick();
    assert.equal(drain(rig.call.value), 8, `request ${i}`);
    assert.ok(rig.driver.poll() >= 0);
  }
  rig.close();
});

test('a queue without replies that stops has told the guest of all its requests', () => {
  const rig = new Rig({ hasReplies: false });
  rig.start((message) => message.complete(0));
  rig.driver.enableInterrupts(0);
  submitForget(rig);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(drain(rig.call.value), EAGAIN);
  rig.queue.stop();
  assert.equal(drain(rig.call.value), 8);
  rig.close();
});

test('a guest is interrupted while a long drain goes on: after 64 requests, and after slow ones', async () => {
  const rig = new Rig({ size: 256, eventIdx: false });
  let taken = 0;
  let slow = 0;
  let earlySignals = 0;
  rig.start((message) => {
    for (const end = performance.now() + slow; performance.now() < end;);
    message.complete(0);
    taken += 1;
    if (drain(rig.call.value) > 0) earlySignals += 1;
  });
  for (const [requests, milliseconds, signals] of [
    [100, 0, 1],
    [8, 1, 4],
  ] as const) {
    slow = milliseconds;
    taken = 0;
    earlySignals = 0;
    for (let i = 0; i < requests; i++) submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    await until(() => taken === requests);
    assert.ok(earlySignals >= signals, `${earlySignals} interrupts before the end`);
    while (rig.driver.poll() >= 0);
    drain(rig.call.value);
  }
  rig.close();
});

test('a guest that moves its index to and fro does not hold the event loop', () => {
  const rig = new Rig({ size: 4 });
  const index = (rig.driver.available - GUEST) / 2 + 1;
  const ring = rig.driver.size;
  let taken = 0;
  rig.start((message) => {
    taken += 1;
    message.complete(0);
    rig.halves[index] = rig.halves[index]! + 1;
  });
  rig.descriptor(0, GUEST + DATA, 8, 0);
  rig.offer(0);
  assert.ok(taken <= 4 * ring);
  rig.close();
});

test('while the device drains the ring it wants no notification, afterwards it does', async () => {
  for (const eventIdx of [true, false]) {
    const rig = new Rig({ eventIdx });
    const wanted: boolean[] = [];
    let more = 3;
    rig.start((message) => {
      if (more-- > 0) {
        submit(rig, DATA);
        wanted.push(rig.driver.publish());
      }
      message.complete(0);
    });
    submit(rig, DATA);
    rig.driver.publish();
    rig.queue.kick();
    // Where the machine is busy, the drain ends early and goes on in the next turn.
    await until(() => rig.queue.base === 4);
    assert.deepEqual(wanted, [false, false, false]);
    submit(rig, DATA);
    assert.equal(rig.driver.publish(), true);
    rig.close();
  }
});

test('requests complete in any order, also long after the drain', async () => {
  const rig = new Rig();
  const messages: Message[] = [];
  rig.start((message) => messages.push(message));
  const tokens = [0, 1, 2, 3].map((i) => submit(rig, DATA + i * 256));
  rig.driver.publish();
  rig.queue.kick();
  await until(() => rig.queue.inFlight === 4);
  rig.driver.enableInterrupts();
  for (const i of [2, 0, 3, 1]) {
    messages[i]!.complete(i);
    assert.equal(drain(rig.call.value), 8);
    assert.equal(rig.driver.poll(), tokens[i]);
    assert.equal(rig.driver.usedLength, i);
    rig.driver.enableInterrupts();
  }
  assert.equal(rig.queue.inFlight, 0);
  messages[0]!.complete(1);
  assert.equal(rig.driver.poll(), -1);
  rig.close();
});

test('requests that were available before the start are taken without a kick', async () => {
  const rig = new Rig();
  const token = submit(rig, DATA);
  rig.driver.publish();
  rig.start(echo);
  await until(() => rig.driver.ready);
  assert.equal(rig.driver.poll(), token);
  rig.close();
});

test('a paused queue takes nothing and still gives back', async () => {
  const rig = new Rig();
  const messages: Message[] = [];
  rig.start((message) => messages.push(message));
  submit(rig, DATA);
  rig.driver.kick(rig.kick.value);
  await until(() => messages.length === 1);
  rig.queue.pause();
  submit(rig, DATA);
  rig.driver.kick(rig.kick.value);
  signal(rig.kick.value);
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(messages.length, 1);
  let idle = false;
  const waiting = rig.queue.whenIdle().then(() => (idle = true));
  messages[0]!.complete(0);
  await waiting;
  assert.ok(idle);
  assert.ok(rig.driver.poll() >= 0);
  rig.queue.resume();
  await until(() => messages.length === 2);
  await Promise.race([rig.queue.whenIdle(), new Promise((resolve) => setImmediate(resolve))]);
  assert.equal(rig.queue.inFlight, 1);
  rig.close();
});

test('a stopped queue gives its base, and what completes late touches nothing', () => {
  const rig = new Rig();
  const messages: Message[] = [];
  rig.start((message) => messages.push(message));
  submit(rig, DATA);
  submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(rig.queue.stop(), 2);
  assert.equal(rig.queue.inFlight, 0);
  messages[0]!.complete(5);
  assert.equal(rig.driver.poll(), -1);
  rig.queue.base = 1;
  rig.start((message) => messages.push(message));
  rig.queue.kick();
  assert.equal(messages.length, 3);
  messages[1]!.complete(5);
  assert.equal(rig.driver.poll(), -1);
  messages[2]!.complete(7);
  assert.ok(rig.driver.poll() >= 0);
  assert.equal(rig.driver.usedLength, 7);
  rig.close();
});

test('a queue can be stopped and closed from within a request', () => {
  const rig = new Rig();
  let taken = 0;
  rig.start((message) => {
    taken += 1;
    rig.queue.stop();
    message.complete(0);
  });
  submit(rig, DATA);
  submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(taken, 1);
  assert.equal(rig.queue.base, 1);
  assert.equal(rig.driver.poll(), -1);
  rig.close();
});

test('a flood of requests lets the event loop turn', async () => {
  const rig = new Rig({ size: 4 });
  let taken = 0;
  let turns = 0;
  rig.start((message) => {
    message.complete(0);
    rig.driver.poll();
    taken += 1;
    if (taken < 1000) submit(rig, DATA);
    rig.driver.publish();
  });
  const turn = () => {
    turns += 1;
    if (taken < 1000) setImmediate(turn);
  };
  setImmediate(turn);
  submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.ok(taken <= 16);
  await until(() => taken === 1000);
  assert.ok(turns > 50);
  rig.close();
});

test('a ring outside shared memory, unaligned, or of a wrong size is refused', () => {
  const rig = new Rig();
  const { queue } = rig;
  assert.throws(() => queue.setAddresses(8, 0, 0), /not aligned/);
  assert.throws(() => queue.setAddresses(0, 1, 0), /not aligned/);
  assert.throws(() => queue.setAddresses(0, 0, 2), /not aligned/);
  for (const size of [0, 3, 2048, -1, 1.5, NaN])
    assert.throws(() => (queue.size = size), /not a power of two/);
  for (const base of [-1, 65536, 1.5, NaN]) assert.throws(() => (queue.base = base), /not a 16-bit number/);
  queue.setAddresses(0x1000, 0x2000, 0x3000);
  assert.throws(() => rig.start(echo), /the ring's descriptors are not in shared memory/);
  rig.setAddresses();
  rig.start(echo);
  assert.throws(() => (queue.size = 8), /running/);
  assert.throws(() => queue.setAddresses(0, 0, 0), /running/);
  rig.close();
});

test('what is no notification is refused and closed', () => {
  const rig = new Rig();
  rig.start(echo);
  const refuses = (set: 'setKick' | 'setCall' | 'setErr', fd: OwnedFd): void => {
    assert.throws(() => rig.queue[set](fd), /not an eventfd/);
    assert.equal(fd.value, -1);
  };
  try {
    for (const set of ['setKick', 'setCall', 'setErr'] as const) {
      refuses(set, new OwnedFd(openSync('/dev/null', 'r+') as Fd));
    }
    const [ours, theirs] = UnixConnection.pair();
    refuses('setKick', new OwnedFd(ours.fd));
    theirs.close();
  } finally {
    rig.close();
  }
});

test('a guest may be interrupted over a socket, even one that nobody reads', async () => {
  const rig = new Rig({ eventIdx: false });
  const [ours, theirs] = UnixConnection.pair();
  try {
    rig.start(echo);
    rig.queue.setCall(new OwnedFd(ours.fd));
    submit(rig, DATA);
    rig.driver.kick(rig.kick.value);
    await until(() => rig.driver.ready);
    const received = new Uint8Array(16);
    assert.equal(theirs.recv(received, []), 8);
    assert.equal(new DataView(received.buffer).getBigUint64(0, true), 1n);
    while (ours.send(new Uint8Array(4096)) > 0) {}
    rig.driver.poll();
    submit(rig, DATA);
    rig.driver.kick(rig.kick.value);
    await until(() => rig.driver.ready);
  } finally {
    rig.close();
    theirs.close();
  }
});

test('the kick and call descriptors may be replaced while the queue runs', async () => {
  const rig = new Rig({ eventIdx: false });
  rig.start(echo);
  const kick = eventfd();
  const call = eventfd();
  rig.queue.setKick(kick);
  rig.queue.setCall(call);
  assert.equal(rig.kick.value, -1);
  submit(rig, DATA);
  rig.driver.kick(kick.value);
  await until(() => rig.driver.ready);
  assert.equal(drain(call.value), 8);
  rig.close();
  assert.equal(kick.value, -1);
  assert.equal(call.value, -1);
});

test('a request that cannot be answered stops its queue and tells the front-end', () => {
  const rig = new Rig();
  rig.start((message) => message.fail());
  submit(rig, DATA);
  submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.ok(rig.queue.broken);
  assert.equal(rig.queue.inFlight, 0);
  assert.equal(drain(rig.err.value), 8);
  assert.deepEqual(rig.warnings, [
    'queue stopped: the guest sent a request that can be neither understood nor answered',
  ]);
  assert.equal(rig.driver.poll(), -1);
  rig.queue.stop();
  assert.ok(!rig.queue.broken);
  rig.close();
});

test('an exception of the handler stops its queue, not the process', () => {
  const rig = new Rig();
  rig.start(() => {
    throw new Error('a bug');
  });
  submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.ok(rig.queue.broken);
  assert.equal(drain(rig.err.value), 8);
  assert.deepEqual(rig.warnings, ['queue stopped: a request was not handled']);
  assert.equal(rig.queue.inFlight, 0);
  rig.queue.stop();
  rig.start(echo);
  const token = submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(rig.driver.poll(), token);
  rig.close();
});

test('features may name what the queue does not need', () => {
  const rig = new Rig();
  rig.queue.features = RingFeature.VERSION_1 | RingFeature.EVENT_IDX | (1n << 63n);
  rig.start(echo);
  const token = submit(rig, DATA);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(rig.driver.poll(), token);
  rig.close();
});
