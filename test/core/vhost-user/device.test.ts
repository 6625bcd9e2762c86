import assert from 'node:assert/strict';
import { openSync, closeSync } from 'node:fs';
import { test } from 'node:test';
import { type FrontEndChannel } from '../../../core/vhost-user/index.js';
import {
  encodeConfig,
  encodeLog,
  encodeMemoryTable,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  Feature,
  HeaderFlags,
  ProtocolFeature,
} from '../../../core/vhost-user/messages.js';
import {
  type Fd,
  drain,
  eventfd,
  Mapping,
  memfd,
  OwnedFd,
  signal,
  watch,
} from '../../../core/system/index.js';
import { HOLD } from '../../support/echo-session.js';
import {
  EchoServer,
  descriptors,
  openedSince,
  until,
  readConfig,
  stopQueue,
} from '../../support/vhost-user.js';
import { listenOnLoopback } from '../../../core/system/descriptors/tcp-listener.js';
import { makePipe, makeSocketPair } from '../../support/migration.js';
import { encodeSingleRegion, encodeStateTransfer } from '../../support/payloads.js';

const none = new Uint8Array(0);
const migration = {
  maxBytes: 1,
  save: () => Promise.resolve(none),
  load: () => Promise.reject(new Error('nothing to load')),
};
const u64 = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
const everyFeature =
  Feature.VERSION_1 |
  Feature.RING_INDIRECT_DESC |
  Feature.RING_EVENT_IDX |
  Feature.PROTOCOL_FEATURES |
  Feature.LOG_ALL;

/** Negotiates every protocol feature, so that refusals are acknowledged. */
async function negotiate(channel: FrontEndChannel): Promise<void> {
  const offered = u64(await channel.call('GET_PROTOCOL_FEATURES', none));
  channel.send('SET_PROTOCOL_FEATURES', encodeU64(offered));
  channel.acknowledged = true;
  await channel.command('SET_FEATURES', encodeU64(everyFeature));
}

test('the device offers exactly the features that it has', async (t) => {
  const echo = EchoServer.start(t);
  const channel = echo.channel(t);
  channel.send('SET_OWNER', none);
  assert.equal(u64(await channel.call('GET_FEATURES', none)), everyFeature);
  const {
    MQ,
    LOG_SHMFD,
    REPLY_ACK,
    BACKEND_REQ,
    CONFIG,
    RESET_DEVICE,
    CONFIGURE_MEM_SLOTS,
    STATUS,
    INFLIGHT_SHMFD,
  } = ProtocolFeature;
  assert.equal(
    u64(await channel.call('GET_PROTOCOL_FEATURES', none)),
    MQ |
      LOG_SHMFD |
      REPLY_ACK |
      BACKEND_REQ |
      CONFIG |
      INFLIGHT_SHMFD |
      RESET_DEVICE |
      CONFIGURE_MEM_SLOTS |
      STATUS,
  );
  assert.equal(u64(await channel.call('GET_QUEUE_NUM', none)), 3n);
  await negotiate(channel);
  assert.equal(u64(await channel.call('GET_MAX_MEM_SLOTS', none)), 509n);
});

test('the configuration is offered to front-ends that say SET_OWNER first, as QEMU does not', async (t) => {
  const echo = EchoServer.start(t);
  const asQemu = u64(await echo.channel(t).call('GET_PROTOCOL_FEATURES', none));
  const other = echo.channel(t);
  other.send('SET_OWNER', none);
  assert.equal(u64(await other.call('GET_PROTOCOL_FEATURES', none)), asQemu | ProtocolFeature.CONFIG);
  assert.equal(asQemu & ProtocolFeature.CONFIG, 0n);
});

test('the log says which guests cannot be moved, since their front-end refuses by itself', async (t) => {
  const line = 'info: no live migration of this guest: its front-end knows no DEVICE_STATE';
  for (const [taken, lines] of [
    [0n, [line]],
    [ProtocolFeature.DEVICE_STATE, []],
  ] as const) {
    const echo = EchoServer.start(t, { migration });
    const channel = echo.channel(t);
    const offered = u64(await channel.call('GET_PROTOCOL_FEATURES', none));
    assert.notEqual(offered & ProtocolFeature.DEVICE_STATE, 0n);
    channel.send('SET_PROTOCOL_FEATURES', encodeU64((offered & ~ProtocolFeature.DEVICE_STATE) | taken));
    await channel.call('GET_FEATURES', none);
    assert.deepEqual(
      echo.log.lines.filter((one) => one.includes('migration')),
      lines,
    );
  }
});

test('a state goes by a pipe or a unix stream socket, and by nothing else', async (t) => {
  const echo = EchoServer.start(t, { migration });
  const channel = echo.channel(t);
  await negotiate(channel);
  const taken = async (fd: Fd): Promise<boolean> => {
    const reply = await channel.call('SET_DEVICE_STATE_FD', encodeStateTransfer('save'), [fd]);
    return reply[0] === 0;
  };
  const others = [
    listenOnLoopback('127.0.0.1', 0),
    memfd('state', 4096),
    eventfd(),
    new OwnedFd(openSync('/dev/zero', 'r+') as Fd),
  ];
  for (const fd of others) {
    assert.equal(await taken(fd.value), false);
    fd.close();
  }
  assert.equal(echo.log.complaints.length, others.length);
  assert.match(echo.log.complaints[0]!, /neither a pipe nor a unix stream socket/);
  for (const { reading, writing } of [makePipe(), makeSocketPair()]) {
    assert.equal(await taken(writing.value), true);
    assert.deepEqual([...(await channel.call('CHECK_DEVICE_STATE', none))], Array(8).fill(0));
    reading.close();
    writing.close();
  }
});

test('features that were not offered are refused', async (t) => {
  const channel = EchoServer.start(t).channel(t);
  await negotiate(channel);
  await assert.rejects(
    channel.command('SET_FEATURES', encodeU64(everyFeature | (1n << 34n))),
    /refused SET_FEATURES/,
  );
  await assert.rejects(channel.command('SET_PROTOCOL_FEATURES', encodeU64(1n << 14n)), /refused/);
  await channel.command('SET_OWNER', none);
});

test('the configuration is read in growing sizes, as User-Mode Linux does, and in parts', async (t) => {
  const frontEnd = await EchoServer.start(t).connect(t);
  const whole = await readConfig(frontEnd, 0, 40);
  assert.equal(Buffer.from(whole).subarray(0, 5).toString(), 'echo\0');
  assert.deepEqual([...whole.subarray(36)], [2, 0, 0, 0]);
  for (let size = 1; size <= 40; size++)
    assert.deepEqual(await readConfig(frontEnd, 0, size), whole.slice(0, size));
  assert.deepEqual(await readConfig(frontEnd, 36, 4), whole.slice(36));
  assert.equal((await readConfig(frontEnd, 0, 41)).length, 0);
  await assert.rejects(
    frontEnd.channel.command('SET_CONFIG', encodeConfig(0, 0, none)),
    /refused SET_CONFIG/,
  );
  await assert.rejects(
    frontEnd.channel.command('SET_CONFIG', encodeConfig(0, 1, Uint8Array.of(1))),
    /refused/,
  );
});

for (const options of [
  {},
  { eventIdx: false },
  { indirect: 8 },
  { indirect: 8, eventIdx: false, queueSize: 1024 },
  { memorySlots: true, queueSize: 4 },
]) {
  test(`requests on every queue are answered with ${JSON.stringify(options)}`, async (t) => {
    const echo = EchoServer.start(t);
    const frontEnd = await echo.connect(t, options);
    const requests = Array.from({ length: 300 }, async (_, i) => {
      const parts = [Uint8Array.of(i % 200, i >> 8), new Uint8Array(i * 7).fill(i)];
      const reply = await frontEnd.request(i % 3, parts, [3, 5000]);
      assert.deepEqual(Buffer.from(reply), Buffer.concat(parts));
    });
    await Promise.all(requests);
    assert.deepEqual(echo.log.complaints, []);
  });
}

test('a memory table in 72 bytes with one region, as User-Mode Linux sends it, is used', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const payload = new Uint8Array(72);
  payload.set(encodeMemoryTable([frontEnd.memory.region]));
  await frontEnd.channel.command('SET_MEM_TABLE', payload, [frontEnd.memory.fd]);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1, 2)], [2]), Uint8Array.of(1, 2));
});

test('the same memory table again disturbs no request in flight', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const reply = frontEnd.request(1, [Uint8Array.of(HOLD, 1)], [2]);
  await until(() => echo.session.held.length === 1, 'the request is held');
  const { region, fd } = frontEnd.memory;
  using more = memfd('more', 65536);
  const other = { guestAddress: 2 ** 40, size: 65536, userAddress: 2 ** 41, mmapOffset: 0 };
  await frontEnd.channel.command('SET_MEM_TABLE', encodeMemoryTable([region, other]), [fd, more.value]);
  assert.equal(echo.session.held.length, 1);
  echo.session.release();
  assert.deepEqual(await reply, Uint8Array.of(HOLD, 1));
});

test('memory goes away only when the requests in it have ended, and the queues go on', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const held = frontEnd.request(1, [Uint8Array.of(HOLD, 1)], [2]);
  await until(() => echo.session.held.length === 1, 'the request is held');
  // The same memory by another descriptor of another size: the old mapping has to go.
  const region = { ...frontEnd.memory.region, size: frontEnd.memory.region.size - 4096 };
  await frontEnd.channel.command('SET_MEM_TABLE', encodeMemoryTable([region]), [frontEnd.memory.fd]);
  assert.deepEqual(await held, Uint8Array.of(HOLD, 1));
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(7)], [1]), Uint8Array.of(7));
  assert.deepEqual(echo.log.complaints, []);
});

test('a region can be added and removed; removing an unknown one is refused', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t, { memorySlots: true });
  using more = memfd('more', 65536);
  const region = { guestAddress: 0x1000, size: 4096, userAddress: 0x2000, mmapOffset: 8192 };
  const { channel } = frontEnd;
  const before = descriptors();
  await channel.command('ADD_MEM_REG', encodeSingleRegion(region), [more.value]);
  await assert.rejects(channel.command('ADD_MEM_REG', encodeSingleRegion(region), [more.value]), /refused/);
  // "The mmap offset is ignored", and a descriptor that comes along is closed.
  await channel.command('REM_MEM_REG', encodeSingleRegion({ ...region, mmapOffset: 0 }), [more.value]);
  await assert.rejects(channel.command('REM_MEM_REG', encodeSingleRegion(region)), /refused REM_MEM_REG/);
  assert.deepEqual(openedSince(before), []);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(7)], [1]), Uint8Array.of(7));
  assert.equal(echo.log.complaints.length, 2);
});

test('a region that reaches beyond its file is refused, and the old memory stays', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const { region, fd } = frontEnd.memory;
  const beyond = { ...region, size: region.size + 1 };
  await assert.rejects(
    frontEnd.channel.command('SET_MEM_TABLE', encodeMemoryTable([beyond]), [fd]),
    /refused/,
  );
  assert.match(echo.log.complaints[0]!, /SET_MEM_TABLE: cannot map \d+ bytes at offset 0: the file ends at/);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(7)], [1]), Uint8Array.of(7));
});

test('GET_VRING_BASE waits for the requests in flight, and the queue goes on from there', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  for (let i = 0; i < 3; i++) await frontEnd.request(1, [Uint8Array.of(i)], [1]);
  const held = frontEnd.request(1, [Uint8Array.of(HOLD)], [1]);
  await until(() => echo.session.held.length === 1, 'the request is held');
  const order: string[] = [];
  void held.then(() => order.push('reply'));
  const base = await stopQueue(frontEnd, 1);
  assert.equal(base, 4);
  await until(() => order.length === 1, 'the held request was answered before the queue stopped');
  const next = frontEnd.request(1, [Uint8Array.of(9)], [1]);
  await frontEnd.request(2, [Uint8Array.of(8)], [1]);
  assert.equal(echo.session.served, 5);
  await frontEnd.startQueue(1, base);
  assert.deepEqual(await next, Uint8Array.of(9));
});

test('a stop gives up on requests that never end, and their late answers go nowhere', async (t) => {
  const echo = EchoServer.start(t, { drainTimeoutMs: 50 });
  const frontEnd = await echo.connect(t);
  echo.session.stuck = true;
  void frontEnd.request(1, [Uint8Array.of(HOLD)], [1]).catch(() => undefined);
  await until(() => echo.session.held.length === 1, 'the request is held');
  assert.equal(await stopQueue(frontEnd, 1), 1);
  assert.match(echo.log.complaints[0]!, /requests in flight did not end in time/);
  echo.session.release();
  assert.equal(frontEnd.queues[1]!.driver.ready, false);
});

test('a disabled ring waits, and goes on when it is enabled', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await frontEnd.enableQueue(1, false);
  const reply = frontEnd.request(1, [Uint8Array.of(1)], [1]);
  await frontEnd.request(2, [Uint8Array.of(2)], [1]);
  assert.equal(echo.session.served, 1);
  await frontEnd.enableQueue(1, true);
  assert.deepEqual(await reply, Uint8Array.of(1));
  await frontEnd.channel.command('RESET_OWNER', none);
  void frontEnd.request(1, [Uint8Array.of(3)], [1]).catch(() => undefined);
  await frontEnd.channel.command('SET_OWNER', none);
  assert.equal(echo.session.served, 2);
});

test('the kick descriptor of a disabled ring can be replaced', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await frontEnd.enableQueue(1, false);
  using kick = eventfd();
  await frontEnd.channel.command('SET_VRING_KICK', encodeU64(1), [kick.value]);
  await frontEnd.enableQueue(1, true);
  await frontEnd.channel.command('SET_OWNER', none);
  const reply = frontEnd.request(1, [Uint8Array.of(1)], [1]);
  signal(kick.value);
  assert.deepEqual(await reply, Uint8Array.of(1));
});

test('without PROTOCOL_FEATURES the rings are enabled from the start', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await frontEnd.enableQueue(1, false);
  await frontEnd.channel.command('SET_FEATURES', encodeU64(Feature.VERSION_1 | Feature.RING_EVENT_IDX));
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
});

test('a ring without kick and call descriptors is polled', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await frontEnd.channel.command('SET_VRING_KICK', encodeU64(0x101));
  await frontEnd.channel.command('SET_VRING_CALL', encodeU64(0x101));
  const { driver } = frontEnd.queues[1]!;
  const at = frontEnd.memory.allocate(4096);
  frontEnd.memory.bytes.set([5, 6], at);
  driver.begin();
  driver.readable(frontEnd.memory.guestAddress(at), 2);
  driver.writable(frontEnd.memory.guestAddress(at) + 2048, 2);
  driver.submit();
  driver.publish();
  await until(() => driver.ready, 'the request was served');
  assert.deepEqual([...frontEnd.memory.bytes.subarray(at + 2048, at + 2050)], [5, 6]);
});

test('RESET_DEVICE begins a new session and leaves the memory', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await frontEnd.request(1, [Uint8Array.of(1)], [1]);
  await frontEnd.channel.command('RESET_DEVICE', none);
  assert.equal(echo.sessions.length, 2);
  assert.equal(echo.sessions[0]!.closed, true);
  await frontEnd.channel.command('SET_FEATURES', encodeU64(frontEnd.features));
  await frontEnd.startQueue(1, 1);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
  assert.equal(echo.session.served, 1);
});

test('RESET_DEVICE keeps the session where that is asked for, for a driver that goes on', async (t) => {
  const echo = EchoServer.start(t, { keepsSession: true });
  const frontEnd = await echo.connect(t);
  await frontEnd.request(1, [Uint8Array.of(1)], [1]);
  await frontEnd.channel.command('RESET_DEVICE', none);
  await frontEnd.channel.command('SET_FEATURES', encodeU64(frontEnd.features));
  await frontEnd.startQueue(1, 1);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
  assert.equal(echo.sessions.length, 1);
  assert.equal(echo.session.served, 2);
});

test('status 0 stops the rings and keeps the session, as a paused guest needs', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const { channel } = frontEnd;
  await channel.command('SET_STATUS', encodeU64(15));
  assert.equal(u64(await channel.call('GET_STATUS', none)), 15n);
  await frontEnd.request(1, [Uint8Array.of(1)], [1]);
  await channel.command('SET_STATUS', encodeU64(0));
  assert.equal(u64(await channel.call('GET_STATUS', none)), 0n);
  const reply = frontEnd.request(1, [Uint8Array.of(2)], [1]);
  await channel.command('SET_OWNER', none);
  assert.equal(echo.session.served, 1);
  await frontEnd.startQueue(1, 1);
  assert.deepEqual(await reply, Uint8Array.of(2));
  assert.equal(echo.sessions.length, 1);
});

test('call and error descriptors outlive a stop and a reset: QEMU does not send them again', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const { channel } = frontEnd;
  const queue = frontEnd.queues[1]!;
  const again = async () => {
    await channel.command('SET_VRING_NUM', encodeVringState(1, queue.driver.size));
    await channel.command('SET_VRING_BASE', encodeVringState(1, 0));
    await frontEnd.setAddresses(1);
    await channel.command('SET_VRING_KICK', encodeU64(1), [queue.kick.value]);
    await frontEnd.enableQueue(1, true);
  };
  assert.equal(await stopQueue(frontEnd, 1), 0);
  await again();
  await channel.command('SET_STATUS', encodeU64(0));
  await again();
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  queue.driver.begin();
  queue.driver.readable(0x10, 16);
  queue.driver.submit();
  queue.driver.kick(queue.kick.value);
  await until(() => drain(queue.err.value) === 8, 'the error descriptor is signalled');
});

test('what is written into guest memory is marked in the dirty log, and only while it is switched on', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const { memory, channel } = frontEnd;
  const { region } = memory;
  const logSize = Math.ceil((region.guestAddress + region.size) / 4096 / 8);
  using fd = memfd('log', logSize + 4096);
  const log = Mapping.map(fd.value, logSize, 4096);
  t.after(() => log.unmap());
  const bytes = log.windowAt(log.address).u8.subarray(log.address - log.windowAt(log.address).start);
  const marked = () => {
    const set: number[] = [];
    for (const [i, byte] of bytes.subarray(0, logSize).entries()) {
      for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) set.push(8 * i + bit);
    }
    bytes.fill(0);
    return set;
  };
  assert.equal((await channel.call('SET_LOG_BASE', encodeLog(logSize, 4096), [fd.value])).length, 16);
  await frontEnd.request(1, [new Uint8Array(9000)], [9000]);
  assert.deepEqual(marked(), []);

  await channel.command('SET_FEATURES', encodeU64(frontEnd.features | Feature.LOG_ALL));
  for (const { index } of frontEnd.queues) await frontEnd.setAddresses(index, true);
  await frontEnd.request(1, [new Uint8Array(9000)], [9000, 20000]);
  const usedPage = Math.floor(frontEnd.queues[1]!.driver.used / 4096);
  const data = marked();
  assert.ok(data.includes(usedPage), 'the used ring is marked');
  // 9,000 bytes of reply begin 9,000 bytes into the request's memory, which is where the first free
  // page was.
  const first = data.find((page) => page !== usedPage)!;
  assert.deepEqual(
    data.filter((page) => page > usedPage),
    [first, first + 1, first + 2],
  );

  await channel.command('SET_FEATURES', encodeU64(frontEnd.features));
  for (const { index } of frontEnd.queues) await frontEnd.setAddresses(index, false);
  await frontEnd.request(1, [new Uint8Array(9000)], [9000]);
  assert.deepEqual(marked(), []);
});

test('a guest that breaks the rules of the ring stops its queue only, and the front-end is told', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const queue = frontEnd.queues[1]!;
  queue.driver.begin();
  queue.driver.readable(0x10, 16);
  queue.driver.submit();
  const told = new Promise<void>((resolve) => {
    const watching = watch(queue.err.value, () => {
      drain(queue.err.value);
      watching.close();
      resolve();
    });
  });
  queue.driver.kick(queue.kick.value);
  await told;
  assert.match(echo.log.complaints[0]!, /queue stopped: the guest sent a segment outside memory/);
  assert.deepEqual(await frontEnd.request(2, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
  await frontEnd.enableQueue(1, false);
  await frontEnd.enableQueue(1, true);
  assert.equal(await stopQueue(frontEnd, 1), 0);
});

test('a queue that does not exist, or that is changed while it runs, is refused', async (t) => {
  const echo = EchoServer.start(t);
  const { channel, queues } = await echo.connect(t);
  await assert.rejects(channel.command('SET_VRING_NUM', encodeVringState(3, 128)), /refused/);
  await assert.rejects(channel.command('SET_VRING_NUM', encodeVringState(1, 256)), /refused/);
  await assert.rejects(channel.command('SET_VRING_NUM', encodeVringState(1, 32768)), /refused/);
  await assert.rejects(channel.command('SET_VRING_BASE', encodeVringState(1, 5)), /refused/);
  await assert.rejects(channel.command('SET_VRING_ADDR', encodeVringAddresses(1, 0, 0, 0)), /refused/);
  assert.ok(queues.length === 3);
  assert.deepEqual(echo.log.complaints, [
    'warn: a message of the front-end was refused | SET_VRING_NUM: there is no queue 3, only 3',
    'warn: a message of the front-end was refused | SET_VRING_NUM: queue 1: the queue is running',
    'warn: a message of the front-end was refused | SET_VRING_NUM: queue 1: queue size 32768: not a power of two up to 1024',
    'warn: a message of the front-end was refused | SET_VRING_BASE: queue 1: the queue is running',
    'warn: a message of the front-end was refused | SET_VRING_ADDR: queue 1: the queue is running',
  ]);
});

test('a ring outside the shared memory is refused when it would start', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  const { channel } = frontEnd;
  await stopQueue(frontEnd, 1);
  await channel.command('SET_VRING_ADDR', encodeVringAddresses(1, 0x1000, 0x2000, 0x3000));
  await assert.rejects(
    channel.command('SET_VRING_KICK', encodeU64(1), [frontEnd.queues[1]!.kick.value]),
    /refused/,
  );
  assert.match(
    echo.log.complaints[0]!,
    /SET_VRING_KICK: queue 1: the ring's descriptors are not in shared memory/,
  );
});

test('a kick descriptor that cannot be polled is refused', async (t) => {
  const echo = EchoServer.start(t);
  const { channel } = await echo.connect(t);
  const file = openSync('/proc/self/exe', 'r') as Fd;
  t.after(() => closeSync(file));
  await assert.rejects(channel.command('SET_VRING_KICK', encodeU64(1), [file]), /refused SET_VRING_KICK/);
});

test('messages of other devices and later protocols are refused by name', async (t) => {
  const echo = EchoServer.start(t);
  const channel = echo.channel(t);
  await negotiate(channel);
  for (const name of ['SEND_RARP', 'IOTLB_MSG', 'POSTCOPY_ADVISE', 'GET_SHMEM_CONFIG'] as const) {
    await assert.rejects(channel.command(name, none), new RegExp(`refused ${name}`));
    assert.match(echo.log.complaints.at(-1)!, new RegExp(`${name}: not supported`));
  }
  await channel.command('SET_OWNER', none);
});

test('descriptors that nobody asked for are closed, and those of a connection go with it', async (t) => {
  const echo = EchoServer.start(t);
  const before = descriptors();
  using fd = eventfd();
  const channel = echo.channel(t);
  await negotiate(channel);
  const connected = descriptors();
  const eight = Array.from({ length: 8 }, () => fd.value);
  await assert.rejects(channel.command('SET_OWNER', none, eight), /refused/);
  await assert.rejects(channel.command('SET_VRING_NUM', encodeVringState(7, 1), [fd.value]), /refused/);
  await assert.rejects(channel.command('SET_VRING_KICK', encodeU64(7), [fd.value]), /refused/);
  assert.deepEqual(openedSince(connected), []);
  await channel.command('SET_BACKEND_REQ_FD', none, [fd.value]);
  await channel.command('SET_BACKEND_REQ_FD', none, [fd.value]);
  await channel.command('SET_LOG_FD', none, [fd.value]);
  await channel.command('SET_VRING_ERR', encodeU64(0), [fd.value]);
  await channel.command('SET_VRING_CALL', encodeU64(0), [fd.value]);
  assert.equal(openedSince(connected).length, 4);
  channel.send('SET_OWNER', none, [...eight, fd.value]);
  await until(() => echo.server.connections === 0, 'the connection was closed');
  assert.match(echo.log.complaints.at(-1)!, /9 file descriptors with one message, more than 8/);
  fd.close();
  // The client's end is closed when it is told.
  await until(() => openedSince(before).length === 0, 'all descriptors are closed');
});

test('a message that cannot be answered with an error ends the connection', async (t) => {
  const echo = EchoServer.start(t);
  const channel = echo.channel(t);
  channel.send('SET_VRING_NUM', encodeVringState(0, 3));
  await assert.rejects(channel.call('GET_FEATURES', none), /closed the connection/);
  const other = echo.channel(t);
  await negotiate(other);
  await assert.rejects(other.call('GET_VRING_BASE', encodeVringState(9, 0)), /closed the connection/);
  assert.deepEqual(echo.log.complaints, [
    'warn: the connection to the front-end was closed | SET_VRING_NUM: ring size 3 is not a power of 2 from 1 to 32768',
    'warn: the connection to the front-end was closed | GET_VRING_BASE: there is no queue 9, only 3',
  ]);
});

test('a front-end that is refused a hundred times is let go', async (t) => {
  const echo = EchoServer.start(t);
  const channel = echo.channel(t);
  await negotiate(channel);
  for (let i = 0; i < 100; i++) await assert.rejects(channel.command('SEND_RARP', none), /refused/);
  await assert.rejects(channel.command('SEND_RARP', none), /closed the connection/);
});

test('NEED_REPLY means nothing until REPLY_ACK is negotiated', async (t) => {
  const channel = EchoServer.start(t).channel(t);
  channel.send('SET_OWNER', none, [], HeaderFlags.NEED_REPLY);
  assert.equal(u64(await channel.call('GET_FEATURES', none)), everyFeature);
});
