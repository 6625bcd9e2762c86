import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drain, signal } from '../../../core/system/index.js';
import { Poller } from '../../../core/virtqueue/index.js';
import type { Message } from '../../../core/memory/index.js';
import { DATA, GUEST, Rig, until } from './rig.js';

function place({ driver }: Rig): void {
  driver.begin();
  driver.readable(GUEST + DATA, 16);
  driver.writable(GUEST + DATA + 64, 16);
  driver.submit();
}

test('a poller looks on for 0 to 1000 microseconds', () => {
  assert.throws(() => new Poller(-1), /-1 µs/);
  assert.throws(() => new Poller(1001), /1001 µs/);
  assert.throws(() => new Poller(Number.NaN), /NaN µs/);
});

test('one kick serves all queues of a poller, and each is asked for notifications afterwards', () => {
  const poller = new Poller(0);
  const rigs = [new Rig({ poller }), new Rig({ poller })];
  let served = 0;
  for (const rig of rigs) {
    rig.start((message) => {
      served += 1;
      message.complete(16);
    });
    place(rig);
    rig.driver.publish();
  }
  rigs[0]!.queue.kick();
  assert.equal(served, 2);
  for (const rig of rigs) {
    assert.ok(rig.driver.poll() >= 0);
    place(rig);
    assert.equal(rig.driver.publish(), true);
  }
  for (const rig of rigs) rig.close();
});

test('a queue that never empties leaves others their turn', async () => {
  const poller = new Poller(0);
  const [busy, other] = [new Rig({ poller }), new Rig({ poller })];
  const order: string[] = [];
  const again = (rig: Rig, name: string) => (message: Message) => {
    order.push(name);
    message.complete(16);
    assert.ok(rig.driver.poll() >= 0);
    if (order.length >= 40) return;
    place(rig);
    rig.driver.publish();
  };
  busy.start(again(busy, 'busy'));
  other.start(again(other, 'other'));
  for (const rig of [busy, busy, busy, other]) place(rig);
  for (const rig of [busy, other]) rig.driver.publish();
  busy.queue.kick();
  await until(() => order.length >= 40);
  for (const rig of [busy, other]) rig.close();
  // A turn of the event loop ends by the clock, or for something that the thread sleeps for: at any
  // request. The next one goes on with it.
  const rounds = order.join(' ').split('other');
  assert.ok(rounds.length > 9, order.join(' '));
  for (const round of rounds.slice(0, -1)) assert.match(round, /^ ?(busy ){1,3}$/);
});

/** Computes for so long, as a long request does. */
function work(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end;);
}

test('a request beside a queue that is never empty is served after a few of its requests', async () => {
  const poller = new Poller(0);
  // With more room than it needs, so that no turn ends by the number of requests.
  const [busy, other] = [new Rig({ poller, size: 256 }), new Rig({ poller })];
  const order: string[] = [];
  const next = (rig: Rig): void => {
    place(rig);
    rig.driver.publish();
  };
  const isOver = (): boolean => order.length >= 200;
  busy.start((message) => {
    order.push('busy');
    work(0.1);
    message.complete(16);
    assert.ok(busy.driver.poll() >= 0);
    if (isOver()) return;
    next(busy);
    // The other guest asks for something in the midst of it, one request at a time.
    if (order.length % 10 === 0) next(other);
  });
  other.start((message) => {
    order.push('other');
    message.complete(16);
    assert.ok(other.driver.poll() >= 0);
  });
  for (let i = 0; i < 4; i++) place(busy);
  busy.driver.publish();
  busy.queue.kick();
  await until(isOver);
  for (let i = 9; i < 190; i += 10) {
    const waited = order.indexOf('other', i + 1) - i - 1;
    assert.ok(waited <= 4, `${waited} requests of the busy queue came before one of the other`);
  }
  for (const rig of [busy, other]) rig.close();
});

test('what the thread sleeps for is served beside a queue that is never empty', async () => {
  const rigs = [new Rig({ poller: new Poller(0), size: 256 }), new Rig({ poller: new Poller(0) })];
  const [busy, other] = rigs as [Rig, Rig];
  let served = 0;
  let servedBefore = Infinity;
  let isOver = false;
  busy.start((message) => {
    work(0.1);
    message.complete(16);
    assert.ok(busy.driver.poll() >= 0);
    served += 1;
    if (served === 50) {
      place(other);
      other.driver.publish();
      signal(other.kick.value);
    }
    if (served >= 1000) isOver = true;
    if (isOver) return;
    place(busy);
    busy.driver.publish();
  });
  other.start((message) => {
    servedBefore = served - 50;
    message.complete(16);
    isOver = true;
  });
  await until(() => other.driver.pending === 0);
  place(busy);
  busy.driver.publish();
  busy.queue.kick();
  await until(() => isOver);
  assert.ok(servedBefore <= 20, `${servedBefore} requests of the busy queue came before`);
  for (const rig of rigs) rig.close();
});

test('a long request makes room for another guest of the poller, or of another one', async () => {
  for (const pollers of [[new Poller(0)], [new Poller(0), new Poller(0)]]) {
    const rigs = pollers
      .concat(pollers)
      .slice(0, 2)
      .map((poller) => new Rig({ poller }));
    const [long, other] = rigs as [Rig, Rig];
    const order: string[] = [];
    let pieces = 0;
    const ask = (rig: Rig): void => {
      place(rig);
      rig.driver.publish();
      signal(rig.kick.value);
    };
    const go = (message: Message): void => {
      while (pieces < 200) {
        work(0.02);
        pieces += 1;
        if (pieces % 50 === 10) ask(other);
        if (!message.isThreadWanted!()) continue;
        message.goOnLater!(() => go(message));
        return;
      }
      message.complete(16);
      order.push('long');
    };
    long.start((message) => {
      order.push('begins');
      go(message);
    });
    other.start((message) => {
      order.push(`other ${Math.floor(pieces / 10)}`);
      message.complete(16);
    });
    // The second of them does not begin before the first has ended.
    place(long);
    ask(long);
    await until(() => order.length >= 8);
    const others = [1, 6, 11, 16].map((tens) => `other ${tens}`);
    assert.deepEqual(order, ['begins', ...others, 'long', 'begins', 'long']);
    for (const rig of rigs) rig.close();
  }
});

test('requests that come while a queue is served need no notification, those after it do', () => {
  const rig = new Rig({ poller: new Poller(1000) });
  const notifications: boolean[] = [];
  rig.start((message) => {
    message.complete(16);
    assert.ok(rig.driver.poll() >= 0);
    if (notifications.length === 8) return;
    place(rig);
    notifications.push(rig.driver.publish());
  });
  place(rig);
  rig.driver.publish();
  rig.queue.kick();
  assert.deepEqual(
    notifications,
    Array.from({ length: 8 }, () => false),
  );
  place(rig);
  assert.equal(rig.driver.publish(), true);
  rig.close();
});

test('a queue that was stopped is served no more, and the others are', () => {
  const poller = new Poller(100);
  const stopped = new Rig({ poller });
  const other = new Rig({ poller });
  const refuse = () => assert.fail('served after its stop');
  stopped.start(refuse);
  other.start((message) => message.complete(16));
  stopped.queue.stop();
  for (const rig of [stopped, other]) {
    place(rig);
    rig.driver.publish();
  }
  other.queue.kick();
  assert.ok(other.driver.poll() >= 0);
  assert.equal(stopped.driver.poll(), -1);
  stopped.close();
  other.close();
});

test('a queue with a request in flight is asked for notifications', () => {
  const rig = new Rig({ poller: new Poller(1000) });
  const held: (() => void)[] = [];
  rig.start((message) => held.push(() => message.complete(16)));
  place(rig);
  rig.driver.publish();
  rig.queue.kick();
  assert.equal(rig.queue.inFlight, 1);
  place(rig);
  assert.equal(rig.driver.publish(), true);
  for (const complete of held) complete();
  assert.equal(drain(rig.call.value), 8);
  rig.close();
});

for (const [isOwn, what] of [
  [true, 'looks on after a request that came from the same guest while it looked'],
  [false, 'sleeps after one that came from another guest: polling would take a processor from it'],
] as const) {
  test(`a poller ${what}`, (t) => {
    const poller = new Poller(1000);
    const [rig, other] = [new Rig({ poller }), new Rig({ poller })];
    let served = 0;
    for (const one of [rig, other]) {
      one.start((message) => {
        served += 1;
        message.complete(16);
      });
    }
    const ask = (one: Rig): void => {
      place(one);
      one.driver.publish();
    };
    ask(rig);
    // Each reading of the clock is one of 10,000 looks.
    let looks = 0;
    t.mock.method(performance, 'now', () => {
      looks += 1;
      if (looks === 20) ask(isOwn ? rig : other);
      return looks / 10_000;
    });
    rig.queue.kick();
    assert.equal(served, 2);
    assert.equal(looks > 10_000, isOwn, `${looks} looks`);
    for (const one of [rig, other]) one.close();
  });
}

/** A service whose requests other threads carry out, and the calls that it got. */
class ThreadedService {
  readonly messages: Message[] = [];
  readonly calls: string[] = [];
  /** How often `ready` is read until it is true. */
  polls = 0;

  get pending(): number {
    return this.messages.length;
  }

  get ready(): boolean {
    if (this.pending === 0) return false;
    if (this.polls > 0) this.polls -= 1;
    return this.polls === 0;
  }

  collect(): void {
    if (!this.ready) return;
    this.calls.push('collect');
    for (const message of this.messages.splice(0)) message.complete(16);
  }

  attend(): void {
    this.calls.push('attend');
  }

  rest(): boolean {
    this.calls.push('rest');
    return this.ready;
  }
}

function startThreaded(rig: Rig): ThreadedService {
  const service = new ThreadedService();
  rig.queue.start({
    dispatch: (message) => service.messages.push(message),
    submit: () => {},
    completions: service,
  });
  return service;
}

test('requests that other threads have carried out are collected before sleeping', (t) => {
  // 20 polls are within the 1000 µs, however busy this machine is.
  let now = 0;
  t.mock.method(performance, 'now', () => (now += 0.01));
  const rig = new Rig({ poller: new Poller(1000) });
  const service = startThreaded(rig);
  service.polls = 20;
  place(rig);
  rig.driver.publish();
  rig.queue.kick();
  assert.ok(rig.driver.poll() >= 0, 'it was answered in the same turn');
  assert.equal(service.calls[0], 'attend');
  assert.ok(service.calls.includes('collect'));
  assert.equal(service.calls.at(-1), 'rest');
  rig.close();
});

test('what is ready when the queues are left is collected', async () => {
  const rig = new Rig({ poller: new Poller(0) });
  const service = startThreaded(rig);
  // It becomes ready at the second call of `rest`, after which nothing is polled.
  service.polls = 2;
  place(rig);
  rig.driver.publish();
  rig.queue.kick();
  await until(() => service.pending === 0);
  assert.ok(rig.driver.poll() >= 0);
  assert.equal(service.calls.at(-1), 'rest');
  rig.close();
});

test('a service of several queues is attended once', () => {
  const poller = new Poller(0);
  const rigs = [new Rig({ poller }), new Rig({ poller })];
  const service = new ThreadedService();
  for (const rig of rigs) {
    rig.queue.start({
      dispatch: (message) => message.complete(16),
      submit: () => {},
      completions: service,
    });
  }
  rigs[0]!.queue.kick();
  assert.deepEqual(service.calls.filter((call) => call === 'attend').length, 1);
  for (const rig of rigs) rig.close();
  service.calls.length = 0;
  poller.serve();
  assert.deepEqual(service.calls, [], 'queues that were stopped leave nothing to attend');
});
