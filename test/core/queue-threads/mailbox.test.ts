import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { EngineMailbox, mailboxMemory, ThreadMailbox } from '../../../core/queue-threads/mailbox.js';
import { repetitions } from '../../support/random.js';
import { failsAt, type MailboxData, type MailboxReport, STOP } from './mailbox-engine.js';

interface Answer {
  readonly id: number;
  readonly written: number | undefined;
}

/** Both ends of a mailbox. */
function mailbox(size: number): { engine: EngineMailbox; thread: ThreadMailbox } {
  const memory = mailboxMemory(size);
  return { engine: new EngineMailbox(memory, size), thread: new ThreadMailbox(memory, size) };
}

/** All answers that there are. */
function collectAll(thread: ThreadMailbox): Answer[] {
  const answers: Answer[] = [];
  while (thread.ready) thread.collect((id, written) => answers.push({ id, written }));
  return answers;
}

function takeAll(engine: EngineMailbox): number[] {
  const ids: number[] = [];
  while (engine.waiting > 0) ids.push(engine.take());
  return ids;
}

describe('a mailbox', () => {
  it('passes requests one way and answers the other, each in its order', () => {
    const { engine, thread } = mailbox(8);
    assert.deepEqual([engine.waiting, thread.pending, thread.ready], [0, 0, false]);
    for (const id of [5, 0, 7]) thread.pass(id);
    assert.deepEqual([engine.waiting, thread.pending, thread.ready], [3, 3, false]);
    assert.equal(engine.take(), 5);
    assert.equal(engine.waiting, 2);
    assert.deepEqual(takeAll(engine), [0, 7]);
    engine.answer(7, 16);
    engine.answer(5, 4112);
    assert.equal(thread.pending, 3);
    assert.deepEqual(collectAll(thread), [
      { id: 7, written: 16 },
      { id: 5, written: 4112 },
    ]);
    assert.deepEqual([thread.pending, thread.ready], [1, false]);
    thread.pass(5);
    engine.answer(0, 0);
    assert.deepEqual(collectAll(thread), [{ id: 0, written: 0 }]);
    assert.deepEqual([engine.waiting, thread.pending], [1, 1]);
    assert.equal(engine.take(), 5);
  });

  it('distinguishes a request that can not be answered from an answer of no bytes', () => {
    const { engine, thread } = mailbox(2);
    thread.pass(0);
    thread.pass(1);
    for (const id of takeAll(engine)) engine.answer(id, id === 0 ? undefined : 0);
    assert.deepEqual(collectAll(thread), [
      { id: 0, written: undefined },
      { id: 1, written: 0 },
    ]);
  });

  for (const size of [1, 2, 8, 64]) {
    it(`of ${size} holds ${size} at a time, again and again`, () => {
      const { engine, thread } = mailbox(size);
      let passed = 0;
      let answered = 0;
      for (let round = 0; round < 400; round++) {
        const count = 1 + ((round * 7) % size);
        const ids = Array.from({ length: count }, (_, i) => (passed + i) % 65_536);
        for (const id of ids) thread.pass(id);
        passed += count;
        assert.equal(engine.waiting, count);
        assert.deepEqual(takeAll(engine), ids);
        const expected = ids.map((id) => ({ id, written: (answered++ * 3) % 70_000 }));
        for (const { id, written } of expected) engine.answer(id, written);
        assert.equal(thread.pending, count);
        assert.deepEqual(collectAll(thread), expected);
        assert.equal(thread.pending, 0);
      }
      assert.ok(passed > 200 * size);
    });
  }

  it('holds a full set of requests, and then of their answers', () => {
    const { engine, thread } = mailbox(4);
    for (let round = 0; round < 50; round++) {
      const ids = [0, 1, 2, 3].map((i) => round * 4 + i);
      for (const id of ids) thread.pass(id);
      assert.equal(engine.waiting, 4);
      takeAll(engine);
      // The guest gets none of them yet: the answers lie in the mailbox.
      for (const id of ids.toReversed()) engine.answer(id, id + 1);
      assert.equal(thread.pending, 4);
      assert.deepEqual(
        collectAll(thread),
        ids.toReversed().map((id) => ({ id, written: id + 1 })),
      );
    }
  });

  it('knows whether the thread polls for answers', () => {
    const { engine, thread } = mailbox(4);
    assert.equal(engine.isPolled, false);
    thread.setPolling(true);
    assert.equal(engine.isPolled, true);
    engine.setPolling(true);
    assert.equal(engine.isPolled, true);
    thread.setPolling(false);
    assert.equal(engine.isPolled, false);
  });

  it('asks for one signal for all that is passed while the engine does not poll', () => {
    const { engine, thread } = mailbox(4);
    const pass = (): boolean => {
      thread.pass(1);
      return thread.mustSignal;
    };
    assert.deepEqual([pass(), pass()], [true, false]);
    engine.setPolling(true);
    takeAll(engine);
    assert.deepEqual([pass(), pass()], [false, false]);
    takeAll(engine);
    engine.setPolling(false);
    thread.setPolling(true);
    assert.deepEqual([pass(), pass()], [true, false]);
    takeAll(engine);
    // It has polled again, and found nothing.
    engine.setPolling(false);
    assert.deepEqual([pass(), pass()], [true, false]);
    assert.equal(engine.waiting, 2);
  });
});

describe('the end that passes requests on', () => {
  it('gives the next available index, modulo 65,536', () => {
    const { engine, thread } = mailbox(4);
    assert.equal(engine.next, 0);
    assert.equal(thread.take(), true);
    assert.equal(engine.next, 1);
    const memory = mailboxMemory(4, 65_534);
    const [later, far] = [new ThreadMailbox(memory, 4), new EngineMailbox(memory, 4)];
    const seen = [far.next];
    for (let i = 0; i < 3; i++) {
      later.take();
      seen.push(far.next);
    }
    assert.deepEqual(seen, [65_534, 65_535, 0, 1]);
    // Nothing was passed or answered.
    assert.deepEqual([far.waiting, later.pending, later.ready], [0, 0, false]);
  });

  it('does not count requests that it takes again, which lie before its first index', () => {
    const memory = mailboxMemory(4, 7);
    const [thread, engine] = [new ThreadMailbox(memory, 4, 2), new EngineMailbox(memory, 4)];
    const seen: number[] = [];
    for (let i = 0; i < 3; i++) {
      thread.take();
      seen.push(engine.next);
    }
    assert.deepEqual(seen, [7, 7, 8]);
  });

  it('tells when all answers are with the guest', () => {
    const { engine, thread } = mailbox(4);
    for (const id of [1, 3]) thread.pass(id);
    takeAll(engine);
    assert.equal(engine.isCollected, true);
    engine.answer(3, 16);
    engine.answer(1, 16);
    const seen: boolean[] = [];
    while (thread.ready) {
      seen.push(engine.isCollected);
      thread.collect(() => seen.push(engine.isCollected));
    }
    assert.deepEqual([...seen, engine.isCollected], [false, false, false, false, true]);
  });

  it('learns when it may serve nothing further, and still gives its index', () => {
    const { engine, thread } = mailbox(4);
    assert.equal(thread.take(), true);
    engine.stop();
    assert.equal(thread.take(), false);
    assert.equal(thread.take(), false);
    assert.equal(engine.next, 3);
    thread.pass(2);
    assert.equal(engine.take(), 2);
  });
});

test('between threads nothing is lost, doubled or put into another order, and no thread sleeps while it has work', async () => {
  const size = 128;
  const count = repetitions(200_000);
  const memory = mailboxMemory(size);
  const awake = new SharedArrayBuffer(4);
  const data: MailboxData = { memory, size, awake };
  const worker = new Worker(new URL('./mailbox-engine.js', import.meta.url), { workerData: data });
  const ended = once(worker, 'message') as Promise<[MailboxReport]>;
  const thread = new ThreadMailbox(memory, size);
  // The number of each request that the other end has, by the id of its chain.
  const turns = new Map<number, number>();
  const free = Array.from({ length: size }, (_, id) => id);
  /** How many answers came out of turn; and the requests in the order of their answers. */
  const wrong: string[] = [];
  const answeredIn: number[] = [];
  const passed: number[] = [];
  const sleep = new Int32Array(awake);
  let signals = 0;
  const exited = once(worker, 'exit');
  const isOver = ended.then(() => true);

  function pass(id: number): void {
    thread.pass(id);
    if (!thread.mustSignal) return;
    signals += 1;
    Atomics.store(sleep, 0, 1);
    Atomics.notify(sleep, 0);
  }

  function collect(id: number, written: number | undefined): void {
    const turn = answeredIn.length;
    if (written !== (failsAt(turn) ? undefined : turn)) wrong.push(`answer ${written} in turn ${turn}`);
    const request = turns.get(id);
    if (request === undefined) wrong.push(`an answer for chain ${id}, which has no request`);
    else answeredIn.push(request);
    turns.delete(id);
    free.push(id);
  }

  for (let idle = 0; answeredIn.length < count && wrong.length < 10;) {
    const before = answeredIn.length + passed.length;
    while (free.length > 0 && passed.length < count) {
      const id = free.pop()!;
      turns.set(id, passed.length);
      passed.push(id);
      pass(id);
    }
    while (thread.ready) thread.collect(collect);
    idle = answeredIn.length + passed.length > before ? 0 : idle + 1;
    if (idle > 1000 && (await Promise.race([setImmediate(false), isOver]))) break;
  }
  pass(STOP);
  const [[{ taken, missed }]] = await Promise.all([ended, exited]);
  assert.deepEqual(wrong, []);
  assert.equal(missed, 0);
  assert.ok(signals > 0 && signals < count);
  assert.equal(passed.length, count);
  assert.equal(taken.length, count);
  assert.ok(
    taken.every((id, turn) => id === passed[turn]),
    'the requests come in the order in which they were passed',
  );
  // Each request was answered once. The other end mixes the order, so not all came in theirs.
  assert.equal(new Set(answeredIn).size, count);
  assert.ok(answeredIn.some((request, turn) => request !== turn));
});
