import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnixConnection } from '../../core/system/index.js';
import { EchoServer, until } from '../support/vhost-user.js';

test('front-ends that send nothing are turned away, and others get their place', async (t) => {
  const echo = EchoServer.start(t, { maxConnections: 4, silenceMs: 200 });
  const good = await echo.connect(t);
  const silent = Array.from({ length: 3 }, () => UnixConnection.connect(echo.path));
  await until(() => echo.server.connections === 4, 'all are there');
  await until(() => echo.server.connections === 1, 'those that say nothing are gone');
  const another = await echo.connect(t);
  assert.deepEqual(await another.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  assert.deepEqual(await good.request(1, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
  for (const connection of silent) connection.close();
});

test('front-ends that share no memory make room for those that do', async (t) => {
  const echo = EchoServer.start(t, { maxConnections: 3, idleMs: 200 });
  const good = await echo.connect(t);
  const idle = [echo.channel(t), echo.channel(t)];
  for (const channel of idle) await channel.call('GET_FEATURES', new Uint8Array(0));
  await until(() => echo.server.connections === 3, 'all are there');
  await assert.rejects(echo.connect(t), /closed the connection/);
  await sleep(250);
  const another = await echo.connect(t);
  assert.deepEqual(await another.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  assert.deepEqual(await good.request(1, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
});

test('front-ends are taken one after the other, with a rest between, while others are served', async (t) => {
  const one = EchoServer.start(t, { restMs: 60_000 });
  const two = EchoServer.start(t, { restMs: 60_000 });
  const crowd = [one, one, one, two, two].map(({ path }) => UnixConnection.connect(path));
  await until(() => one.server.connections > 0 && two.server.connections > 0, 'some are there');
  for (let turn = 0; turn < 100; turn++) await sleep(1);
  const taken = one.server.connections + two.server.connections;
  // The first to be served at all was followed by no rest.
  assert.ok(taken === 2 || taken === 3, String(taken));
  for (const connection of crowd) connection.close();

  const usual = EchoServer.start(t);
  const guests = await Promise.all([1, 2, 3, 4].map(() => usual.connect(t)));
  for (const guest of guests)
    assert.deepEqual(await guest.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
});
