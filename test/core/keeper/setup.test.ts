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
