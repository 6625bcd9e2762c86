import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FrontEndError, type FrontEndChannel } from '../../../core/vhost-user/index.js';
import {
  decodeInflight,
  encodeInflight,
  encodeU64,
  Feature,
  type Inflight,
  ProtocolFeature,
} from '../../../core/vhost-user/messages.js';
import { type Fd, memfd, Seal } from '../../../core/system/index.js';
import { EchoServer, until, stopQueue } from '../../support/vhost-user.js';

const GIVEN = { size: 0, offset: 0, queues: 3, queueSize: 64 };
/** What three queues of 64 entries need. */
const BYTES = 3 * 1088;

async function negotiate(channel: FrontEndChannel): Promise<void> {
  const features = ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ;
  channel.send('SET_PROTOCOL_FEATURES', encodeU64(features));
  channel.acknowledged = true;
  await channel.command('SET_FEATURES', encodeU64(Feature.VERSION_1 | Feature.PROTOCOL_FEATURES));
}

async function ask(channel: FrontEndChannel, wanted: Inflight) {
  const { payload, fds } = await channel.exchange('GET_INFLIGHT_FD', encodeInflight(wanted));
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  return { inflight: decodeInflight('reply', view), fd: fds[0] };
}

test('a region is made as large as the queues need, and taken back', async (t) => {
  const channel = EchoServer.start(t).channel(t);
  await negotiate(channel);
  const { inflight, fd } = await ask(channel, GIVEN);
  assert.deepEqual(inflight, { ...GIVEN, size: BYTES });
  using region = fd!;
  await channel.command('SET_INFLIGHT_FD', encodeInflight(inflight), [region.value]);
});

test('a geometry that the device does not have gets no region, and the connection lives', async (t) => {
  const echo = EchoServer.start(t);
  const channel = echo.channel(t);
  await negotiate(channel);
  for (const odd of [
    { queues: 4 },
    { queues: 0 },
    { queueSize: 0 },
    { queueSize: 32769 },
    { queues: 65535, queueSize: 65535 },
  ]) {
    const { inflight, fd } = await ask(channel, { ...GIVEN, ...odd });
    assert.equal(fd, undefined);
    assert.equal(inflight.size, 0);
  }
  assert.equal(echo.log.complaints.length, 5);
});

test('a hostile region is refused cleanly', async (t) => {
  const channel = EchoServer.start(t).channel(t);
  await negotiate(channel);
  const set = (given: Partial<Inflight>, fd: Fd) =>
    channel.command('SET_INFLIGHT_FD', encodeInflight({ ...GIVEN, size: BYTES, ...given }), [fd]);
  using sealed = memfd('sealed', 2 * 4096, Seal.SHRINK | Seal.GROW | Seal.SEAL);
  using open = memfd('open', 2 * 4096);
  using short = memfd('short', 16);
  for (const fd of [sealed.value, open.value]) {
    await set({}, fd);
    await set({ offset: 4096 }, fd);
    await assert.rejects(set({ queues: 4 }, fd), FrontEndError);
    await assert.rejects(set({ queues: 0 }, fd), FrontEndError);
    await assert.rejects(set({ queueSize: 0 }, fd), FrontEndError);
    await assert.rejects(set({ queueSize: 65535 }, fd), FrontEndError);
    await assert.rejects(set({ size: BYTES - 1 }, fd), FrontEndError);
    await assert.rejects(set({ offset: 2 * 4096 }, fd), FrontEndError);
    await assert.rejects(set({ offset: 4 }, fd), FrontEndError);
    await assert.rejects(set({ size: 2 ** 52 - 1, offset: 2 ** 52 }, fd), FrontEndError);
  }
  await assert.rejects(set({}, short.value), FrontEndError);
  await assert.rejects(set({ size: 2 ** 40 }, short.value), FrontEndError);
  await assert.rejects(set({}, 0 as Fd), FrontEndError);
});

test('a region for smaller rings is refused when the queue starts, and one while queues run', async (t) => {
  const frontEnd = await EchoServer.start(t).connect(t, { queueSize: 64, inflight: true });
  using region = memfd('region', 4096);
  const small = encodeInflight({ ...GIVEN, queueSize: 4, size: 4096 });
  await assert.rejects(frontEnd.channel.command('SET_INFLIGHT_FD', small, [region.value]), FrontEndError);
  for (const index of [0, 1, 2]) await stopQueue(frontEnd, index);
  await frontEnd.channel.command('SET_INFLIGHT_FD', small, [region.value]);
  await assert.rejects(frontEnd.startQueue(1), FrontEndError);
});

test('a front-end that keeps a region works, also over stops and resets', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t, { inflight: true, queueSize: 8 });
  assert.ok(frontEnd.has('INFLIGHT_SHMFD'));
  const request = (byte: number) => frontEnd.request(1, [Uint8Array.of(byte)], [1]);
  for (let i = 0; i < 50; i++) assert.deepEqual(await request(i), Uint8Array.of(i));
  const base = await stopQueue(frontEnd, 1);
  await frontEnd.startQueue(1, base);
  for (let i = 0; i < 50; i++) assert.deepEqual(await request(i), Uint8Array.of(i));
  assert.deepEqual(echo.log.complaints, []);
});

test('a front-end whose daemon stops in order goes on with the next one', async (t) => {
  const first = EchoServer.start(t);
  const frontEnd = await first.connect(t, { inflight: true, queueSize: 4 });
  await frontEnd.request(1, [Uint8Array.of(1)], [1]);
  await first.server.close();
  await frontEnd.ended;
  const reply = frontEnd.request(1, [Uint8Array.of(2)], [1]);
  const second = EchoServer.start(t);
  await frontEnd.reconnect(second.path);
  assert.deepEqual(await reply, Uint8Array.of(2));
  await until(() => second.session.served === 1, 'one request was served');
});
