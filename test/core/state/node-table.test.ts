import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { engineSlot } from '../../../core/backend/accelerator.js';
import type { Backend } from '../../../core/backend/index.js';
import { Budget } from '../../../core/state/budgets.js';
import { LookupCounts, NO_SLOT, NodeTable, ROOT_SLOT } from '../../../core/state/index.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';
import { checkProperty } from '../../support/random.js';

interface Node {
  readonly key: string;
}

type Make = (key: string) => Node;

const plain: Make = (key) => ({ key });
/** A node with a place for the table's slot. */
const slotted: Make = (key) => Object.assign(plain(key), { [engineSlot]: -1 });

/** A table over a backend that records what it is told to forget. */
function table(
  limit = 1000,
  key?: (node: Node) => string,
  make = plain,
): { nodes: NodeTable; forgotten: Node[]; root: Node } {
  const forgotten: Node[] = [];
  const backend: Backend<Node> = {
    mount: () => root,
    lookup: () => undefined,
    getattr: () => ({ mode: 0o40755 }),
    forget: (node) => void forgotten.push(node),
    ...(key === undefined ? {} : { key }),
  };
  const root = make('root');
  return { nodes: new NodeTable(backend, root, limit, assert.ifError, make === slotted), forgotten, root };
}

/** Takes nodes until there is no room. @returns how many the table has then, the root included. */
function fill(nodes: NodeTable): number {
  for (let i = 0; ; i++) {
    const slot = nodes.intern(plain(`k${i}`));
    if (slot === NO_SLOT) return nodes.size;
    nodes.reference(slot);
  }
}

for (const [kind, make] of [
  ['plain nodes', plain],
  ['nodes with a place for it', slotted],
] as const) {
  describe(`a node table of ${kind}`, () => {
    it('has the root under node id 1, for ever', () => {
      const { nodes, forgotten, root } = table(1000, undefined, make);
      assert.equal(withPlainNumbers(nodes).find(1, 0), ROOT_SLOT);
      assert.equal(nodes.node(ROOT_SLOT), root);
      assert.equal(nodes.intern(root), ROOT_SLOT);
      nodes.reap(ROOT_SLOT);
      assert.deepEqual(forgotten, []);
    });

    it('gives each node one slot, found by its id', () => {
      const { nodes } = table(1e6, (node) => node.key, make);
      const all = Array.from({ length: 20_000 }, (_, i) => make(`k${i}`));
      for (const node of all) {
        const slot = nodes.intern(node);
        assert.equal(nodes.intern(node), slot);
        nodes.reference(slot);
      }
      assert.equal(nodes.size, 20_001);
      for (const node of all) {
        const slot = nodes.slotOf(node);
        assert.equal(nodes.find(nodes.idLow(slot), nodes.idHigh(slot)), slot);
      }
      for (const node of all) nodes.release(nodes.slotOf(node));
      assert.equal(nodes.size, 1);
      assert.equal(nodes.slotEnd, 20_001);
      nodes.reference(nodes.intern(make('again')));
      assert.equal(nodes.slotEnd, 20_001);
    });

    it('gives live nodes of one key different ids', () => {
      const { nodes } = table(100, () => 'the same', make);
      const slots = [nodes.intern(make('')), nodes.intern(make('')), nodes.intern(make(''))];
      assert.equal(new Set(slots.map((slot) => `${nodes.idLow(slot)} ${nodes.idHigh(slot)}`)).size, 3);
      for (const slot of slots) assert.equal(nodes.find(nodes.idLow(slot), nodes.idHigh(slot)), slot);
    });

    it('is full at its limit', () => {
      const { nodes, forgotten } = table(2, undefined, make);
      const slot = nodes.intern(make('a'));
      const refused = make('b');
      assert.equal(nodes.intern(refused), NO_SLOT);
      nodes.discard(refused);
      assert.deepEqual(forgotten, [refused]);
      nodes.reap(slot);
      assert.notEqual(nodes.intern(refused), NO_SLOT);
    });

    it('forgets a node after the requests that were in flight, and not if one of them brought it back', () => {
      const { nodes, forgotten } = table(1000, undefined, make);
      const a = make('a');
      const b = make('b');
      const slotA = nodes.intern(a);
      const slotB = nodes.intern(b);
      nodes.reference(slotA);
      nodes.reference(slotB);
      const first = nodes.enter();
      nodes.release(slotA);
      nodes.release(slotB);
      const second = nodes.enter();
      assert.equal(nodes.intern(b), slotB);
      nodes.reference(slotB);
      nodes.leave(first);
      assert.deepEqual(forgotten, []);
      nodes.leave(second);
      assert.deepEqual(forgotten, [a]);
      const third = nodes.enter();
      nodes.release(slotB);
      nodes.leave(third);
      assert.deepEqual(forgotten, [a, b]);
    });

    it('forgets under a load that never pauses', () => {
      const { nodes, forgotten } = table(1000, undefined, make);
      let running = nodes.enter();
      for (let i = 0; i < 100; i++) {
        const slot = nodes.intern(make(`${i}`));
        nodes.reference(slot);
        nodes.release(slot);
        const next = nodes.enter();
        nodes.leave(running);
        running = next;
      }
      assert.ok(forgotten.length > 90, `${forgotten.length} of 100 were forgotten`);
      nodes.leave(running);
      assert.equal(forgotten.length, 100);
      assert.equal(nodes.size, 1);
    });

    it('agrees with a plain map under any order of lookups, references, releases and requests', async (t) => {
      const step = fc.record({
        action: fc.constantFrom('reference', 'release', 'enter', 'leave'),
        key: fc.integer({ min: 0, max: 9 }),
      });
      await checkProperty(
        t,
        fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
          const { nodes, forgotten } = table(1000, (node) => node.key, make);
          const live = new Map<number, { node: Node; references: number }>();
          const running: number[] = [];
          for (const { action, key } of steps) {
            const known = live.get(key);
            if (action === 'reference') {
              const node = known?.node ?? make(`${key}`);
              const slot = nodes.intern(node);
              nodes.reference(slot);
              live.set(key, { node, references: (known?.references ?? 0) + 1 });
            } else if (action === 'release' && known !== undefined && known.references > 0) {
              nodes.release(nodes.slotOf(known.node));
              known.references -= 1;
              if (running.length === 0) assert.equal(forgotten.at(-1) === known.node, known.references === 0);
            } else if (action === 'enter') running.push(nodes.enter());
            else if (action === 'leave' && running.length > 0)
              nodes.leave(running.splice(key % running.length, 1)[0]!);
            for (const [other, { node, references }] of live) {
              if (references > 0) assert.equal(nodes.references(nodes.slotOf(node)), references);
              else if (nodes.slotOf(node) === NO_SLOT) live.delete(other);
            }
          }
          for (const parity of running) nodes.leave(parity);
          const held = [...live.values()].filter(({ references }) => references > 0);
          assert.equal(nodes.size, 1 + held.length);
        }),
        { numRuns: 300 },
      );
    });
  });
}

it('a node that one request does not give is forgotten when no other can give it any more', () => {
  const { nodes, forgotten } = table(1000, undefined, slotted);
  const [gone, given] = [nodes.enter(), nodes.enter()];
  const node = slotted('a');
  nodes.discard(node);
  nodes.leave(gone);
  assert.deepEqual(forgotten, []);
  const slot = nodes.intern(node);
  nodes.reference(slot);
  nodes.leave(given);
  assert.deepEqual(forgotten, []);
  nodes.release(slot);
  assert.deepEqual(forgotten, [node]);

  const alone = nodes.enter();
  const other = slotted('b');
  nodes.discard(other);
  nodes.leave(alone);
  assert.deepEqual(forgotten, [node, other]);
  assert.equal(nodes.size, 1);
});

it('a node that another table knows, or knew, is a new one', () => {
  const former = table(1000, undefined, slotted).nodes;
  const { nodes, forgotten } = table(1000, undefined, slotted);
  const all = Array.from({ length: 10 }, (_, i) => slotted(`k${i}`));
  for (const node of all) former.reference(former.intern(node));
  assert.deepEqual(
    all.map((node) => nodes.slotOf(node)),
    all.map(() => NO_SLOT),
  );
  nodes.discard(all[3]!);
  assert.deepEqual(forgotten, [all[3]]);
  const slots = all.toReversed().map((node) => nodes.intern(node));
  assert.equal(new Set(slots).size, 10);
  assert.equal(nodes.size, 11);
});

describe('lookup counts', () => {
  it('hold one reference a node, whatever their number, and are exact beyond 2^32', () => {
    const { nodes, forgotten } = table();
    const counts = new LookupCounts(nodes);
    const slot = nodes.intern({ key: 'a' });
    for (let i = 0; i < 5; i++) counts.add(slot);
    assert.equal(nodes.references(slot), 1);
    counts.forget(slot, 4);
    assert.equal(counts.of(slot), 1);
    assert.deepEqual(forgotten, []);
    counts.forget(slot, 2 ** 63);
    assert.equal(forgotten.length, 1);
  });

  it('resolve what the session knows, and nothing that only another session knows', () => {
    const { nodes } = table();
    const mine = new LookupCounts(nodes);
    const theirs = new LookupCounts(nodes);
    const slot = nodes.intern({ key: 'a' });
    theirs.add(slot);
    const low = nodes.idLow(slot);
    const high = nodes.idHigh(slot);
    assert.equal(theirs.resolve(low, high), slot);
    assert.equal(mine.resolve(low, high), NO_SLOT);
    assert.equal(withPlainNumbers(mine).resolve(1, 0), ROOT_SLOT);
    mine.add(slot);
    theirs.clear();
    assert.equal(mine.resolve(low, high), slot);
    assert.equal(theirs.resolve(low, high), NO_SLOT);
    const seen: [number, number][] = [];
    mine.each((known, count) => seen.push([known, count]));
    assert.deepEqual(seen, [[slot, 1]]);
    mine.clear();
    assert.equal(nodes.size, 1);
  });
});

it('node tables that share a budget leave half of what is left to others', () => {
  const budget = new Budget(1200);
  const open = () => {
    const backend: Backend<Node> = {
      mount: () => plain('root'),
      lookup: () => undefined,
      getattr: () => ({ mode: 0o40755 }),
    };
    const charge = { budget, bytes: 10 };
    return new NodeTable(backend, plain('root'), 1e6, assert.ifError, false, 0, charge);
  };
  const [first, second] = [open(), open()];
  assert.equal(fill(first), 60);
  assert.equal(fill(second), 30);
  first.discharge();
  assert.equal(fill(second), 60);
});
