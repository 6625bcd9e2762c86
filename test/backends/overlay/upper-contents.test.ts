import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { packUpper, unpackUpper } from '../../../backends/overlay/upper-contents.js';
import { MOST_FOREIGN_JSON } from '../../../core/backend/limits.js';
import { FsError, run } from '../../../core/backend/index.js';
import { checkProperty, Random } from '../../support/random.js';
import { overlayOf, type Paths } from './support.js';

/** Mutated states in each of fast-check's runs. */
const PER_RUN = 20;

async function base(lower: Paths): Promise<void> {
  await lower.mkdir('/dir');
  await lower.write('/dir/below', 'below');
  await lower.write('/gone', 'gone');
}

/** What the upper of an overlay has that was worked with. */
async function packed(): Promise<Buffer> {
  const { union, overlay } = await overlayOf([base]);
  await union.write('/dir/below', 'above');
  await union.write('/new', 'new');
  await union.link('/new', '/dir/linked');
  await union.symlink('/link', 'target');
  await union.unlink('/gone');
  return Buffer.from(await run(packUpper(overlay.union, 2 ** 20)));
}

test('an upper has what another one had', async () => {
  const state = await packed();
  const { union, overlay } = await overlayOf([base]);
  await run(unpackUpper(overlay.union, state));
  await run(overlay.union.upperArrived());
  assert.deepEqual(await union.names(''), ['dir', 'link', 'new']);
  assert.equal(await union.read('/dir/below'), 'above');
  assert.equal(await union.read('/dir/linked'), 'new');
  await union.write('/new', 'newer');
  assert.equal(await union.read('/dir/linked'), 'newer');
});

test('an upper that has more than may go along stays', async () => {
  const { union, overlay } = await overlayOf([base]);
  await union.write('/new', 'x'.repeat(10_000));
  await assert.rejects(async () => run(packUpper(overlay.union, 9_000)), /more than may go along/);
});

test('a header that would take the heap is refused before it is read', async () => {
  const { overlay } = await overlayOf([base]);
  const state = Buffer.alloc(MOST_FOREIGN_JSON + 5, ' ');
  state.writeUInt32LE(MOST_FOREIGN_JSON + 1);
  await assert.rejects(async () => run(unpackUpper(overlay.union, state)), /bytes of JSON are more than/);
});

test('an upper that takes more memory than there is does not come', async () => {
  const { union, overlay } = await overlayOf([base], { marks: 'names' });
  for (let i = 0; i < 20; i++) await union.write(`/${i}`, '');
  const state = await run(packUpper(overlay.union, 2 ** 20));
  for (const [most, comes] of [
    [2 ** 16, true],
    [2 ** 13, false],
  ] as const) {
    const { overlay: other } = await overlayOf([base], { marks: 'names' });
    const unpacked = async (): Promise<void> => run(unpackUpper(other.union, state, most));
    if (comes) await unpacked();
    else await assert.rejects(unpacked, /more is to be remembered/);
  }
});

test('others have their turn while an upper is read, made, and removed again', async () => {
  const { union, overlay } = await overlayOf([base]);
  for (let i = 0; i < 2000; i++) await union.mkdir(`/d${i}`);
  const { overlay: other } = await overlayOf([base]);
  const turnsOf = async <T>(work: () => T | Promise<T>): Promise<readonly [T, number]> => {
    let [turns, isDone] = [0, false];
    const turn = (): void => {
      turns += 1;
      if (!isDone) setImmediate(turn);
    };
    setImmediate(turn);
    const result = await work();
    isDone = true;
    return [result, turns];
  };
  const [state, packing] = await turnsOf(() => run(packUpper(overlay.union, 2 ** 20)));
  const [, unpacking] = await turnsOf(() => run(unpackUpper(other.union, state)));
  const [, removing] = await turnsOf(() => run(other.union.writable().work.emptyUpper()));
  assert.ok(Math.min(packing, unpacking, removing) > 1, String([packing, unpacking, removing]));
});

test('mutated states are refused, or make files of the upper', async (t) => {
  const state = await packed();
  let [made, refused] = [0, 0];
  const property = fc.asyncProperty(fc.integer(), async (seed) => {
    const random = new Random(seed);
    for (let i = 0; i < PER_RUN; i++) {
      const bytes = Buffer.from(state);
      for (let flips = random.below(4); flips > 0; flips--)
        bytes[random.below(bytes.length)] = random.below(256);
      const length = random.below(4) === 0 ? random.below(bytes.length + 1) : bytes.length;
      const { union, overlay } = await overlayOf([base]);
      try {
        await run(unpackUpper(overlay.union, bytes.subarray(0, length)));
        await run(overlay.union.upperArrived());
        made += 1;
      } catch (error) {
        assert.ok(error instanceof FsError || error instanceof RangeError, String(error));
        refused += 1;
      }
      await union.names('');
      await run(overlay.union.writable().work.emptyUpper());
      assert.deepEqual(await union.names(''), ['dir', 'gone']);
      await overlay.unmount?.();
    }
  });
  await checkProperty(t, property, { numRuns: 5 });
  t.diagnostic(`${made} made, ${refused} refused`);
  assert.ok(made > 0 && refused > 0);
});
