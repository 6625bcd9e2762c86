import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Errno } from '../../../../core/backend/index.js';
import {
  type LockLimits,
  type LockRequest,
  type LockSession,
  LockTable,
  LockType,
  OFFSET_MAX,
  PARKED,
  restoreLocks,
  saveLocks,
  u64,
} from '../../../../core/state/locks/index.js';

const { READ, WRITE, UNLOCK } = LockType;
type Owner = number;

const never = (errno: number): void => assert.fail(`completed with ${errno}`);

function request(
  owner: Owner,
  type: number,
  start: number,
  end: number | bigint,
  node = 'a',
): LockRequest<string> {
  return {
    node,
    owner: BigInt(owner),
    type,
    start: BigInt(start),
    end: BigInt(end),
    pid: 1000 + owner,
    handle: owner,
  };
}

function whole(owner: Owner, type: number, node = 'a'): LockRequest<string> {
  return request(owner, type, 0, OFFSET_MAX, node);
}

/** A table with sessions 1 and 2, and a record of what waiting requests were told. */
function setUp(limits: Partial<LockLimits> = {}) {
  const retained = new Map<string, number>();
  const table = new LockTable<string>({
    limits,
    retain: (node) => retained.set(node, (retained.get(node) ?? 0) + 1),
    release: (node) => retained.set(node, retained.get(node)! - 1),
  });
  const told: string[] = [];
  let unique = 0n;
  const wait = (session: LockSession<string>, name: string, what: LockRequest<string>): number => {
    unique += 1n;
    return session.wait(what, unique, (errno) => told.push(`${name} ${errno}`));
  };
  const flockWait = (session: LockSession<string>, name: string, what: LockRequest<string>): number => {
    unique += 1n;
    return session.flockWait(what, unique, (errno) => told.push(`${name} ${errno}`));
  };
  return { table, one: table.openSession(1), two: table.openSession(2), told, wait, flockWait, retained };
}

function holders(table: LockTable<string>): string[] {
  return saveLocks(table, (node) => node).locks.map(
    ({ kind, session, owner, type, start, end }) =>
      `${kind} ${session}/${owner} ${'RW'[type]} ${start}-${end === `${OFFSET_MAX}` ? 'eof' : end}`,
  );
}

describe('thousands of locks of one owner', () => {
  const MANY = 3000;

  /** Every tenth byte has a lock of owner 1, the byte after it one of owner 2. */
  function locked() {
    const { table, one, two } = setUp();
    for (let i = 0; i < MANY; i++) {
      assert.equal(one.set(request(1, WRITE, i * 10, i * 10)), 0);
      assert.equal(two.set(request(2, WRITE, i * 10 + 1, i * 10 + 1)), 0);
    }
    return { table, one, two };
  }

  /** The starts of all locks that a third owner meets. */
  function met(session: LockSession<string>): number[] {
    const starts: number[] = [];
    for (let from = 0n; ;) {
      const found = session.test(request(3, WRITE, Number(from), OFFSET_MAX));
      if (found === undefined) return starts;
      if (typeof found === 'number') return assert.fail(`error ${found}`);
      starts.push(Number(found.start));
      from = found.end + 1n;
    }
  }

  const startsOf = (session: number): number[] =>
    Array.from({ length: MANY }, (_, i) => i * 10 + session - 1);

  it('are unlocked together, and those of others stay', () => {
    const { table, one, two } = locked();
    assert.equal(one.set(whole(1, UNLOCK)), 0);
    assert.deepEqual(met(two), startsOf(2));
    assert.deepEqual(table.counts, { locks: MANY, waiters: 0 });
    two.releaseOwner('a', 2n);
    assert.deepEqual(met(one), []);
    assert.deepEqual(table.counts, { locks: 0, waiters: 0 });
  });

  it('are unlocked in a part of the file', () => {
    const { one, two } = locked();
    assert.equal(one.set(request(1, UNLOCK, 105, 25_004)), 0);
    const left = startsOf(1).filter((start) => start < 105 || start > 25_004);
    assert.deepEqual(
      met(two),
      [...left, ...startsOf(2)].sort((a, b) => a - b),
    );
    assert.equal(one.set(request(1, WRITE, 202, 209)), 0);
    assert.equal(two.set(request(2, WRITE, 202, 203)), Errno.EAGAIN);
  });
});

describe('record locks', () => {
  it('let readers share and keep writers out, of other owners and other sessions alike', () => {
    const { one, two } = setUp();
    assert.equal(one.set(request(1, READ, 0, 9)), 0);
    assert.equal(one.set(request(2, READ, 5, 14)), 0);
    assert.equal(two.set(request(1, READ, 0, 100)), 0);
    assert.equal(one.set(request(1, WRITE, 0, 0)), Errno.EAGAIN);
    assert.equal(two.set(request(2, WRITE, 9, 9)), Errno.EAGAIN);
    assert.equal(two.set(request(2, WRITE, 101, OFFSET_MAX)), 0);
    assert.equal(one.set(request(3, READ, 200, 200)), Errno.EAGAIN);
  });

  it('split where the middle is unlocked or changes its type, and merge again', () => {
    const { table, one } = setUp();
    one.set(request(1, WRITE, 0, 99));
    one.set(request(1, UNLOCK, 40, 59));
    assert.deepEqual(holders(table), ['posix 1/1 W 0-39', 'posix 1/1 W 60-99']);
    one.set(request(1, READ, 70, 79));
    assert.deepEqual(holders(table), [
      'posix 1/1 W 0-39',
      'posix 1/1 W 60-69',
      'posix 1/1 R 70-79',
      'posix 1/1 W 80-99',
    ]);
    one.set(request(1, WRITE, 40, 79));
    assert.deepEqual(holders(table), ['posix 1/1 W 0-99']);
    one.set(request(1, READ, 100, OFFSET_MAX));
    one.set(request(1, READ, 0, 99));
    assert.deepEqual(holders(table), ['posix 1/1 R 0-eof']);
    assert.equal(table.counts.locks, 1);
  });

  it('are exact beyond what a number can hold', () => {
    const { table, one, two } = setUp();
    const top = u64(0x7fffffff, 0xfffffffe);
    one.set({ ...whole(1, WRITE), start: top, end: top });
    assert.equal(two.set({ ...whole(1, WRITE), start: top + 1n, end: OFFSET_MAX }), 0);
    assert.equal(two.set({ ...whole(1, READ), start: top - 1n, end: top - 1n }), 0);
    assert.equal(two.set({ ...whole(1, READ), start: top, end: top }), Errno.EAGAIN);
    assert.equal(table.counts.locks, 3);
  });

  it('keep owners apart that differ in any of their 64 bits', () => {
    const { one } = setUp();
    one.set({ ...whole(0, WRITE), owner: u64(0x80000000, 1) });
    assert.equal(one.set({ ...whole(0, WRITE), owner: u64(0x80000000, 0) }), Errno.EAGAIN);
    assert.equal(one.set({ ...whole(0, WRITE), owner: u64(0, 1) }), Errno.EAGAIN);
    assert.equal(one.set({ ...whole(0, READ), owner: u64(0x80000000, 1) }), 0);
  });

  it('refuse requests that no kernel sends', () => {
    const { one, table } = setUp();
    for (const bad of [
      { ...whole(1, 3) },
      { ...whole(1, -1) },
      { ...whole(1, READ), start: 5n, end: 4n },
      { ...whole(1, READ), end: u64(0x80000000, 0) },
      { ...whole(1, WRITE), start: u64(0xffffffff, 0xffffffff), end: u64(0xffffffff, 0xffffffff) },
    ]) {
      assert.equal(one.set(bad), Errno.EINVAL);
      assert.equal(one.test(bad), Errno.EINVAL);
      assert.equal(one.wait(bad, 1n, never), Errno.EINVAL);
    }
    assert.deepEqual(table.counts, { locks: 0, waiters: 0 });
  });
});

describe('GETLK', () => {
  it('shows the first lock in the way, with its process only to the same guest', () => {
    const { one, two } = setUp();
    one.set(request(7, WRITE, 10, 19));
    one.set(request(8, READ, 20, 29));
    assert.deepEqual(one.test(request(9, READ, 0, 100)), { type: WRITE, start: 10n, end: 19n, pid: 1007 });
    assert.deepEqual(two.test(request(7, READ, 0, 100)), { type: WRITE, start: 10n, end: 19n, pid: 0 });
    assert.deepEqual(one.test(request(7, WRITE, 0, 100)), { type: READ, start: 20n, end: 29n, pid: 1008 });
    assert.equal(one.test(request(9, READ, 20, 29)), undefined);
    assert.equal(one.test(request(7, WRITE, 0, 19)), undefined);
  });

  it('takes nothing', () => {
    const { one, two, table } = setUp();
    assert.equal(one.test(whole(1, WRITE)), undefined);
    assert.deepEqual(table.counts, { locks: 0, waiters: 0 });
    assert.equal(two.set(whole(1, WRITE)), 0);
  });
});

describe('waiting requests', () => {
  it('are granted in order of arrival when what was in the way goes', () => {
    const { one, two, told, wait } = setUp();
    one.set(whole(1, WRITE));
    assert.equal(wait(one, 'writer', request(2, WRITE, 0, 9)), PARKED);
    assert.equal(wait(two, 'reader', request(1, READ, 5, 5)), PARKED);
    assert.equal(wait(two, 'elsewhere', request(2, READ, 20, 20)), PARKED);
    assert.equal(one.set(whole(1, UNLOCK)), 0);
    assert.deepEqual(told, ['writer 0', 'elsewhere 0']);
    one.releaseOwner('a', 2n);
    assert.deepEqual(told, ['writer 0', 'elsewhere 0', 'reader 0']);
  });

  it('are granted by a downgrade, and by the downgrade that a grant itself is', () => {
    const { one, told, wait } = setUp();
    one.set(request(1, WRITE, 0, 9));
    one.set(request(2, WRITE, 10, 19));
    wait(one, 'third', request(3, READ, 10, 10));
    wait(one, 'second', request(2, READ, 0, 19));
    assert.deepEqual(told, []);
    one.set(request(1, READ, 0, 9));
    assert.deepEqual(told, ['second 0', 'third 0']);
  });

  it('end with EINTR when the request is interrupted, and never after', () => {
    const { one, two, told, wait, table } = setUp();
    one.set(whole(1, WRITE));
    wait(two, 'x', whole(1, WRITE));
    assert.equal(one.interrupt(1n), false, 'an id is of one session');
    assert.equal(two.interrupt(1n), true);
    assert.equal(two.interrupt(1n), false);
    one.set(whole(1, UNLOCK));
    assert.deepEqual(told, [`x ${Errno.EINTR}`]);
    assert.deepEqual(table.counts, { locks: 0, waiters: 0 });
  });

  it('end when their session or their handle ends, and let its locks go to others', () => {
    const { one, two, told, wait, table } = setUp();
    two.set(request(1, WRITE, 0, 9));
    one.set(request(1, WRITE, 10, 19));
    wait(two, 'mine', request(1, WRITE, 10, 19));
    wait(one, 'other', request(2, WRITE, 0, 9));
    wait(one, 'gone', request(3, WRITE, 0, 9));
    one.releaseHandle('a', 3);
    two.close(Errno.EIO);
    assert.deepEqual(told, [`gone ${Errno.EBADF}`, `mine ${Errno.EIO}`, 'other 0']);
    assert.deepEqual(table.counts, { locks: 2, waiters: 0 });
    assert.equal(two.set(request(5, WRITE, 500, 500)), Errno.ENOLCK, 'a closed session takes no locks');
  });

  it('can all be given up for a reset without losing locks', () => {
    const { one, two, told, wait, table } = setUp();
    one.set(whole(1, WRITE));
    two.set(whole(1, WRITE, 'b'));
    wait(one, 'p', whole(2, READ, 'b'));
    wait(one, 'q', whole(3, READ, 'b'));
    one.cancelAll(Errno.EAGAIN);
    assert.deepEqual(told, [`p ${Errno.EAGAIN}`, `q ${Errno.EAGAIN}`]);
    assert.deepEqual(table.counts, { locks: 2, waiters: 0 });
  });

  it('are woken 2,000 at a time, each by the one before, without nesting', () => {
    const { one, told, wait } = setUp({ sessionWaiters: 2000 });
    one.set(request(0, WRITE, 0, 0));
    for (let i = 1; i <= 2000; i++) {
      one.set(request(i, WRITE, i, i));
      assert.equal(wait(one, `${i}`, request(i, READ, i - 1, i)), PARKED);
    }
    one.set(request(0, READ, 0, 0));
    assert.equal(told.length, 2000);
    assert.equal(told[1999], '2000 0');
  });

  it('may call the table from their completion', () => {
    const { one, table } = setUp();
    const order: string[] = [];
    one.set(whole(1, WRITE));
    one.wait(whole(2, WRITE), 1n, () => {
      order.push('second has it');
      one.releaseOwner('a', 2n);
      order.push('second gave it back');
    });
    one.wait(whole(3, WRITE), 2n, () => order.push('third has it'));
    one.releaseOwner('a', 1n);
    assert.deepEqual(order, ['second has it', 'second gave it back', 'third has it']);
    assert.equal(table.counts.locks, 1);
  });

  it('need an id of their own', () => {
    const { one, two } = setUp();
    two.set(whole(1, WRITE));
    assert.equal(one.wait(whole(1, WRITE), 5n, never), PARKED);
    assert.equal(one.wait(whole(2, WRITE), 5n, never), Errno.EINVAL);
  });
});

describe('deadlock detection', () => {
  it('refuses the wait that closes a circle of owners, across sessions and files', () => {
    const { one, two, told, wait } = setUp();
    one.set(whole(1, WRITE, 'a'));
    two.set(whole(1, WRITE, 'b'));
    two.set(whole(2, WRITE, 'c'));
    assert.equal(wait(one, '1', whole(1, WRITE, 'b')), PARKED);
    assert.equal(wait(two, '2', whole(1, READ, 'c')), PARKED);
    assert.equal(wait(two, '3', whole(2, READ, 'a')), Errno.EDEADLK);
    assert.deepEqual(told, []);
    two.releaseOwner('c', 2n);
    assert.deepEqual(told, ['2 0']);
  });

  it('sees a circle through any of several holders', () => {
    const { one, wait } = setUp();
    one.set(request(1, READ, 0, 9));
    one.set(request(2, READ, 0, 9));
    one.set(request(3, WRITE, 20, 29));
    assert.equal(wait(one, 'two', request(2, WRITE, 20, 20)), PARKED);
    assert.equal(wait(one, 'three', request(3, WRITE, 5, 5)), Errno.EDEADLK);
  });

  it('refuses two readers that both want to write', () => {
    const { one, told, wait } = setUp();
    one.set(whole(1, READ));
    one.set(whole(2, READ));
    assert.equal(wait(one, 'first', whole(1, WRITE)), PARKED);
    assert.equal(wait(one, 'second', whole(2, WRITE)), Errno.EDEADLK);
    one.releaseOwner('a', 2n);
    assert.deepEqual(told, ['first 0']);
  });

  it('ends a wait that turns into a circle when what it waits for passes to another', () => {
    const { one, told, wait } = setUp();
    one.set(request(1, READ, 0, 0));
    one.set(request(3, WRITE, 9, 9));
    assert.equal(wait(one, 'three', request(3, WRITE, 0, 0)), PARKED);
    assert.equal(wait(one, 'a thread of two', request(2, WRITE, 9, 9)), PARKED);
    assert.equal(one.set(request(2, READ, 0, 0)), 0);
    one.releaseOwner('a', 1n);
    assert.deepEqual(told, [`three ${Errno.EDEADLK}`]);
  });

  it('leaves flock alone', () => {
    const { one, flockWait } = setUp();
    one.flock(whole(1, WRITE, 'a'));
    one.flock(whole(2, WRITE, 'b'));
    assert.equal(flockWait(one, 'x', whole(1, WRITE, 'b')), PARKED);
    assert.equal(flockWait(one, 'y', whole(2, WRITE, 'a')), PARKED);
  });
});

describe('flock', () => {
  it('is shared or exclusive over the whole file and does not touch record locks', () => {
    const { one, two } = setUp();
    assert.equal(one.flock(whole(1, READ)), 0);
    assert.equal(two.flock(whole(1, READ)), 0);
    assert.equal(one.flock(whole(2, WRITE)), Errno.EAGAIN);
    assert.equal(one.set(whole(9, WRITE)), 0);
    assert.equal(one.flock(whole(1, UNLOCK)), 0);
    assert.equal(two.flock(whole(1, WRITE)), 0);
    assert.equal(one.flock(whole(1, 7)), Errno.EINVAL);
  });

  it('loses the old lock when a conversion without waiting fails', () => {
    const { table, one, two } = setUp();
    one.flock(whole(1, READ));
    two.flock(whole(1, READ));
    assert.equal(one.flock(whole(1, WRITE)), Errno.EAGAIN);
    assert.deepEqual(holders(table), ['flock 2/1 R 0-eof']);
  });

  it('lets those who waited go ahead of a conversion', () => {
    const { one, two, told, flockWait } = setUp();
    one.flock(whole(1, READ));
    assert.equal(flockWait(two, 'other', whole(1, WRITE)), PARKED);
    assert.equal(flockWait(one, 'converted', whole(1, WRITE)), PARKED);
    assert.deepEqual(told, ['other 0']);
    two.releaseFlock('a', 1n);
    assert.deepEqual(told, ['other 0', 'converted 0']);
  });

  it('counts once for an owner with two requests granted', () => {
    const { table, one, told, flockWait } = setUp();
    one.flock(whole(1, WRITE));
    flockWait(one, 'w', whole(2, WRITE));
    flockWait(one, 'r', whole(2, READ));
    flockWait(one, 'o', whole(3, READ));
    one.releaseFlock('a', 1n);
    assert.deepEqual(told, ['w 0', 'r 0', 'o 0']);
    assert.equal(table.counts.locks, 2);
  });
});

describe('the end of a handle', () => {
  it('drops locks of open file descriptions, which nothing else announces', () => {
    const { table, one } = setUp();
    one.set({ ...request(1, WRITE, 0, 9), handle: 50 });
    one.set({ ...request(2, WRITE, 10, 19), handle: 51 });
    one.flock({ ...whole(3, WRITE), handle: 50 });
    one.releaseHandle('a', 50);
    assert.deepEqual(holders(table), ['posix 1/2 W 10-19']);
  });

  it('of another session changes nothing', () => {
    const { table, one, two } = setUp();
    one.set({ ...request(1, WRITE, 0, 9), handle: 50 });
    two.releaseHandle('a', 50);
    two.releaseOwner('a', 1n);
    assert.equal(table.counts.locks, 1);
  });
});

describe('limits', () => {
  it('answer ENOLCK beyond a number of ranges per session and in all', () => {
    const { one, two, table } = setUp({ sessionLocks: 3, totalLocks: 5 });
    for (const start of [0, 10, 20]) assert.equal(one.set(request(1, WRITE, start, start + 5)), 0);
    assert.equal(one.set(request(2, READ, 100, 100)), Errno.ENOLCK);
    assert.equal(one.flock(whole(2, READ)), Errno.ENOLCK);
    assert.equal(one.set(request(1, UNLOCK, 2, 3)), Errno.ENOLCK, 'POSIX fcntl: also an unlock that splits');
    assert.equal(one.set(request(1, WRITE, 6, 9)), 0, 'merging needs no room');
    assert.equal(table.counts.locks, 2);
    for (const start of [200, 210, 220]) assert.equal(two.set(request(1, WRITE, start, start)), 0);
    assert.equal(one.set(request(1, WRITE, 300, 300)), Errno.ENOLCK);
  });

  it('answer ENOLCK beyond a number of parked requests per session and in all', () => {
    const { table, two, wait } = setUp({ sessionWaiters: 3, totalWaiters: 4 });
    const one = table.openSession(1, 2);
    const three = table.openSession(3);
    three.set(whole(1, WRITE));
    assert.equal(wait(one, '', whole(1, WRITE)), PARKED);
    assert.equal(wait(one, '', whole(2, WRITE)), PARKED);
    assert.equal(wait(one, '', whole(3, WRITE)), Errno.ENOLCK);
    assert.equal(wait(two, '', whole(1, WRITE)), PARKED);
    assert.equal(wait(two, '', whole(2, WRITE)), PARKED);
    assert.equal(wait(two, '', whole(3, WRITE)), Errno.ENOLCK);
  });
});

describe('limits by default', () => {
  it('are 131,072 ranges and 96 parked requests for a session', () => {
    const { table, one, two, wait } = setUp();
    for (let i = 0; i < 131_072; i++) {
      const at = 2 * (i >> 7);
      assert.equal(one.set(request(1, WRITE, at, at, i % 128 === 0 ? 'a' : `file ${i % 128}`)), 0);
    }
    assert.equal(one.set(request(1, WRITE, 300_000, 300_000)), Errno.ENOLCK);
    assert.equal(two.set(request(1, WRITE, 300_000, 300_000)), 0);
    for (let i = 0; i < 96; i++) assert.equal(wait(two, '', whole(1, WRITE)), PARKED);
    assert.equal(wait(two, '', whole(1, WRITE)), Errno.ENOLCK);
    assert.deepEqual(table.counts, { locks: 131_073, waiters: 96 });
  });
});

describe('nodes', () => {
  it('are retained while a lock or a parked request is on them, and then released', () => {
    const { one, two, retained, wait } = setUp();
    one.set(request(1, WRITE, 0, 9));
    one.flock(whole(1, WRITE));
    wait(two, '', request(1, WRITE, 0, 0));
    assert.equal(two.set(whole(3, WRITE)), Errno.EAGAIN);
    assert.equal(retained.get('a'), 1);
    one.close(Errno.EIO);
    assert.equal(retained.get('a'), 1);
    two.set(whole(1, UNLOCK));
    assert.equal(retained.get('a'), 0);
    two.set(whole(1, UNLOCK, 'never seen'));
    assert.equal(retained.has('never seen'), false);
  });
});

describe('a saved table', () => {
  it('comes back from JSON with its locks; those who waited ask again', () => {
    const { table, one, two, wait, flockWait } = setUp();
    one.set(request(1, WRITE, 0, 9));
    one.set(request(1, READ, 20, OFFSET_MAX));
    two.set({ ...request(1, READ, 30, 40), owner: u64(0xffffffff, 0xffffffff) });
    two.flock(whole(4, WRITE, 'b'));
    wait(two, '', request(1, WRITE, 5, 25));
    flockWait(one, '', whole(5, READ, 'b'));
    const saved = saveLocks(table, (node) => ({ key: node }));
    const copy = JSON.parse(JSON.stringify(saved)) as typeof saved;

    const again = new LockTable<string>();
    assert.deepEqual(
      restoreLocks(again, copy.locks, ({ key }) => key),
      [],
    );
    assert.deepEqual(
      saveLocks(again, (node) => ({ key: node })),
      { locks: saved.locks, waiters: [] },
    );
    assert.deepEqual(again.counts, { locks: 4, waiters: 0 });
  });

  it('leaves out nodes that are gone', () => {
    const { table, one } = setUp();
    one.set(whole(1, WRITE));
    one.set(whole(1, WRITE, 'b'));
    const again = new LockTable<string>();
    const { locks } = saveLocks(table, String);
    assert.deepEqual(
      restoreLocks(again, locks, (key) => (key === 'a' ? key : undefined)),
      [],
    );
    assert.deepEqual(again.counts, { locks: 1, waiters: 0 });
  });

  it('tells of locks that exclude an earlier one, or for which there is no room', () => {
    const { table, one } = setUp();
    one.set(whole(1, WRITE));
    one.set(whole(2, WRITE, 'b'));
    const [lock, second] = saveLocks(table, String).locks;
    const late = { ...lock!, session: 2 };
    assert.deepEqual(restoreLocks(new LockTable<string>(), [lock!, late], String), [late]);
    const narrow = new LockTable<string>({ limits: { sessionLocks: 1 } });
    assert.deepEqual(restoreLocks(narrow, [lock!, second!], String), [second]);
  });
});
