import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Counters, ExportPace } from '../../../../core/fuse/index.js';
import type { GuestPace } from '../../../../core/fuse/session/pace.js';
import { Request } from '../../../../core/fuse/session/request.js';

/** One in a thousand seconds: after the first, none comes within a test. */
const HARDLY_ANY = 1e-3;

interface Guest {
  readonly pace: GuestPace<Request>;
  readonly counters: Counters;
  /** A request comes. @returns whether it is held back. */
  readonly come: (name: string) => boolean;
  /** The id of the request that came last. */
  readonly last: () => number;
}

function guestOf(shared: ExportPace, begun: string[]): Guest {
  const names = new Map<Request, string>();
  const counters = new Counters();
  const pace = shared.join<Request>({ counters, resume: (request) => void begun.push(names.get(request)!) });
  let unique = 0;
  return {
    pace,
    counters,
    last: () => unique,
    come(name) {
      const request = new Request({});
      request.uniqueLow = ++unique;
      names.set(request, name);
      return pace.hold(request);
    },
  };
}

test('without limits nothing is held back', () => {
  const guest = guestOf(new ExportPace(), []);
  for (let i = 0; i < 1000; i++) {
    assert.ok(!guest.come(`${i}`));
    guest.pace.moved(2 ** 30);
  }
});

test('what was taken beyond the limit is owed, in requests or bytes, by the guest or by all', async () => {
  const limits = {
    operationsPerSecond: (guest: Guest) => void guest.come('first'),
    guestOperationsPerSecond: (guest: Guest) => void guest.come('first'),
    bytesPerSecond: (guest: Guest) => guest.pace.moved(100),
    guestBytesPerSecond: (guest: Guest) => guest.pace.moved(100),
  };
  for (const [name, use] of Object.entries(limits)) {
    const begun: string[] = [];
    const shared = new ExportPace();
    const [guest, other] = [guestOf(shared, begun), guestOf(shared, begun)];
    shared.set({ [name]: HARDLY_ANY });
    // Something flows in, from which the first request is taken.
    await sleep(5);
    use(guest);
    assert.ok(guest.come('second'), name);
    assert.ok(guest.come('third'), name);
    assert.equal(other.come('of another'), !name.startsWith('guest'), name);
    assert.deepEqual([guest.pace.held, guest.counters.heldBack], [2, 2]);
    shared.set({});
    assert.deepEqual(
      begun.filter((one) => one !== 'of another'),
      ['second', 'third'],
    );
    assert.equal(guest.pace.held, 0);
  }
});

test('guests that wait for the same limit begin in turns, whoever has more requests', () => {
  const begun: string[] = [];
  const shared = new ExportPace({ operationsPerSecond: HARDLY_ANY });
  const [flood, light] = [guestOf(shared, begun), guestOf(shared, begun)];
  while (!flood.come('flood'));
  for (let i = 0; i < 20; i++) flood.come('flood');
  light.come('light');
  light.come('light');
  shared.set({});
  assert.deepEqual(begun.slice(0, 4).toSorted(), ['flood', 'flood', 'light', 'light']);
  assert.equal(begun.length, 23);
});

/** Waits until so many have begun, or long enough that they never will. */
async function untilBegun(begun: readonly string[], count: number): Promise<void> {
  for (let looks = 0; looks < 2000 && begun.length < count; looks++) await sleep(2);
}

test('guests begin in turns too where each timer lets one of them begin', async () => {
  const begun: string[] = [];
  const shared = new ExportPace({ operationsPerSecond: 200 });
  const [flood, light] = [guestOf(shared, begun), guestOf(shared, begun)];
  while (!flood.come('flood'));
  for (let i = 0; i < 20; i++) flood.come('flood');
  for (let i = 0; i < 10; i++) light.come('light');
  await untilBegun(begun, 8);
  shared.set({});
  const first = begun.slice(0, 8);
  assert.equal(first.filter((name) => name === 'light').length, 4, first.join());
});

test('a guest does not wait for one that has to wait longer', async () => {
  const begun: string[] = [];
  const shared = new ExportPace({ guestBytesPerSecond: 1000 });
  const [long, short] = [guestOf(shared, begun), guestOf(shared, begun)];
  long.pace.moved(2 ** 30);
  assert.ok(long.come('long'));
  short.pace.moved(1000);
  assert.ok(short.come('short'));
  await untilBegun(begun, 1);
  assert.deepEqual(begun, ['short']);
  shared.set({});
});

test('a request that is held back can be taken out, and all can be let go', () => {
  const begun: string[] = [];
  const shared = new ExportPace({ guestOperationsPerSecond: HARDLY_ANY });
  const guest = guestOf(shared, begun);
  while (!guest.come('first'));
  guest.come('second');
  const second = guest.last();
  guest.come('third');
  assert.equal(guest.pace.remove(second, 1), undefined);
  assert.equal(guest.pace.remove(second, 0)?.uniqueLow, second);
  guest.pace.release();
  assert.equal(guest.pace.held, 0);
  assert.deepEqual(begun, ['first', 'third']);
  guest.come('fourth');
  assert.equal(guest.pace.removeAll().length, 1);
  assert.equal(guest.pace.held, 0);
  guest.pace.end();
});
