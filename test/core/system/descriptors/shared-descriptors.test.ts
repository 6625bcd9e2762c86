import assert from 'node:assert/strict';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import {
  type Fd,
  DescriptorUse,
  type DescriptorUser,
  MOST_THREADS,
  SharedDescriptors,
} from '../../../../core/system/index.js';
import { raceMs } from '../../../support/random.js';
import { Place, PLACE_WORDS, type ReaderData, type ReaderReport, Progress } from '../descriptor-reader.js';

/** Where serials begin in the shared state, in words: after the turns, of 16 words each. */
const SERIALS = MOST_THREADS * 16;

function open(): Fd {
  return fs.openSync('/dev/null', 'r') as Fd;
}

function isOpen(fd: number): boolean {
  try {
    fs.fstatSync(fd);
    return true;
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'EBADF');
    return false;
  }
}

/** Descriptors that so many threads share. */
function shared(threads: number): {
  descriptors: SharedDescriptors;
  users: DescriptorUser[];
  uses: DescriptorUse[];
} {
  const descriptors = new SharedDescriptors();
  const users = Array.from({ length: threads }, () => descriptors.join());
  return { descriptors, users, uses: users.map((user) => new DescriptorUse(user)) };
}

/** Waits until the event loop has closed the descriptors that wait. */
async function closed(descriptors: SharedDescriptors): Promise<void> {
  for (let tries = 0; descriptors.pending > 0 && tries < 1000; tries++) await setTimeout(1);
}

describe('a descriptor is closed at once', () => {
  it('where no thread has seen it, even in the middle of a turn', () => {
    const { descriptors, uses } = shared(1);
    uses[0]!.enter();
    const fd = open();
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
    assert.equal(descriptors.pending, 0);
    uses[0]!.leave();
  });

  it('where it was published, but no thread is in a turn', () => {
    const { descriptors, uses } = shared(2);
    uses[0]!.enter();
    uses[0]!.leave();
    const fd = open();
    assert.notEqual(descriptors.publish(fd), 0);
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
    assert.equal(descriptors.pending, 0);
  });

  it('where the threads that have seen it are gone', () => {
    const { descriptors, users, uses } = shared(1);
    const fd = open();
    const serial = descriptors.publish(fd);
    assert.notEqual(serial, 0);
    descriptors.leave(users[0]!);
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
    // A thread whose turn begins now finds that the descriptor is not current.
    const later = new DescriptorUse(descriptors.join());
    later.enter();
    assert.equal(later.isCurrent(fd, serial), false);
    later.leave();
    assert.equal(uses.length, 1);
  });

  it('where there never was a thread', () => {
    const descriptors = new SharedDescriptors();
    const fd = open();
    assert.equal(descriptors.publish(fd), 0);
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
  });
});

describe('a descriptor stays open', () => {
  it('while a turn that began before is under way, and is closed when that ends though the next has begun', async () => {
    const { descriptors, uses } = shared(1);
    const [use] = uses as [DescriptorUse];
    const fd = open();
    const serial = descriptors.publish(fd);
    use.enter();
    assert.equal(use.isCurrent(fd, serial), true);
    descriptors.close(fd);
    assert.equal(isOpen(fd), true);
    descriptors.settle();
    assert.equal(isOpen(fd), true);
    await setTimeout(20);
    assert.equal(isOpen(fd), true);
    assert.equal(descriptors.pending, 1);
    use.leave();
    use.enter();
    await closed(descriptors);
    assert.equal(isOpen(fd), false);
    use.leave();
  });

  it('until all turns that began before are over', () => {
    const { descriptors, uses } = shared(4);
    const [first, second, idle, late] = uses as [DescriptorUse, DescriptorUse, DescriptorUse, DescriptorUse];
    const fd = open();
    descriptors.publish(fd);
    first.enter();
    second.enter();
    idle.enter();
    idle.leave();
    descriptors.close(fd);
    late.enter();
    first.leave();
    first.enter();
    descriptors.settle();
    assert.equal(isOpen(fd), true);
    second.leave();
    descriptors.settle();
    assert.equal(isOpen(fd), false);
    assert.equal(descriptors.pending, 0);
    late.leave();
    first.leave();
  });

  it('no longer than its own turn, whatever is given up later', () => {
    const { descriptors, uses } = shared(1);
    const [use] = uses as [DescriptorUse];
    const [one, two] = [open(), open()];
    descriptors.publish(one);
    descriptors.publish(two);
    use.enter();
    descriptors.close(one);
    use.leave();
    use.enter();
    descriptors.close(two);
    descriptors.settle();
    assert.deepEqual([isOpen(one), isOpen(two)], [false, true]);
    assert.equal(descriptors.pending, 1);
    use.leave();
    descriptors.settle();
    assert.equal(isOpen(two), false);
  });

  it('where turns are counted beyond 31 bits, too', () => {
    const descriptors = new SharedDescriptors();
    const user = descriptors.join();
    for (const turns of [0x7ffffffe, -2]) {
      new Int32Array(user.state)[user.thread * 16] = turns;
      const use = new DescriptorUse(user);
      for (let i = 0; i < 3; i++) {
        const fd = open();
        const serial = descriptors.publish(fd);
        use.enter();
        assert.equal(use.isCurrent(fd, serial), true);
        descriptors.close(fd);
        descriptors.settle();
        assert.equal(isOpen(fd), true);
        use.leave();
        descriptors.settle();
        assert.equal(isOpen(fd), false);
      }
    }
  });

  it('until its thread leaves, and a thread that has its number then waits for nothing', () => {
    const { descriptors, users, uses } = shared(1);
    const fd = open();
    descriptors.publish(fd);
    uses[0]!.enter();
    descriptors.close(fd);
    assert.equal(isOpen(fd), true);
    descriptors.leave(users[0]!);
    assert.equal(isOpen(fd), false);
    assert.equal(descriptors.pending, 0);
    const again = descriptors.join();
    assert.equal(again.thread, users[0]!.thread);
    const other = open();
    descriptors.publish(other);
    descriptors.close(other);
    assert.equal(isOpen(other), false);
  });
});

describe('a serial', () => {
  it('is current until its descriptor is closed: for a turn that begins then, it is not', () => {
    const { descriptors, uses } = shared(2);
    const [early, late] = uses as [DescriptorUse, DescriptorUse];
    const fd = open();
    const serial = descriptors.publish(fd);
    assert.equal(descriptors.publish(fd), serial);
    early.enter();
    assert.equal(early.isCurrent(fd, serial), true);
    assert.equal(early.isCurrent(fd, serial + 1), false);
    descriptors.close(fd);
    late.enter();
    assert.equal(late.isCurrent(fd, serial), false);
    // A descriptor that was found before may still be used, though it is not found any more.
    assert.equal(early.isCurrent(fd, serial), false);
    assert.equal(isOpen(fd), true);
    early.leave();
    descriptors.settle();
    assert.equal(isOpen(fd), false);
    late.leave();
  });

  it('is not that of another descriptor with the same number', () => {
    const { descriptors, uses } = shared(1);
    const [use] = uses as [DescriptorUse];
    const fd = open();
    const serials = new Set<number>();
    for (let i = 0; i < 5; i++) {
      const serial = descriptors.publish(fd);
      for (const former of serials) assert.equal(use.isCurrent(fd, former), false);
      serials.add(serial);
      use.enter();
      assert.equal(use.isCurrent(fd, serial), true);
      use.leave();
      descriptors.close(fd);
      assert.equal(open(), fd);
    }
    assert.equal(serials.size, 5);
    descriptors.close(fd);
  });

  it('is not to be had for descriptors without number, of high numbers, and after the last one', () => {
    const { descriptors, users, uses } = shared(1);
    assert.equal(descriptors.publish(-1 as Fd), 0);
    assert.equal(descriptors.publish(65_536 as Fd), 0);
    assert.notEqual(descriptors.publish(65_535 as Fd), 0);
    const fd = open();
    new Int32Array(users[0]!.state)[SERIALS + fd] = 0x7ffffffe;
    const last = descriptors.publish(fd);
    assert.equal(last, 0x7fffffff);
    assert.equal(uses[0]!.isCurrent(fd, last), true);
    descriptors.close(fd);
    assert.equal(uses[0]!.isCurrent(fd, last), false);
    assert.equal(open(), fd);
    assert.equal(descriptors.publish(fd), 0);
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
  });
});

it('a turn has begun once, however often that is said, and has ended once', () => {
  const { descriptors, uses } = shared(1);
  const [use] = uses as [DescriptorUse];
  const fd = open();
  descriptors.publish(fd);
  use.leave();
  use.enter();
  use.enter();
  descriptors.close(fd);
  use.enter();
  descriptors.settle();
  assert.equal(isOpen(fd), true);
  use.leave();
  use.leave();
  descriptors.settle();
  assert.equal(isOpen(fd), false);
  const other = open();
  descriptors.publish(other);
  descriptors.close(other);
  assert.equal(isOpen(other), false);
});

it('a wait for descriptors ends where a thread does not end its turn', () => {
  const { descriptors, uses } = shared(1);
  assert.equal(descriptors.settle(), false);
  const fd = open();
  descriptors.publish(fd);
  uses[0]!.enter();
  descriptors.close(fd);
  assert.equal(descriptors.settle(), false);
  assert.equal(descriptors.pending, 1);
  uses[0]!.leave();
  assert.equal(descriptors.settle(), true);
  assert.equal(descriptors.pending, 0);
  assert.equal(isOpen(fd), false);
});

it('there are 64 threads at most, of which each has its number', () => {
  const { descriptors, users } = shared(64);
  assert.equal(new Set(users.map(({ thread }) => thread)).size, 64);
  assert.ok(users.every(({ thread }) => thread >= 0 && thread < 64));
  assert.throws(() => descriptors.join(), RangeError);
  descriptors.leave(users[17]!);
  assert.equal(descriptors.join().thread, users[17]!.thread);
  assert.throws(() => descriptors.join(), RangeError);
});

/** So many files, each with one byte: its number. */
function numbered(t: TestContext, count: number): string[] {
  const folder = fs.mkdtempSync(join(tmpdir(), 'vfk-descriptors-'));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  return Array.from({ length: count }, (_, i) => {
    const path = join(folder, `${i}`);
    fs.writeFileSync(path, Uint8Array.of(i));
    return path;
  });
}

test('a thread reads no file but the one that it has found, while descriptors are closed and their numbers reused', async (t) => {
  const files = numbered(t, 100);
  const descriptors = new SharedDescriptors();
  const user = descriptors.join();
  const places = 8;
  const memory = new SharedArrayBuffer(places * PLACE_WORDS * 4);
  const shared = new SharedArrayBuffer(Object.keys(Progress).length * 4);
  const data: ReaderData = { user, places, memory, progress: shared };
  const worker = new Worker(new URL('../descriptor-reader.js', import.meta.url), { workerData: data });
  const ended = once(worker, 'message') as Promise<[ReaderReport]>;
  const words = new Int32Array(memory);
  const progress = new Int32Array(shared);
  const used: Fd[] = [];
  const numbers = new Set<number>();
  let opened = 0;
  let waited = 0;

  function change(place: number): void {
    const at = place * PLACE_WORDS;
    const former = used[place];
    // It may still be found, but it is not current.
    if (former !== undefined) descriptors.close(former);
    const id = opened % files.length;
    const fd = fs.openSync(files[id]!, 'r') as Fd;
    Atomics.add(words, at + Place.VERSION, 1);
    Atomics.store(words, at + Place.FD, fd);
    Atomics.store(words, at + Place.SERIAL, descriptors.publish(fd));
    Atomics.store(words, at + Place.ID, id);
    Atomics.add(words, at + Place.VERSION, 1);
    used[place] = fd;
    numbers.add(fd);
    opened += 1;
  }

  const end = performance.now() + raceMs(1500);
  while (performance.now() < end || Atomics.load(progress, Progress.READS) < 100) {
    for (let i = 0; i < 40; i++) change(opened % places);
    waited += descriptors.pending;
    if (descriptors.pending > 100) descriptors.settle();
    await Promise.race([setImmediate(), ended]);
  }
  Atomics.store(progress, Progress.STOP, 1);
  const [[report]] = await Promise.all([ended, once(worker, 'exit')]);
  assert.deepEqual(report.wrong, []);
  // Numbers were used again and again, and the thread met descriptors that were closed.
  assert.ok(numbers.size < opened / 4, `${opened} descriptors had ${numbers.size} numbers`);
  assert.ok(waited > 0);
  descriptors.leave(user);
  assert.equal(descriptors.pending, 0);
  for (const fd of used) {
    descriptors.close(fd);
    assert.equal(isOpen(fd), false);
  }
});
