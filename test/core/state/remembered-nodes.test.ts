import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeGeneration, NodeIdHigh, NodeIdLow } from '../../../core/state/ids.js';
import { RememberedNodes } from '../../../core/state/remembered-nodes.js';

test('a node that is forgotten again and again takes the room of one', () => {
  const nodes = new RememberedNodes(10);
  const [high, generation] = [0 as NodeIdHigh, 1 as NodeGeneration];
  for (let i = 0; i < 100; i++)
    nodes.add({ low: (i % 3) as NodeIdLow, high, generation, key: Uint8Array.of(i % 3), trace: `at ${i}` });
  assert.deepEqual([...nodes.traces.values()], ['at 97', 'at 98', 'at 99']);
  assert.deepEqual(
    Array.from(nodes.all, ({ low }) => low),
    [1, 2, 0],
  );
});

test('a node is remembered without what was seen of it where that is too long', () => {
  const nodes = new RememberedNodes(10);
  const id = { low: 1 as NodeIdLow, high: 0 as NodeIdHigh, generation: 1 as NodeGeneration };
  nodes.add({ ...id, key: 'key', trace: 'trace', seen: `/${'x'.repeat(1024)}` });
  assert.deepEqual([...nodes.all], [{ ...id, key: 'key', trace: 'trace', seen: undefined }]);
});
