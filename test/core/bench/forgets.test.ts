import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Forgets, HIPRIO } from '../../../core/bench/forgets.js';
import { forget } from '../../../core/bench/fuse.js';
import { RequestSlot } from '../../../core/bench/request-slot.js';
import { FrontEndQueue, SharedMemory } from '../../../core/vhost-user/index.js';

test('FORGETs fill their ring while none is given back, each with memory of its own', () => {
  const memory = new SharedMemory(2 ** 20);
  const queue = new FrontEndQueue(HIPRIO, memory, { size: 4, indirect: 2 });
  const forgets = new Forgets({ queues: [queue], memory });
  const slot = new RequestSlot(0, memory, 0);
  const words = new Uint32Array(memory.bytes.buffer, memory.bytes.byteOffset, memory.bytes.length / 4);
  /** Where requests are that forget a node, by words. */
  const placesOf = (node: number): number[] =>
    [...words.keys()].filter((at) => words[at + 1] === 2 && words[at + 4] === node);
  for (let node = 100; node < 104; node++) {
    forget(slot, node, 0);
    assert.equal(forgets.place(slot), true);
  }
  forget(slot, 104, 0);
  assert.equal(forgets.place(slot), false);
  for (let node = 100; node < 104; node++) assert.equal(placesOf(node).length, 1, `node ${node}`);
  forgets.close();
  queue.close();
  memory.close();
});
