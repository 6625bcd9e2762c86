import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Setup } from '../../../core/keeper/setup.js';
import { eventfd } from '../../../core/system/index.js';
import { encodeU64, encodeVringState, Request } from '../../../core/vhost-user/messages.js';

test('a message about a queue that is too short is not noted, and its descriptors are closed', () => {
  const setup = new Setup();
  for (const length of [0, 3, 4, 7]) {
    const fd = eventfd();
    setup.note({ request: Request.SET_VRING_KICK, payload: new Uint8Array(length), fds: [fd] });
    assert.equal(fd.value, -1);
  }
  assert.ok(!setup.hasKicks);
  setup.note({ request: Request.SET_VRING_NUM, payload: encodeVringState(1, 128), fds: [] });
  assert.equal(setup.largestRing, 128);
});

test('what an engine answers after the front-end has gone leaves no descriptor', () => {
  const setup = new Setup();
  const before = eventfd();
  setup.note({ request: Request.SET_VRING_CALL, payload: encodeU64(1), fds: [before] });
  setup.close();
  const after = eventfd();
  setup.note({ request: Request.SET_VRING_KICK, payload: encodeU64(1), fds: [after] });
  assert.deepEqual([before.value, after.value], [-1, -1]);
});

test('queues are told of after what they need was answered, and few messages come at once', () => {
  const setup = new Setup();
  const note = (request: number, payload: Uint8Array): void => setup.note({ request, payload, fds: [] });
  for (let ring = 0; ring < 20; ring++) {
    note(Request.SET_VRING_BASE, encodeVringState(ring, 0));
    note(Request.SET_VRING_NUM, encodeVringState(ring, 128));
  }
  note(Request.SET_FEATURES, encodeU64(1n));
  note(Request.SET_MEM_TABLE, new Uint8Array(40));
  note(Request.SET_OWNER, new Uint8Array(0));
  const [first, ...rest] = [...setup.replay()].map((part) => part.map(({ request }) => request));
  assert.deepEqual(first, [Request.SET_OWNER, Request.SET_FEATURES, Request.SET_MEM_TABLE]);
  assert.ok(rest.length > 1);
  for (const part of rest) assert.ok(part.length <= 32);
  const rings = Array.from({ length: 20 }, () => [Request.SET_VRING_NUM, Request.SET_VRING_BASE]);
  assert.deepEqual(rest.flat(), rings.flat());
});
