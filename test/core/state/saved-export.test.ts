import assert from 'node:assert/strict';
import { test } from 'node:test';
import { accelerate } from '../../../core/backend/accelerator.js';
import type { NodeKey } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/index.js';
import { NO_SLOT, recoverExport, replay } from '../../../core/state/index.js';
import { MemoryLog } from '../../support/engine.js';
import { ROOT } from '../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../support/journaled.js';
import { TinyBackend, type TinyFile, type TinyNode } from '../../support/tiny-backend.js';

const FILES = 50;

test('a backend that finds nodes for a next process is asked for several at a time, in any order of answers', async () => {
  const memory = new PlainMemory(1 << 19);
  const tiny = new TinyBackend();
  const { kept } = await journaled(tiny, memory);
  const { session, client } = kept();
  await client.init();
  const ids = new Map<TinyNode, bigint>();
  for (let i = 0; i < FILES; i++) {
    const { nodeid } = await client.mkdir(ROOT, `d${i}`);
    ids.set(tiny.root.children.get(`d${i}`)!, nodeid);
  }
  const left = replay(memory)!;
  await session.close();
  let asked = 0;
  let most = 0;
  const recover = async (key: NodeKey): Promise<TinyNode> => {
    asked += 1;
    most = Math.max(most, asked);
    // Those that are asked for later answer sooner.
    for (let turns = 20 - asked; turns > 0; turns--) await Promise.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    asked -= 1;
    return tiny.resolve(key);
  };
  const backend = accelerate<TinyNode, TinyFile, TinyBackend>(tiny, { recover });
  const restored = await recoverExport(backend, left, { log: new MemoryLog(), createBuffer: hostBuffer });
  assert.ok(most > 1 && most <= 16, `${most}`);
  const { nodes } = restored.export;
  let found = 0;
  for (let index = 1; index < left.saved.nodes.length; index++) {
    const slot = restored.slot(index);
    assert.notEqual(slot, NO_SLOT);
    const id = (BigInt(nodes.idHigh(slot) >>> 0) << 32n) | BigInt(nodes.idLow(slot) >>> 0);
    assert.equal(id, ids.get(nodes.node(slot) as TinyNode));
    found += 1;
  }
  assert.equal(found, FILES);
  restored.finish();
  await restored.export.close();
});
