import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as fc from 'fast-check';
import {
  type Fd,
  eventfd,
  memfd,
  Seal,
  signal,
  signalForeign,
  UnixConnection,
} from '../../core/system/index.js';
import { encodeMessage, encodeU64, Request } from '../../core/vhost-user/messages.js';
import { EchoSession } from '../support/echo-session.js';
import { EchoServer, openDescriptors, until } from '../support/vhost-user.js';
import {
  type Descriptors,
  everyProtocolFeature,
  makeMessage,
  MEMORY_BYTES,
  type Wire,
} from '../support/hostile-messages.js';
import { checkProperty } from '../support/random.js';
import { Random } from '../support/random.js';

/** Messages that the device gets; VIRTIOFS_KIT_FUZZ sets another number. */
const MESSAGES = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 100_000);
/** Messages in each of fast-check's runs, over as many connections as it takes. */
const PER_RUN = 500;
/** Messages sent before the device gets a turn of the event loop. */
const BURST = 20;
const EAGAIN = 11;
const GROWTH_BYTES = 64 * 2 ** 20;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** A hostile front-end's connection. */
class Attacker {
  readonly #connection: UnixConnection;
  readonly #sink = new Uint8Array(65536);

  constructor(path: string) {
    this.#connection = UnixConnection.connect(path);
    this.send({
      bytes: encodeMessage(Request.SET_PROTOCOL_FEATURES, 0, encodeU64(everyProtocolFeature)),
      fds: [],
    });
  }

  /** @returns whether the device still listens. */
  send({ bytes, fds }: Wire): boolean {
    const sent = this.#connection.send(bytes, fds);
    return sent >= 0 || sent === -EAGAIN;
  }

  /**
   * Waits until the device has seen everything that was sent: it answers GET_QUEUE_NUM then. One
   * that was left within a message waits for more, which the next burst brings.
   * @returns whether the device still listens.
   */
  async settle(): Promise<boolean> {
    if (!this.send({ bytes: encodeMessage(Request.GET_QUEUE_NUM, 0, new Uint8Array(0)), fds: [] }))
      return false;
    for (let turns = 0; turns < 4 * BURST; turns++) {
      await turn();
      const count = this.#connection.recv(this.#sink, []);
      if (count === -EAGAIN) continue;
      if (count <= 0) return false;
      const last = this.#sink.subarray(0, count).subarray(-20);
      if (last[0] === Request.GET_QUEUE_NUM && last[8] === 8) return true;
    }
    return true;
  }

  close(): void {
    this.#connection.close();
  }
}

/**
 * Sends messages until the device has taken or refused `count` of them, over a new connection
 * whenever it closed the last.
 * @returns how many connections it took.
 */
async function attack(
  echo: EchoServer,
  random: Random,
  descriptors: Descriptors,
  count: number,
): Promise<number> {
  let connections = 0;
  const seen = () => echo.log.messages + echo.log.lines.length;
  const end = seen() + count;
  while (seen() < end) {
    const attacker = new Attacker(echo.path);
    connections += 1;
    for (let alive = true; alive && seen() < end;) {
      for (let burst = 0; alive && burst < BURST; burst++)
        alive = attacker.send(makeMessage(random, descriptors));
      for (const fd of descriptors.events) if (random.once(3)) signal(fd.value);
      if (alive) alive = await attacker.settle();
    }
    attacker.close();
    await turn();
  }
  return connections;
}

test(`${MESSAGES} random and mutated messages neither crash, stall nor fatten the device`, async (t) => {
  const echo = EchoServer.start(t, {
    drainTimeoutMs: 20,
    maxConnections: 64,
    openSession: () => new EchoSession(),
  });
  const honest = await echo.connect(t);
  const seals = Seal.GROW | Seal.SHRINK | Seal.SEAL;
  const memory = [memfd('zeros', 4 * MEMORY_BYTES, seals), memfd('noise', 4 * MEMORY_BYTES, seals)];
  const events = Array.from({ length: 4 }, () => eventfd());
  const [one, other] = UnixConnection.pair();
  const descriptors = {
    memory,
    events,
    others: [0 as Fd, one.fd, other.fd, memory[0]!.value, events[0]!.value],
  };
  t.after(() => {
    for (const fd of [...memory, ...events]) fd.close();
    one.close();
    other.close();
  });
  const runs = Math.ceil(MESSAGES / PER_RUN);
  // A thread that has interrupted a front-end keeps one descriptor for that.
  signalForeign(events[0]!.value);
  const before = openDescriptors();
  let done = 0;
  let connections = 0;
  let settled = 0;
  await checkProperty(
    t,
    fc.asyncProperty(fc.integer({ min: 1 }), async (seed) => {
      connections += await attack(echo, new Random(seed), descriptors, PER_RUN);
      const request = Uint8Array.of(done & 0x7f, 2, 3);
      assert.deepEqual(await honest.request(1 + (done % 2), [request], [3]), request);
      await until(() => echo.server.connections === 1, 'the connections of this run are gone');
      // What the front-ends sent is closed by a thread, since close(2) may wait for others.
      await until(() => openDescriptors() === before, `${before} descriptors are open`);
      done += 1;
      if (done === Math.ceil(runs / 4)) {
        collectGarbage();
        settled = process.memoryUsage.rss();
      }
    }),
    { numRuns: runs, endOnFailure: true },
  );
  collectGarbage();
  const growth = process.memoryUsage.rss() - settled;
  assert.ok(growth < GROWTH_BYTES, `${growth} bytes of growth`);
  assert.ok(connections > runs, 'some connections were closed by the device');
  const unexpected = echo.log.complaints.filter(
    (line) => line.startsWith('error') && !line.includes('in time'),
  );
  assert.deepEqual(unexpected, []);
  t.diagnostic(
    `${runs * PER_RUN} messages over ${connections} connections, ${echo.log.lines.length} log lines`,
  );
});
