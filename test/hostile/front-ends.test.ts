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
  const one = EchoServer.start(t);
  const two = EchoServer.start(t);
  const servers = [one.server, two.server];
  const taken = (): number[] => servers.map(({ connections }) => connections);
  const turns = async (): Promise<void> => {
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
  };
  // Rests last until it is said.
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const crowd = [one, one, one, two, two].map(({ path }) => UnixConnection.connect(path));
  while (taken().includes(0)) await new Promise(setImmediate);
  await turns();
  // The first to be served at all was followed by no rest.
  const first = taken();
  assert.equal(Math.max(...first) <= 2 && first[0]! + first[1]! <= 3, true, String(first));
  const counts = [first];
  for (let rests = 0; rests < 5; rests++) {
    t.mock.timers.tick(5);
    await turns();
    counts.push(taken());
  }
  for (const [step, now] of counts.slice(1).entries())
    for (const [index, count] of now.entries())
      assert.ok(count - counts[step]![index]! <= 1, counts.join(' '));
  assert.deepEqual(taken(), [3, 2]);
  t.mock.timers.reset();
  for (const connection of crowd) connection.close();

  const usual = EchoServer.start(t);
  const guests = await Promise.all([1, 2, 3, 4].map(() => usual.connect(t)));
  for (const guest of guests)
    assert.deepEqual(await guest.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
});
