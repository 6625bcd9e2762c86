import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { Message } from '../../../core/memory/index.js';
import { EAGAIN } from '../../../core/system/calls/negative-errno.js';
import { drain } from '../../../core/system/index.js';
import { inflightBytes } from '../../../core/virtqueue/index.js';
import { DATA, echo, GUEST, Rig, type RigOptions, until } from './rig.js';
import { Random, repetitions } from '../../support/random.js';

function rigOf(t: TestContext, options: RigOptions = {}): Rig {
  const rig = new Rig({ size: 8, inflight: 8, ...options });
  t.after(() => rig.close());
  return rig;
}

/** Submits a request of one byte. @returns its token. */
function submit(rig: Rig, byte: number): number {
  const at = DATA + byte * 64;
  rig.bytes[at] = byte;
  rig.driver.begin();
  rig.driver.readable(GUEST + at, 1);
  rig.driver.writable(GUEST + at + 32, 1);
  const token = rig.driver.submit();
  rig.driver.publish();
  return token;
}

function byteOf(message: Message): number {
  const bytes = new Uint8Array(1);
  message.readable.get(0, bytes);
  return bytes[0]!;
}

/** Takes all returned requests. */
function returned(rig: Rig): number[] {
  const tokens: number[] = [];
  for (let token = rig.driver.poll(); token >= 0; token = rig.driver.poll()) tokens.push(token);
  return tokens;
}

const halves = (rig: Rig) => new Uint16Array(rig.region!.view(rig.region!.address, rig.region!.length));
const bytes = (rig: Rig) => new Uint8Array(rig.region!.view(rig.region!.address, rig.region!.length));

test('the region has the layout of the specification', (t) => {
  const rig = rigOf(t);
  const held: Message[] = [];
  rig.start((message) => held.push(message));
  const first = submit(rig, 1);
  const second = submit(rig, 2);
  rig.queue.kick();
  const region = bytes(rig);
  const view = new DataView(region.buffer, region.byteOffset);
  assert.equal(view.getUint16(8, true), 1, 'version');
  assert.equal(view.getUint16(10, true), 8, 'desc_num');
  assert.equal(view.getUint8(16 + 16 * first), 1, 'inflight of the first');
  assert.equal(view.getUint8(16 + 16 * second), 1, 'inflight of the second');
  assert.equal(view.getBigUint64(16 + 16 * first + 8, true), 0n, 'counter of the first');
  assert.equal(view.getBigUint64(16 + 16 * second + 8, true), 1n, 'counter of the second');
  for (const message of held.splice(0).toReversed()) message.complete(0);
  assert.equal(view.getUint8(16 + 16 * first), 0);
  assert.equal(view.getUint16(12, true), first, 'last_batch_head');
  assert.equal(view.getUint16(16 + 16 * first + 6, true), second, 'next: the head returned before');
  assert.equal(view.getUint16(14, true), 2, 'used_idx');
  assert.equal(inflightBytes({ queues: 2, queueSize: 8 }), 2 * 192, 'queues begin at 64 bytes');
});

test('what a killed process had taken is served again, in order, and nothing else', async (t) => {
  for (const eventIdx of [true, false]) {
    const rig = rigOf(t, { eventIdx, size: 16, inflight: 16 });
    const held: Message[] = [];
    rig.start((message) => held.push(message));
    // Some requests came and went before, so that indexes and heads differ.
    for (const byte of [1, 2, 3]) submit(rig, byte);
    rig.queue.kick();
    await until(() => held.length === 3);
    held.splice(1, 1)[0]!.complete(0);
    assert.equal(returned(rig).length, 1);
    for (const byte of [4, 5]) submit(rig, byte);
    rig.queue.kick();
    await until(() => held.length === 4);
    held.splice(2, 1)[0]!.complete(0);
    rig.replaceDevice();
    // Nobody kicks for these.
    submit(rig, 6);
    drain(rig.call.value);
    const served: number[] = [];
    rig.start((message) => {
      served.push(byteOf(message));
      echo(message);
    });
    assert.equal(drain(rig.call.value), 8, 'one interrupt at once, for what was returned before');
    await until(() => served.length === 4);
    assert.deepEqual(served, [1, 3, 5, 6]);
    assert.equal(returned(rig).length, 5);
    submit(rig, 7);
    rig.queue.kick();
    assert.equal(served.at(-1), 7);
    assert.deepEqual(rig.warnings, []);
  }
});

test('the base is the region’s, whatever SET_VRING_BASE said', async (t) => {
  const rig = rigOf(t);
  rig.start(() => undefined);
  for (const byte of [1, 2, 3]) submit(rig, byte);
  rig.queue.kick();
  rig.replaceDevice();
  // Cloud Hypervisor gives the available index.
  rig.queue.base = 3;
  const served: number[] = [];
  rig.start((message) => {
    served.push(byteOf(message));
    echo(message);
  });
  await until(() => served.length === 3);
  assert.equal(rig.queue.base, 3);
});

test('a kill between any two stores of a return loses nothing and repeats nothing', async (t) => {
  // The stores, in order: next, last_batch_head, used element, used idx, inflight, used_idx.
  for (const stores of [0, 1, 2, 3, 4, 5, 6]) {
    const rig = rigOf(t);
    const held: Message[] = [];
    rig.start((message) => held.push(message));
    const [first, second] = [submit(rig, 1), submit(rig, 2)];
    rig.queue.kick();
    held[0]!.complete(0);
    assert.deepEqual(returned(rig), [first]);
    // The region and the ring, before the second return and after it.
    const region = halves(rig);
    const used = (rig.driver.used - GUEST) / 2;
    const places: [Uint16Array, number, number][] = [
      [region, 8 + 8 * second + 3, first],
      [region, 6, second],
      [rig.halves, used + 2 + 4 * 1, second],
      [rig.halves, used + 1, 2],
      [region, 8 + 8 * second, 0],
      [region, 7, 2],
    ];
    for (const [memory, at, value] of places.slice(0, stores)) memory[at] = value;
    rig.replaceDevice();
    const served: number[] = [];
    rig.start((message) => {
      served.push(byteOf(message));
      echo(message);
    });
    submit(rig, 3);
    await until(() => served.includes(3));
    assert.deepEqual(served, stores >= 4 ? [3] : [2, 3], `killed after ${stores} stores`);
    assert.equal(returned(rig).filter((token) => token === second).length, 1);
  }
});

test('a queue that is stopped and started in one process goes on where it was', (t) => {
  const rig = rigOf(t);
  const held: Message[] = [];
  rig.start((message) => held.push(message));
  submit(rig, 1);
  submit(rig, 2);
  rig.queue.kick();
  held[1]!.complete(0);
  assert.equal(rig.queue.stop(), 2);
  const served: number[] = [];
  rig.start((message) => {
    served.push(byteOf(message));
    echo(message);
  });
  submit(rig, 3);
  rig.queue.kick();
  // The first request is still with the session that got it. It must not be served twice in one
  // process.
  assert.deepEqual(served, [3]);
  rig.replaceDevice();
  const later: number[] = [];
  rig.start((message) => {
    later.push(byteOf(message));
    echo(message);
  });
  rig.queue.kick();
  assert.deepEqual(later, [1], 'another process answers it');
});

test('a region that does not fit the ring is refused', (t) => {
  const small = rigOf(t, { inflight: 4 });
  assert.throws(() => small.start(echo), /8 entries, and an in-flight region for 4/);
  const rig = rigOf(t);
  rig.start(echo);
  rig.replaceDevice();
  halves(rig)[5] = 4;
  assert.throws(() => rig.start(echo), /of a ring of 4 entries, not 8/);
  halves(rig)[4] = 9;
  assert.throws(() => rig.start(echo), /version 9/);
});

test('a region full of nonsense costs its own queue only', async (t) => {
  const random = new Random(12345);
  for (let round = 0; round < repetitions(300); round++) {
    const rig = rigOf(t);
    rig.start(() => undefined);
    for (const byte of [1, 2, 3]) submit(rig, byte);
    rig.queue.kick();
    rig.replaceDevice();
    const region = halves(rig);
    for (let i = 6; i < region.length; i++) if (random.once(3)) region[i] = random.next();
    let served = 0;
    rig.start((message) => {
      served += 1;
      echo(message);
    });
    rig.queue.kick();
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(served <= 2 * 8, `${served} requests of a ring of 8`);
    rig.close();
  }
});

test('without a region nothing is remembered, and no interrupt comes', async (t) => {
  const rig = new Rig({ size: 8 });
  t.after(() => rig.close());
  rig.start(echo);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(drain(rig.call.value), EAGAIN);
});
