import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FileRanges } from '../../../../core/state/locks/file-ranges.js';
import { OwnerRanges } from '../../../../core/state/locks/owner-ranges.js';
import { LockType } from '../../../../core/state/locks/request.js';
import { Random, repetitions, withSeed } from '../../../support/random.js';

interface Owner {
  readonly serial: number;
}

const { READ, WRITE, UNLOCK } = LockType;

test('finds the conflicts that a look at every range finds, among thousands of several owners', (t) =>
  withSeed(t, 1, (seed) => {
    const random = new Random(seed);
    const file = new FileRanges<Owner>();
    const lists = [0, 1, 2].map((serial) => {
      const owner = { serial };
      return { owner, list: new OwnerRanges<Owner>(owner, file) };
    });
    const naive = (owner: Owner, start: bigint, end: bigint, type: number): number =>
      lists
        .flatMap(({ list }) => list.ranges)
        .filter((range) => range.owner !== owner && range.start <= end && range.end >= start)
        .filter((range) => type === WRITE || range.type === WRITE).length;
    const SPACE = 6000;
    const steps = repetitions(6000);
    for (let step = 0; step < steps; step++) {
      const { owner, list } = random.pick(lists);
      const start = BigInt(random.below(SPACE));
      const width = random.once(100) ? random.below(SPACE) : random.below(3);
      const end = start + BigInt(width);
      const type = random.pick([READ, READ, WRITE, WRITE, WRITE, UNLOCK]);
      const isFree = type === UNLOCK || file.conflict(owner, start, end, type) === undefined;
      if (step % 20 === 0 && type !== UNLOCK) {
        assert.equal([...file.conflicts(owner, start, end, type)].length, naive(owner, start, end, type));
      }
      if (isFree) list.apply(list.plan(start, end, type));
      if (random.once(1000)) list.removeLast(random.once(3) ? Infinity : random.below(600));
    }
    return Promise.resolve();
  }));

test('a few ranges that lie far apart are removed without a look at all those in between', () => {
  let looks = 0;
  const crowd = { serial: 1 };
  const file = new FileRanges<Owner>();
  const COUNT = 20_000;
  for (let i = 0; i < COUNT; i++) {
    const start = BigInt(i * 2);
    file.add({
      get owner() {
        looks += 1;
        return crowd;
      },
      start,
      end: start,
      type: READ,
    });
  }
  const owner = { serial: 2 };
  const few = Array.from({ length: 9 }, (_, i) => {
    const start = BigInt((i * COUNT) / 4 + 1);
    return { owner, start, end: start, type: READ };
  });
  for (const range of few) file.add(range);
  looks = 0;
  file.removeAll(few);
  assert.ok(looks < COUNT / 4, `${looks} looks`);
  assert.equal([...file.conflicts(undefined, 0n, BigInt(COUNT * 2), WRITE)].length, COUNT);
});
