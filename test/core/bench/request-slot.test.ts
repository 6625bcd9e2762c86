import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '../../../core/bench/fuse.js';
import { ARGUMENTS, RequestSlot } from '../../../core/bench/request-slot.js';
import { SharedMemory } from '../../../core/vhost-user/index.js';

test('requests are made as root, whatever lay in their memory before', () => {
  const memory = new SharedMemory(2 ** 20);
  memory.bytes.fill(0xff);
  const slot = new RequestSlot(0, memory, 4096);
  create(slot, 1, 0, 'f', 7);
  const [, opcode, , , node, nodeHigh, uid, gid, , extensions] = slot.words.subarray(0, ARGUMENTS);
  assert.deepEqual([opcode, node, nodeHigh], [35, 1, 0]);
  assert.deepEqual([uid, gid, extensions], [0, 0, 0]);
  memory.close();
});
