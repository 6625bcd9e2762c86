import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import { check, deferred, libc, result, SystemError } from '../../../../core/system/index.js';

const close = libc<(fd: number) => number>('close', 'int', ['int']);
const dup2 = libc<(from: number, to: number) => number>('dup2', 'int', ['int', 'int']);
const unlink = libc<(path: string) => number>('unlink', 'int', ['str']);
const usleep = libc<(microseconds: number) => number>('usleep', 'int', ['uint']);

test('a failed call gives minus the errno', () => {
  assert.equal(result(close(-1)), -constants.errno.EBADF);
  assert.equal(result(unlink('/nowhere/at/all')), -constants.errno.ENOENT);
});

test('a failed call of set-up code says what failed, and how', () => {
  assert.throws(
    () => check(result(unlink('/nowhere')), 'unlink /nowhere'),
    (error) => {
      assert.ok(error instanceof SystemError);
      assert.equal(error.message, 'unlink /nowhere: ENOENT');
      assert.equal(error.errno, constants.errno.ENOENT);
      return true;
    },
  );
  assert.equal(check(7, 'x'), 7);
});

test('a deferred call gives the errno of its own thread, whatever else fails meanwhile', async () => {
  const laterClose = deferred(close);
  const laterUnlink = deferred(unlink);
  const laterDup2 = deferred(dup2);
  const calls: Promise<number>[] = [];
  for (let i = 0; i < 300; i++) {
    calls.push(laterClose(-1), laterUnlink('/nowhere/at/all'), laterDup2(0, 0));
    assert.equal(result(unlink('/')), -constants.errno.EISDIR);
  }
  const values = await Promise.all(calls);
  for (let i = 0; i < values.length; i += 3) {
    assert.deepEqual(values.slice(i, i + 3), [-constants.errno.EBADF, -constants.errno.ENOENT, 0]);
  }
});

test('deferred calls beyond the limit wait for their turn', async () => {
  const sleep = deferred(usleep);
  const results = await Promise.all(Array.from({ length: 1000 }, () => sleep(10)));
  assert.ok(results.every((value) => value === 0));
});

test('a deferred call that cannot be made is a rejection, and holds up no other', async () => {
  const sleep = deferred(usleep);
  for (let i = 0; i < 200; i++) await assert.rejects(sleep('soon' as unknown as number), TypeError);
  assert.equal(await sleep(1), 0);
});
