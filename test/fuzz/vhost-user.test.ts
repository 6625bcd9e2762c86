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
  OwnedFd,
  Seal,
  signal,
  signalForeign,
  UnixConnection,
} from '../../core/system/index.js';
import {
  encodeConfig,
  encodeLog,
  encodeMemoryTable,
  encodeMessage,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  Feature,
  HeaderFlags,
  ProtocolFeature,
  Request,
  type Region,
} from '../../core/vhost-user/messages.js';
import { EchoSession } from '../support/echo-session.js';
import { EchoServer, openDescriptors, until } from '../support/vhost-user.js';
import { checkProperty } from '../support/random.js';

/** Messages that the device gets; VIRTIOFS_KIT_FUZZ sets another number. */
const MESSAGES = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 100_000);
/** Messages in each of fast-check's runs, over as many connections as it takes. */
const PER_RUN = 500;
/** Messages sent before the device gets a turn of the event loop. */
const BURST = 20;
const MEMORY = 2 ** 20;
const EAGAIN = 11;
const GROWTH = 64 * 2 ** 20;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** Random numbers from fast-check's seed: it reports the seed of a run that fails. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(bound: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % bound;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** Descriptors that a front-end may send, good ones and bad ones. */
interface Descriptors {
  readonly memory: readonly OwnedFd[];
  readonly events: readonly OwnedFd[];
  readonly others: readonly Fd[];
}

interface Wire {
  readonly bytes: Uint8Array;
  readonly fds: readonly Fd[];
}

const USER = 0x7f00_0000_0000;
const addresses = [0, 1, 4095, 4096, MEMORY, 2 * MEMORY, USER, USER + 4096, 2 ** 47, 2 ** 53 - 4096];

function region(random: Random): Region {
  const slot = random.below(4);
  const usual = {
    guestAddress: slot * MEMORY,
    size: MEMORY,
    userAddress: USER + slot * MEMORY,
    mmapOffset: 0,
  };
  if (!random.once(4)) return usual;
  return {
    guestAddress: random.once(2) ? usual.guestAddress : random.pick(addresses),
    size: random.once(2) ? usual.size : random.pick(addresses),
    userAddress: random.once(2) ? usual.userAddress : random.pick(addresses),
    mmapOffset: random.once(2) ? 0 : random.pick(addresses),
  };
}

function index(random: Random): number {
  return random.once(20) ? random.below(300) : random.below(3);
}

/** A payload that fits its message more often than not, and the descriptors with it. */
function payload(random: Random, request: number, fds: Descriptors): { payload: Uint8Array; fds: Fd[] } {
  const memory = () => random.pick(fds.memory).value;
  const event = () => (random.once(10) ? random.pick(fds.others) : random.pick(fds.events).value);
  switch (request) {
    case Request.SET_FEATURES:
      return {
        payload: encodeU64(random.pick([everything, everything, Feature.VERSION_1, 0n, 1n << 63n])),
        fds: [],
      };
    case Request.SET_PROTOCOL_FEATURES:
      return {
        payload: encodeU64(random.once(5) ? BigInt(random.below(2 ** 31)) : everyProtocolFeature),
        fds: [],
      };
    case Request.SET_STATUS:
      return { payload: encodeU64(random.pick([0, 1, 3, 11, 15, 255, 256])), fds: [] };
    case Request.SET_MEM_TABLE: {
      const regions = Array.from({ length: random.below(9) }, () => region(random));
      return { payload: encodeMemoryTable(regions), fds: regions.map(memory) };
    }
    case Request.ADD_MEM_REG:
      return { payload: encodeSingleRegion(region(random)), fds: [memory()] };
    case Request.REM_MEM_REG:
      return { payload: encodeSingleRegion(region(random)), fds: random.once(2) ? [] : [memory()] };
    case Request.SET_LOG_BASE:
      return {
        payload: encodeLog(random.pick([64, 4096, MEMORY]), random.pick([0, 1, 4096])),
        fds: [memory()],
      };
    case Request.SET_VRING_NUM:
      return {
        payload: encodeVringState(index(random), random.pick([1, 16, 128, 1024, 0, 3, 65536])),
        fds: [],
      };
    case Request.SET_VRING_BASE:
      return {
        payload: encodeVringState(index(random), random.below(random.once(9) ? 2 ** 31 : 65536)),
        fds: [],
      };
    case Request.SET_VRING_ENABLE:
    case Request.GET_VRING_BASE:
      return { payload: encodeVringState(index(random), random.below(random.once(9) ? 100 : 2)), fds: [] };
    case Request.SET_VRING_ADDR: {
      const part = () => USER + (random.once(9) ? random.pick(addresses) : 65536 * random.below(64));
      const log = random.once(2) ? random.pick(addresses) : undefined;
      return { payload: encodeVringAddresses(index(random), part(), part(), part(), log), fds: [] };
    }
    case Request.SET_VRING_KICK:
    case Request.SET_VRING_CALL:
    case Request.SET_VRING_ERR: {
      const polling = random.once(5);
      return { payload: encodeU64(index(random) | (polling ? 0x100 : 0)), fds: polling ? [] : [event()] };
    }
    case Request.SET_LOG_FD:
    case Request.SET_BACKEND_REQ_FD:
      return { payload: new Uint8Array(0), fds: [event()] };
    case Request.GET_CONFIG:
    case Request.SET_CONFIG:
      return {
        payload: encodeConfig(random.below(45), random.below(3), new Uint8Array(random.below(45))),
        fds: [],
      };
    default:
      return { payload: new Uint8Array(0), fds: [] };
  }
}

const everything = Object.values(Feature).reduce((all, bit) => all | bit);
const everyProtocolFeature =
  Object.values(ProtocolFeature).reduce((all, bit) => all | bit) & ~ProtocolFeature.INFLIGHT_SHMFD;

/** One message: mostly well formed, else mutated, else noise. */
function message(random: Random, descriptors: Descriptors): Wire {
  const request = random.once(100) ? random.below(2 ** 31) : 1 + random.below(45);
  const made = payload(random, request, descriptors);
  // Without an acknowledgement a refusal ends the connection, which is only sometimes of interest.
  const bytes = encodeMessage(request, random.once(50) ? 0 : HeaderFlags.NEED_REPLY, made.payload);
  let { fds } = made;
  if (random.once(30)) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
  if (random.once(40)) fds = Array.from({ length: random.below(12) }, () => random.pick(descriptors.others));
  if (random.once(200)) return { bytes: random.bytes(1 + random.below(100)), fds };
  return { bytes: random.once(200) ? bytes.subarray(0, 1 + random.below(bytes.length)) : bytes, fds };
}

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
        alive = attacker.send(message(random, descriptors));
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
    drainTimeout: 20,
    maxConnections: 64,
    openSession: () => new EchoSession(),
  });
  const honest = await echo.connect(t);
  const seals = Seal.GROW | Seal.SHRINK | Seal.SEAL;
  const memory = [memfd('zeros', 4 * MEMORY, seals), memfd('noise', 4 * MEMORY, seals)];
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
      assert.equal(openDescriptors(), before);
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
  assert.ok(growth < GROWTH, `${growth} bytes of growth`);
  assert.ok(connections > runs, 'some connections were closed by the device');
  const unexpected = echo.log.complaints.filter(
    (line) => line.startsWith('error') && !line.includes('in time'),
  );
  assert.deepEqual(unexpected, []);
  t.diagnostic(
    `${runs * PER_RUN} messages over ${connections} connections, ${echo.log.lines.length} log lines`,
  );
});
