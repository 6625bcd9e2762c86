import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test, type TestContext } from 'node:test';
import { drain, eventfd, Mapping, memfd, signal, watch } from '../../../core/system/index.js';
import { FrontEndError } from '../../../core/vhost-user/index.js';
import { encodeLog, encodeMemoryTable, encodeU64, Feature } from '../../../core/vhost-user/messages.js';
import { withFewDescriptors } from '../../support/descriptor-limit.js';
import { Random } from '../../support/random.js';
import { FuseClient, Op, ROOT } from '../../support/fuse-client.js';
import {
  by,
  memoryOf,
  OwnRing,
  ThreadedServer,
  type ThreadedOptions,
} from '../../support/threaded-server.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';
import { openDescriptors, until, stopQueue } from '../../support/vhost-user.js';
import { type FrontEnd } from '../../support/front-end.js';
import { encodeSingleRegion } from '../../support/payloads.js';

/**
 * Queues of the front-end that connects first; where there are four, OTHER is the engine's and ALSO
 * the same thread's.
 */
const ENGINE = 1;
const THREAD = 2;
const OTHER = 3;
const ALSO = 4;

const none = new Uint8Array(0);
const FILE_BYTES = 200_000;

/** A file that a guest has open. */
interface Opened {
  readonly nodeid: bigint;
  readonly fh: bigint;
  readonly content: Buffer;
}

async function openFile(server: ThreadedServer, fuse: FuseClient): Promise<Opened> {
  const content = new Random(5).bytes(FILE_BYTES);
  writeFileSync(server.path('file'), content);
  const { nodeid } = await by(fuse, ENGINE, (one) => one.lookup(ROOT, 'file'));
  const { fh } = await by(fuse, ENGINE, (one) => one.open(nodeid, 2));
  return { nodeid, fh, content };
}

async function checkRead(
  fuse: FuseClient,
  queue: number,
  file: Opened,
  offset = 1000,
  size = 5000,
): Promise<void> {
  const data = await by(fuse, queue, (one) => one.read(file.nodeid, file.fh, offset, size));
  assert.ok(file.content.subarray(offset, offset + size).equals(data), `${size} bytes from ${offset}`);
}

/** Requests that follow one another without end, some at a time; each reply is checked. */
class Traffic {
  served = 0;
  #goesOn = true;
  readonly #ended: Promise<PromiseSettledResult<void>[]>;

  constructor(fuse: FuseClient, queue: number, file: Opened, depth = 16) {
    const run = async (seed: number): Promise<void> => {
      const random = new Random(seed);
      while (this.#goesOn) {
        const offset = random.below(FILE_BYTES - 1);
        // Now and then one that the thread passes on.
        const kind = random.below(16);
        if (kind === 0) await by(fuse, queue, (one) => one.statfs());
        else if (kind < 3) await by(fuse, queue, (one) => one.getattr(file.nodeid));
        else await checkRead(fuse, queue, file, offset, 1 + random.below(20_000));
        this.served += 1;
      }
    };
    this.#ended = Promise.allSettled(Array.from({ length: depth }, (_, seed) => run(seed)));
  }

  /** Waits until so many more requests were served. */
  async goesOn(count = 200): Promise<void> {
    const goal = this.served + count;
    await until(() => this.served >= goal, `${count} requests were served`);
  }

  /** Lets the requests end. @returns the reasons of those that were rejected. */
  async end(): Promise<unknown[]> {
    this.#goesOn = false;
    return (await this.#ended).flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
  }
}

/** Requests that a ring's device has given back, as the ring says. */
function used(frontEnd: FrontEnd, queue: number): number {
  const { memory, queues } = frontEnd;
  const at = queues[queue]!.driver.used - memory.guestAddress(0) + 2;
  return memory.bytes[at]! | (memory.bytes[at + 1]! << 8);
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function busy(t: TestContext, options: ThreadedOptions = {}) {
  const server = await ThreadedServer.start(t, options);
  const connected = await server.connect(t, { requestQueues: options.requestQueues ?? 2, memorySlots: true });
  const file = await openFile(server, connected.fuse);
  const traffic = new Traffic(connected.fuse, THREAD, file);
  await traffic.goesOn();
  assert.ok(server.counts().reads > 0);
  return { server, ...connected, file, traffic };
}

for (const pollTime of [0, 20]) {
  test(`a busy queue is stopped and goes on without loss, again and again, polled for ${pollTime} µs`, async (t) => {
    const { server, frontEnd, traffic } = await busy(t, { pollTime });
    for (let round = 0; round < 20; round++) {
      const base = await stopQueue(frontEnd, THREAD);
      assert.equal(used(frontEnd, THREAD), base);
      await pause(round === 0 ? 30 : 2);
      assert.equal(used(frontEnd, THREAD), base, 'nothing is served after the answer');
      await frontEnd.startQueue(THREAD, base);
      await traffic.goesOn();
    }
    assert.deepEqual(await traffic.end(), []);
    assert.deepEqual(server.log.complaints, []);
  });
}

/** A line of the log without what it says of the addresses of a run. */
const withoutAddresses = (line: string): string => line.replace(/(?<=outside memory): .*/, '');

test('a queue that is stopped at once after its start, and started at once after its stop, loses nothing', async (t) => {
  const { server, frontEnd, traffic } = await busy(t);
  for (let round = 0; round < 50; round++)
    await frontEnd.startQueue(THREAD, await stopQueue(frontEnd, THREAD));
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.deepEqual(server.log.complaints, []);
});

test('interrupts come by the call descriptor that was given last', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  for (let round = 0; round < 10; round++) {
    const call = eventfd();
    let interrupts = 0;
    const watching = watch(call.value, () => {
      drain(call.value);
      interrupts += 1;
      signal(frontEnd.queues[THREAD]!.call.value);
    });
    await frontEnd.channel.command('SET_VRING_CALL', encodeU64(THREAD), [call.value]);
    const before = interrupts;
    await traffic.goesOn(50);
    assert.ok(interrupts > before);
    // Without load, each request has its own.
    if (round === 9) {
      assert.deepEqual(await traffic.end(), []);
      for (let i = 0; i < 20; i++) {
        const count = interrupts;
        await checkRead(fuse, THREAD, file);
        assert.ok(interrupts > count);
      }
    }
    await frontEnd.channel.command('SET_VRING_CALL', encodeU64(THREAD), [
      frontEnd.queues[THREAD]!.call.value,
    ]);
    watching.close();
    call.close();
  }
  await checkRead(fuse, THREAD, file);
  assert.deepEqual(server.log.complaints, []);
});

test('notifications come by the kick descriptor that was given last', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  const { kick } = frontEnd.queues[THREAD]!;
  for (let round = 0; round < 10; round++) {
    using other = eventfd();
    await frontEnd.channel.command('SET_VRING_KICK', encodeU64(THREAD), [other.value]);
    const forwarding = watch(kick.value, () => {
      drain(kick.value);
      signal(other.value);
    });
    await traffic.goesOn(50);
    forwarding.close();
    await frontEnd.channel.command('SET_VRING_KICK', encodeU64(THREAD), [kick.value]);
    await traffic.goesOn(50);
  }
  assert.deepEqual(await traffic.end(), []);
  const { reads } = server.counts();
  for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, file);
  assert.equal(server.counts().reads, reads + 3);
  assert.deepEqual(server.log.complaints, []);
});

test("a queue without a kick descriptor is polled by the engine, and is a thread's again when it has one", async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  await frontEnd.channel.command('SET_VRING_KICK', encodeU64(0x100 | THREAD));
  await traffic.goesOn();
  const { reads } = server.counts();
  await traffic.goesOn();
  assert.equal(server.counts().reads, reads);
  assert.deepEqual(await traffic.end(), []);
  await frontEnd.channel.command('SET_VRING_KICK', encodeU64(THREAD), [frontEnd.queues[THREAD]!.kick.value]);
  for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, file);
  await frontEnd.startQueue(THREAD, await stopQueue(frontEnd, THREAD));
  for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, file);
  assert.ok(server.counts().reads > reads);
  assert.deepEqual(server.log.complaints, []);
});

test('a disabled queue serves nothing until it is enabled', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  for (let round = 0; round < 20; round++) {
    await frontEnd.enableQueue(THREAD, false);
    await checkRead(fuse, ENGINE, file);
    // What was taken before may still be answered.
    if (round === 0) await pause(20);
    const { served } = traffic;
    await pause(2);
    if (round === 0) assert.equal(traffic.served, served);
    await frontEnd.enableQueue(THREAD, true);
    await traffic.goesOn(100);
  }
  await frontEnd.enableQueue(THREAD, false);
  await frontEnd.enableQueue(THREAD, false);
  const base = await stopQueue(frontEnd, THREAD);
  assert.equal(used(frontEnd, THREAD), base);
  await frontEnd.startQueue(THREAD, base);
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.deepEqual(server.log.complaints, []);
});

/** Memory beside a front-end's own, and a guest's requests in it, each in segments of a page. */
function moreMemory(t: TestContext) {
  const fd = memfd('more', 2 ** 20);
  const mapping = Mapping.map(fd.value, 2 ** 20, 0);
  t.after(() => {
    mapping.unmap();
    fd.close();
  });
  const bytes = mapping.windowAt(mapping.address).u8.subarray(0, 2 ** 20);
  const region = { guestAddress: 2 ** 40, size: 2 ** 20, userAddress: 2 ** 41, mmapOffset: 0 };
  return { fd, region, memory: { bytes, guestAddress: 2 ** 40 } };
}

for (const slots of [false, true]) {
  const name = slots ? 'ADD_MEM_REG and REM_MEM_REG' : 'SET_MEM_TABLE';
  test(`memory comes and goes under a busy thread by ${name}, and is used at once`, async (t) => {
    const { server, frontEnd, traffic, file } = await busy(t, { requestQueues: 4 });
    const { channel, memory } = frontEnd;
    const more = moreMemory(t);
    const ring = new OwnRing(t, frontEnd, ALSO, memoryOf(frontEnd, 2 ** 20), 4096);
    const fuse = new FuseClient(ring);
    for (let round = 0; round < 10; round++) {
      if (slots) await channel.command('ADD_MEM_REG', encodeSingleRegion(more.region), [more.fd.value]);
      else {
        const table = encodeMemoryTable([memory.region, more.region]);
        await channel.command('SET_MEM_TABLE', table, [memory.fd, more.fd.value]);
      }
      const before = ring.memory;
      ring.memory = more.memory;
      for (let i = 0; i < 3; i++) await checkRead(fuse, ALSO, file, i, 50_000);
      ring.memory = before;
      if (slots) await channel.command('REM_MEM_REG', encodeSingleRegion(more.region));
      else await channel.command('SET_MEM_TABLE', encodeMemoryTable([memory.region]), [memory.fd]);
      await checkRead(fuse, ALSO, file, 0, 50_000);
      await traffic.goesOn(50);
    }
    assert.deepEqual(server.log.complaints, []);

    // A request in memory that is gone breaks its own queue, and no other one.
    ring.memory = more.memory;
    const { err } = frontEnd.queues[ALSO]!;
    ring.place(new Uint8Array(80), 200);
    await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
    await traffic.goesOn();
    assert.deepEqual(await traffic.end(), []);
    assert.deepEqual(server.log.complaints.map(withoutAddresses), [
      'warn: queue stopped: the guest sent a segment outside memory',
    ]);
  });
}

test('a broken queue of a thread has no part in changes of memory, and none in another queue of the thread', async (t) => {
  const { server, frontEnd, traffic } = await busy(t, { requestQueues: 4 });
  const { channel, queues } = frontEnd;
  const more = moreMemory(t);
  using bigger = memfd('bigger', 2 * more.region.size);
  await channel.command('ADD_MEM_REG', encodeSingleRegion(more.region), [more.fd.value]);
  const { driver, err, kick } = queues[ALSO]!;
  driver.begin();
  driver.readable(16, 16);
  driver.submit();
  driver.kick(kick.value);
  await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
  await channel.command('REM_MEM_REG', encodeSingleRegion(more.region));
  const region = { ...more.region, size: 2 * more.region.size };
  await channel.command('ADD_MEM_REG', encodeSingleRegion(region), [bigger.value]);
  await traffic.goesOn();
  // A broken queue stays broken until the front-end stops it.
  driver.kick(kick.value);
  await traffic.goesOn();
  assert.equal(used(frontEnd, ALSO), 0);
  assert.deepEqual(await traffic.end(), []);
  assert.equal(server.log.complaints.length, 1);
});

test('memory that is refused changes nothing, and its descriptor is closed', async (t) => {
  const { server, frontEnd, traffic, fuse } = await busy(t);
  const { channel } = frontEnd;
  const more = moreMemory(t);
  const before = openDescriptors();
  await channel.command('ADD_MEM_REG', encodeSingleRegion(more.region), [more.fd.value]);
  for (let i = 0; i < 3; i++) {
    const adding = channel.command('ADD_MEM_REG', encodeSingleRegion(more.region), [more.fd.value]);
    await assert.rejects(adding, /refused ADD_MEM_REG/);
  }
  await channel.command('REM_MEM_REG', encodeSingleRegion(more.region));
  await assert.rejects(
    channel.command('REM_MEM_REG', encodeSingleRegion(more.region)),
    /refused REM_MEM_REG/,
  );
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  await by(fuse, THREAD, (one) => one.getattr(ROOT));
  assert.equal(openDescriptors(), before);
  assert.equal(server.log.complaints.length, 4);
});

test('memory may be many regions, and a request may cross from one to the next', async (t) => {
  const { server, frontEnd, traffic, file } = await busy(t, { requestQueues: 4 });
  const more = moreMemory(t);
  for (let i = 0; i < 64; i++) {
    const { guestAddress, userAddress } = more.region;
    const part = { guestAddress: guestAddress + i * 4096, size: 4096, userAddress: userAddress + i * 8192 };
    const payload = encodeSingleRegion({ ...part, mmapOffset: i * 4096 });
    await frontEnd.channel.command('ADD_MEM_REG', payload, [more.fd.value]);
  }
  const fuse = new FuseClient(new OwnRing(t, frontEnd, ALSO, more.memory, 50_000));
  for (let i = 0; i < 5; i++) await checkRead(fuse, ALSO, file, i, 100_000);
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.deepEqual(server.log.complaints, []);
});

test('what is written into guest memory is in the dirty log from when it is switched on under load', async (t) => {
  const { server, frontEnd, traffic, file } = await busy(t, { requestQueues: 4 });
  const { memory, channel } = frontEnd;
  const { region } = memory;
  const logSize = Math.ceil((region.guestAddress + region.size) / 4096 / 8);
  using fd = memfd('log', logSize);
  const log = Mapping.map(fd.value, logSize, 0);
  t.after(() => log.unmap());
  const bytes = log.windowAt(log.address).u8.subarray(0, logSize);
  const marked = () => {
    const set: number[] = [];
    for (const [i, byte] of bytes.entries())
      for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) set.push(8 * i + bit);
    bytes.fill(0);
    return set;
  };
  const own = memoryOf(frontEnd, 2 ** 17);
  const fuse = new FuseClient(new OwnRing(t, frontEnd, ALSO, own, 2 ** 16));
  const threadReads = async (): Promise<boolean> => {
    const { reads } = server.counts();
    for (let i = 0; i < 3; i++) await checkRead(fuse, ALSO, file, i, 40_000);
    return server.counts().reads > reads;
  };
  assert.equal((await channel.call('SET_LOG_BASE', encodeLog(logSize, 0), [fd.value])).length, 16);
  assert.ok(await threadReads());
  assert.deepEqual(marked(), []);

  await channel.command('SET_FEATURES', encodeU64(frontEnd.features | Feature.LOG_ALL));
  for (const { index } of frontEnd.queues) await frontEnd.setAddresses(index, true);
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.ok(marked().includes(Math.floor(frontEnd.queues[THREAD]!.driver.used / 4096)));
  assert.equal(await threadReads(), false, 'threads do not log');
  const first = own.guestAddress / 4096;
  // Replies of 40,016 bytes begin 88 bytes behind the first page's start.
  const pages = Array.from({ length: 10 }, (_, i) => first + i);
  const usedPage = Math.floor(frontEnd.queues[ALSO]!.driver.used / 4096);
  const data = marked();
  assert.ok(data.includes(usedPage), 'the used ring is marked');
  assert.deepEqual(
    data.filter((page) => page >= first),
    pages,
  );

  await channel.command('SET_FEATURES', encodeU64(frontEnd.features));
  for (const { index } of frontEnd.queues) await frontEnd.setAddresses(index, false);
  await frontEnd.startQueue(ALSO, await stopQueue(frontEnd, ALSO));
  marked();
  assert.ok(await threadReads(), "started again, the queue is the thread's");
  assert.deepEqual(marked(), []);
  assert.deepEqual(server.log.complaints, []);
});

test('RESET_DEVICE under load ends the session, and the next one is served by the thread too', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  const { channel } = frontEnd;
  await channel.command('RESET_DEVICE', none);
  assert.equal(server.sessions.length, 2);
  assert.equal(
    withPlainNumbers(server.export.nodes).find(
      Number(file.nodeid & 0xffffffffn) | 0,
      Number(file.nodeid >> 32n) | 0,
    ),
    -1,
  );
  const stopped = used(frontEnd, THREAD);
  await pause(20);
  assert.equal(used(frontEnd, THREAD), stopped);
  await channel.command('SET_FEATURES', encodeU64(frontEnd.features));
  for (const { index } of frontEnd.queues) await frontEnd.startQueue(index, used(frontEnd, index));
  // The requests in the ring belong to the old session, and are refused.
  assert.ok((await traffic.end()).length > 0);
  await by(fuse, ENGINE, (one) => one.init());
  const again = await openFile(server, fuse);
  for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, again);
  assert.equal(server.counts().reads, 2);
  assert.deepEqual(server.log.complaints, []);
});

test('status 0 under load stops the rings and keeps the session, as a paused guest needs', async (t) => {
  const { server, frontEnd, traffic } = await busy(t);
  for (let round = 0; round < 5; round++) {
    await frontEnd.channel.command('SET_STATUS', encodeU64(15));
    await frontEnd.channel.command('SET_STATUS', encodeU64(0));
    const stopped = used(frontEnd, THREAD);
    await pause(10);
    assert.equal(used(frontEnd, THREAD), stopped);
    for (const { index } of frontEnd.queues) await frontEnd.startQueue(index, used(frontEnd, index));
    await traffic.goesOn(50);
  }
  assert.deepEqual(await traffic.end(), []);
  assert.equal(server.sessions.length, 1);
  assert.deepEqual(server.log.complaints, []);
});

test('a front-end that goes away under load leaves nothing behind, and the next one is served', async (t) => {
  const { server, frontEnd, traffic } = await busy(t);
  let last = { frontEnd, traffic };
  for (let round = 0; round < 5; round++) {
    last.frontEnd.close();
    for (const reason of await last.traffic.end()) assert.ok(reason instanceof FrontEndError, String(reason));
    // Connects at once, while requests of the former front-end are still in flight.
    const { frontEnd: next, fuse } = await server.connect(t);
    const file = await openFile(server, fuse);
    await by(fuse, THREAD, (one) => one.getattr(file.nodeid));
    const both = [new Traffic(fuse, ENGINE, file, 4), new Traffic(fuse, THREAD, file, 12)];
    for (const one of both) await one.goesOn(50);
    assert.deepEqual(await both[0]!.end(), []);
    assert.ok(server.counts().reads > 0);
    last = { frontEnd: next, traffic: both[1]! };
  }
  last.frontEnd.close();
  await last.traffic.end();
  await until(() => server.server.connections === 0, 'the front-ends are gone');
  assert.equal(server.sessions.length, 6);
  const session = server.sessions.at(-1)!;
  assert.equal(session.inFlight, 0);
  assert.deepEqual(server.log.complaints, []);
});

test('a guest that breaks a ring of a thread stops that queue only, and is told once', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t, { requestQueues: 4 });
  const { memory, queues } = frontEnd;
  const also = new Traffic(fuse, ALSO, file, 4);
  const other = new Traffic(fuse, OTHER, file, 4);
  assert.deepEqual(await traffic.end(), []);
  const { driver, err, kick } = queues[THREAD]!;
  const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
  const at = driver.available - memory.guestAddress(0);
  const index = view.getUint16(at + 2, true);
  assert.equal(index, used(frontEnd, THREAD));
  view.setUint16(at + 4 + 2 * (index & (driver.size - 1)), driver.size, true);
  view.setUint16(at + 2, index + 1, true);
  signal(kick.value);
  await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
  for (const one of [also, other]) await one.goesOn();
  signal(kick.value);
  await frontEnd.enableQueue(THREAD, false);
  await frontEnd.enableQueue(THREAD, true);
  for (const one of [also, other]) await one.goesOn(50);
  assert.notEqual(drain(err.value), 8);
  assert.equal(server.log.complaints.length, 1);
  assert.match(server.log.complaints[0]!, /^warn: queue stopped: the guest sent [^:]+$/);

  // It may go on from where it was, once the front-end has put it right.
  assert.equal(await stopQueue(frontEnd, THREAD), index);
  view.setUint16(at + 2, index, true);
  await frontEnd.startQueue(THREAD, index);
  const { reads } = server.counts();
  await checkRead(fuse, THREAD, file);
  assert.ok(server.counts().reads > reads);
  for (const one of [also, other]) assert.deepEqual(await one.end(), []);
  assert.equal(server.log.complaints.length, 1);
});

test('a ring that breaks while requests are under way is stopped when they have ended', async (t) => {
  const { server, frontEnd, traffic } = await busy(t);
  const { driver, err, kick } = frontEnd.queues[THREAD]!;
  driver.begin();
  driver.readable(0x10, 16);
  driver.submit();
  driver.kick(kick.value);
  await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
  const base = await stopQueue(frontEnd, THREAD);
  assert.equal(used(frontEnd, THREAD), base);
  // Behind the broken chain.
  await frontEnd.startQueue(THREAD, base + 1);
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.deepEqual(server.log.complaints.map(withoutAddresses), [
    'warn: queue stopped: the guest sent a segment outside memory',
  ]);
});

test('requests too short to be understood stop the queue', async (t) => {
  const { server, frontEnd, traffic } = await busy(t, { requestQueues: 4 });
  const ring = new OwnRing(t, frontEnd, ALSO, memoryOf(frontEnd, 4096), 4096);
  const { err } = frontEnd.queues[ALSO]!;
  ring.place(new Uint8Array(20), 100);
  await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
  await traffic.goesOn();
  assert.deepEqual(await traffic.end(), []);
  assert.deepEqual(server.log.complaints, [
    'warn: queue stopped: the guest sent a request that can be neither understood nor answered',
  ]);
  assert.equal(await stopQueue(frontEnd, ALSO), 1);
});

/**
 * Makes a thread end by an error: a message about a queue that it does not have. (`terminate` may
 * end the whole process, if a callback of koffi runs.)
 */
function endThread(server: ThreadedServer): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
  server.workers[0]!.postMessage({ command: 'resume', queue: -1 });
}

test('when a thread ends its queues stop, and go on with the engine when they are started again', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  assert.deepEqual(await traffic.end(), []);
  const { err } = frontEnd.queues[THREAD]!;
  endThread(server);
  await until(() => drain(err.value) === 8, 'the error descriptor is signalled');
  await checkRead(fuse, ENGINE, file);
  const [first, ...others] = server.log.complaints;
  assert.match(first!, /^error: a thread for queues ended; so do its queues/);
  assert.deepEqual(others, ['warn: queue stopped: its thread ended']);
  const { reads } = server.counts();
  const waiting = checkRead(fuse, THREAD, file);
  const base = await stopQueue(frontEnd, THREAD);
  assert.equal(base, used(frontEnd, THREAD));
  await frontEnd.startQueue(THREAD, base);
  await waiting;
  for (let i = 0; i < 10; i++) await checkRead(fuse, THREAD, file);
  assert.equal(server.counts().reads, reads);
  assert.ok(server.session.counters.requests[Op.READ]! > 10);
  const { fuse: second } = await server.connect(t);
  const again = await openFile(server, second);
  for (const queue of [1, 2]) await checkRead(second, queue, again);
  assert.equal(server.log.complaints.length, 2);
});

test('a thread that ended is told nothing: descriptors for it would stay open', async (t) => {
  const { server, frontEnd, traffic } = await busy(t);
  assert.deepEqual(await traffic.end(), []);
  endThread(server);
  await until(() => server.log.complaints.length === 2, 'its queue stopped');
  const { call } = frontEnd.queues[THREAD]!;
  const before = openDescriptors();
  for (let i = 0; i < 3; i++)
    await frontEnd.channel.command('SET_VRING_CALL', encodeU64(THREAD), [call.value]);
  assert.equal(openDescriptors(), before);
});

test('a queue for which there are no descriptors left runs without a thread', async (t) => {
  const { server, frontEnd, traffic, fuse, file } = await busy(t);
  assert.deepEqual(await traffic.end(), []);
  await frontEnd.enableQueue(THREAD, false);
  // A descriptor given anew is taken when the queue starts.
  await frontEnd.channel.command('SET_VRING_KICK', encodeU64(THREAD), [frontEnd.queues[THREAD]!.kick.value]);
  for (const spare of [0, 1]) {
    await withFewDescriptors(spare, () => frontEnd.enableQueue(THREAD, true));
    const { reads } = server.counts();
    for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, file);
    assert.equal(server.counts().reads, reads);
    await frontEnd.enableQueue(THREAD, false);
    await frontEnd.startQueue(THREAD, await stopQueue(frontEnd, THREAD));
    for (let i = 0; i < 3; i++) await checkRead(fuse, THREAD, file);
    assert.ok(server.counts().reads > reads);
    await frontEnd.enableQueue(THREAD, false);
    await frontEnd.channel.command('SET_VRING_KICK', encodeU64(THREAD), [
      frontEnd.queues[THREAD]!.kick.value,
    ]);
  }
  assert.deepEqual(server.log.complaints, []);
});

test('a server that ends leaves no descriptors of its threads behind', async (t) => {
  const open: number[] = [];
  for (let round = 0; round < 5; round++) {
    const { server, frontEnd, traffic } = await busy(t, { threads: 2 });
    await server.close();
    frontEnd.close();
    await traffic.end();
    open.push(openDescriptors());
  }
  assert.deepEqual(open.slice(2), open.slice(1, -1));
});

test('a queue whose chains are tracked for a process that follows is a thread’s, too', async (t) => {
  const server = await ThreadedServer.start(t);
  const { frontEnd, fuse } = await server.connect(t, { inflight: true });
  assert.ok(frontEnd.has('INFLIGHT_SHMFD'));
  const { entry, open } = await by(fuse, 2, (one) => one.create(ROOT, 'file'));
  for (let i = 0; i < 3; i++)
    await by(fuse, 2, (one) => one.write(entry.nodeid, open.fh, i, Buffer.from('x')));
  assert.ok(server.counts().writes > 0);
  // The thread has returned all, and notes so.
  assert.equal(await stopQueue(frontEnd, 2), 4);
});
