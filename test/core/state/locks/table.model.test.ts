import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { Errno } from '../../../../core/backend/index.js';
import {
  type LockRequest,
  LockTable,
  LockType,
  PARKED,
  saveLocks,
} from '../../../../core/state/locks/index.js';
import { checkProperty } from '../../../support/random.js';

const { READ, WRITE, UNLOCK } = LockType;
const BYTES = 12;
const OWNERS = 6;

interface Request {
  readonly owner: number;
  readonly type: number;
  readonly start: number;
  readonly end: number;
}

/**
 * POSIX locks in the words of the standard: what each owner has locked of each byte, and a queue.
 */
class NaiveLocks {
  readonly bytes: (number | undefined)[][] = Array.from({ length: OWNERS }, () =>
    Array(BYTES).fill(undefined),
  );
  readonly queue: { readonly name: string; readonly request: Request }[] = [];
  readonly told: string[] = [];

  blockers({ owner, type, start, end }: Request): number[] {
    return [...Array(OWNERS).keys()].filter(
      (other) =>
        other !== owner &&
        type !== UNLOCK &&
        this.bytes[other]!.slice(start, end + 1).some(
          (held) => held === WRITE || (type === WRITE && held === READ),
        ),
    );
  }

  set(request: Request): number {
    if (this.blockers(request).length > 0) return Errno.EAGAIN;
    this.grant(request);
    return 0;
  }

  wait(name: string, request: Request): number {
    if (this.blockers(request).length === 0) return this.set(request);
    if (this.closesCircle(request.owner, this.blockers(request), [])) return Errno.EDEADLK;
    this.queue.push({ name, request });
    return PARKED;
  }

  cancel(name: string): boolean {
    const index = this.queue.findIndex((waiting) => waiting.name === name);
    if (index < 0) return false;
    this.queue.splice(index, 1);
    this.told.push(`${name} ${Errno.EINTR}`);
    return true;
  }

  release(owner: number): void {
    this.grant({ owner, type: UNLOCK, start: 0, end: BYTES - 1 });
  }

  isWaiting(owner: number): boolean {
    return this.queue.some(({ request }) => request.owner === owner);
  }

  /** Ranges of each owner, adjacent bytes of one type together. */
  ranges(): string[] {
    return this.bytes.flatMap((bytes, owner) =>
      [
        ...bytes
          .map((held) => (held === undefined ? '-' : 'RW'[held]))
          .join('')
          .matchAll(/R+|W+/g),
      ].map((run) => `${owner} ${run[0][0]} ${run.index}-${run.index + run[0].length - 1}`),
    );
  }

  private grant({ owner, type, start, end }: Request): void {
    this.bytes[owner]!.fill(type === UNLOCK ? undefined : type, start, end + 1);
    const next = this.queue.findIndex(({ request }) => this.blockers(request).length === 0);
    if (next < 0) return;
    const [waiting] = this.queue.splice(next, 1);
    this.told.push(`${waiting!.name} 0`);
    this.grant(waiting!.request);
  }

  private closesCircle(origin: number, owners: number[], seen: number[]): boolean {
    return owners.some((owner) => {
      if (owner === origin) return true;
      if (seen.includes(owner)) return false;
      seen.push(owner);
      const waits = this.queue.filter(({ request }) => request.owner === owner);
      return waits.some(({ request }) => this.closesCircle(origin, this.blockers(request), seen));
    });
  }
}

const idOf = (owner: number): bigint => BigInt(owner >> 1);

function full({ owner, type, start, end }: Request): LockRequest<string> {
  return { node: 'n', owner: idOf(owner), type, start: BigInt(start), end: BigInt(end), pid: 1, handle: 1 };
}

const byte = fc.nat(BYTES - 1);
const request = fc
  .record({ owner: fc.nat(OWNERS - 1), type: fc.constantFrom(READ, WRITE, UNLOCK), a: byte, b: byte })
  .map(({ owner, type, a, b }) => ({ owner, type, start: Math.min(a, b), end: Math.max(a, b) }));

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ what: fc.constant('set' as const), request }) },
  { weight: 8, arbitrary: fc.record({ what: fc.constant('wait' as const), request }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('cancel' as const), name: fc.nat(80) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant('release' as const), owner: fc.nat(OWNERS - 1) }) },
);

describe('record locks of random owners, some in one session and some in another,', () => {
  it('do what POSIX says of each byte, wait in order, and see each deadlock', async (t) => {
    await checkProperty(
      t,
      fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
        const model = new NaiveLocks();
        const table = new LockTable<string>();
        const sessions = [table.openSession(1), table.openSession(2)];
        const told: string[] = [];
        // Three owners of each session, with the same numbers in both.
        const sessionOf = (owner: number) => sessions[owner % 2]!;
        steps.forEach((one, name) => {
          if (one.what === 'cancel') {
            const mine = sessions.some((session) => session.interrupt(BigInt(one.name)));
            assert.equal(mine, model.cancel(`${one.name}`));
          } else if (one.what === 'release') {
            if (model.isWaiting(one.owner)) return;
            model.release(one.owner);
            sessionOf(one.owner).releaseOwner('n', idOf(one.owner));
          } else {
            const { owner } = one.request;
            if (model.isWaiting(owner)) return;
            const expected = one.what === 'set' ? model.set(one.request) : model.wait(`${name}`, one.request);
            const session = sessionOf(owner);
            const done = (errno: number): void => void told.push(`${name} ${errno}`);
            const actual =
              one.what === 'set'
                ? session.set(full(one.request))
                : session.wait(full(one.request), BigInt(name), done);
            assert.equal(actual, expected);
          }
          assert.deepEqual(told, model.told);
          const held = saveLocks(table, String).locks.map(
            (lock) =>
              `${Number(lock.owner) * 2 + lock.session - 1} ${'RW'[lock.type]} ${lock.start}-${lock.end}`,
          );
          assert.deepEqual(held.sort(), model.ranges().sort());
          assert.deepEqual(table.counts, { locks: held.length, waiters: model.queue.length });
        });
        for (const owner of Array(OWNERS).keys()) {
          const probe = { owner, type: WRITE, start: 0, end: BYTES - 1 };
          const found = sessionOf(owner).test(full(probe));
          assert.equal(found !== undefined, model.blockers(probe).length > 0);
        }
        for (const session of sessions) session.close(Errno.EIO);
        assert.deepEqual(table.counts, { locks: 0, waiters: 0 });
        assert.deepEqual([...table.files()], []);
      }),
      { numRuns: 400 },
    );
  });
});
