import assert from 'node:assert/strict';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import * as fc from 'fast-check';
import { LockTable, LockType, OFFSET_MAX, saveLocks } from '../../../../core/state/locks/index.js';
import { libc, NativeMemory, result } from '../../../../core/system/index.js';
import { checkProperty } from '../../../support/random.js';

const fcntl = libc<(fd: number, command: number, flock: number) => number>('fcntl', 'int', [
  'int',
  'int',
  'uintptr_t',
]);
const flock = libc<(fd: number, operation: number) => number>('flock', 'int', ['int', 'int']);

/**
 * Locks of open file descriptions, so that one process can be several owners: fcntl(2), "Open file
 * description locks".
 */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LOCK_NB = 4;
const LOCK_OPERATION = [1, 2, 8];
const { READ, WRITE, UNLOCK } = LockType;
const OWNERS = 4;

/** `struct flock`, LP64: l_type 0, l_whence 2, l_start 8, l_len 16, l_pid 24. */
const memory = NativeMemory.allocate(32);
const view = new DataView(memory.u8.buffer, memory.u8.byteOffset, 32);

interface Range {
  readonly type: number;
  readonly start: bigint;
  readonly end: bigint;
}

function call(fd: number, command: number, { type, start, end }: Range): number {
  memory.u8.fill(0);
  view.setInt16(0, type, true);
  view.setBigInt64(8, start, true);
  view.setBigInt64(16, end === OFFSET_MAX ? 0n : end - start + 1n, true);
  return -result(fcntl(fd, command, memory.address));
}

/** The locks on a file as Linux lists them, of all owners (proc_locks(5)). */
function listed(inode: number): string[] {
  for (let before: string[] | undefined; ;) {
    const lines = readFileSync('/proc/locks', 'utf8').split('\n');
    const now = lines
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[5]?.endsWith(`:${inode}`))
      .map((fields) => `${fields[1]} ${fields[3]} ${fields[6]}-${fields[7]}`)
      .sort();
    // It is read in parts: a lock that others take or release between two of them moves the rest.
    if (isDeepStrictEqual(now, before)) return now;
    before = now;
  }
}

function held(table: LockTable<string>): string[] {
  return saveLocks(table, String)
    .locks.map(({ kind, type, start, end }) => {
      const last = end === `${OFFSET_MAX}` ? 'EOF' : end;
      return `${kind === 'posix' ? 'OFDLCK' : 'FLOCK'} ${type === READ ? 'READ' : 'WRITE'} ${start}-${last}`;
    })
    .sort();
}

const offset = fc.oneof(
  fc.bigInt(0n, 20n),
  fc.constantFrom(
    2n ** 31n,
    2n ** 53n,
    2n ** 53n + 1n,
    2n ** 62n,
    OFFSET_MAX - 2n,
    OFFSET_MAX - 1n,
    OFFSET_MAX,
  ),
);
const operation = fc.record({
  what: fc.constantFrom('fcntl' as const, 'fcntl' as const, 'fcntl' as const, 'flock' as const),
  owner: fc.nat(OWNERS - 1),
  type: fc.constantFrom(READ, WRITE, UNLOCK),
  a: offset,
  b: offset,
});

describe('the lock table beside the kernel', () => {
  const directory = mkdtempSync(join(tmpdir(), 'locks-'));
  const path = join(directory, 'file');
  closeSync(openSync(path, 'w'));
  after(() => rmSync(directory, { recursive: true }));

  it('grants, refuses, splits and merges as Linux does', async (t) => {
    await checkProperty(
      t,
      fc.property(fc.array(operation, { minLength: 20, maxLength: 60 }), (operations) => {
        const fds = Array.from({ length: OWNERS }, () => openSync(path, 'r+'));
        try {
          const { ino } = fstatSync(fds[0]!);
          const table = new LockTable<string>();
          const session = table.openSession(1);
          for (const { what, owner, type, a, b } of operations) {
            const fd = fds[owner]!;
            const range = a < b ? { type, start: a, end: b } : { type, start: b, end: a };
            const request = { node: 'n', owner: BigInt(owner), ...range, pid: 1, handle: owner };
            if (what === 'flock') {
              const expected = -result(flock(fd, LOCK_OPERATION[type]! | LOCK_NB));
              assert.equal(session.flock(request), Math.abs(expected));
              continue;
            }
            if (type !== UNLOCK) {
              call(fd, F_OFD_GETLK, range);
              const free = view.getInt16(0, true) === UNLOCK;
              assert.equal(session.test(request) === undefined, free);
            }
            assert.equal(session.set(request), Math.abs(call(fd, F_OFD_SETLK, range)));
          }
          assert.deepEqual(held(table), listed(ino));
          closeSync(fds.pop()!);
          session.releaseHandle('n', OWNERS - 1);
          assert.deepEqual(held(table), listed(ino));
        } finally {
          for (const fd of fds) closeSync(fd);
        }
      }),
      { numRuns: 300 },
    );
  });
});
