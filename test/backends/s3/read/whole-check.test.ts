import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { it } from 'node:test';
import { summingOf, type Expectation } from '../../../../backends/s3/client/checksums.js';
import { WholeCheck } from '../../../../backends/s3/read/whole-check.js';

const COUNT = 64;
const SIZE = 128 * 1024;

/** Checks blocks of which the first comes last. @returns whether they are right, and the turns. */
async function checked(blocks: readonly Uint8Array[], expected: string): Promise<[boolean, number]> {
  const expectation: Expectation = {
    summing: summingOf('md5'),
    isRight: async (sum) => sum.toString('hex') === expected,
  };
  const check = new WholeCheck(COUNT, COUNT * SIZE, Promise.resolve(expectation));
  await new Promise(setImmediate);
  let held = 0;
  const pieces = blocks.map((data, index) => ({
    index,
    data,
    hold: () => (held += 1),
    letGo: () => (held -= 1),
  }));
  for (const piece of pieces.slice(1, -1)) assert.equal(check.take(piece), undefined);
  assert.equal(check.take(pieces[0]!), undefined);
  const result = check.take(pieces.at(-1)!);
  let turns = 0;
  let isOver = false;
  const turn = (): void => {
    turns += 1;
    if (!isOver) setImmediate(turn);
  };
  turn();
  const isRight = await result!;
  isOver = true;
  assert.equal(held, 0);
  return [isRight, turns];
}

it('many blocks whose turn comes at once are summed in many turns of the event loop, and count', async () => {
  const blocks = Array.from({ length: COUNT }, (_, i) => Buffer.alloc(SIZE, i));
  const right = createHash('md5').update(Buffer.concat(blocks)).digest('hex');
  const [isRight, turns] = await checked(blocks, right);
  assert.ok(isRight);
  assert.ok(turns >= COUNT / 2 - 1, `${turns} turns`);
  blocks[40]![1000]! ^= 1;
  assert.equal((await checked(blocks, right))[0], false);
});
