import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { FrontEndChannel, ListenError } from '../../../core/vhost-user/index.js';
import { encodeMessage, Request } from '../../../core/vhost-user/messages.js';
import { check, eventfd, libc, result, UnixConnection, UnixListener } from '../../../core/system/index.js';
import { withFewDescriptors } from '../../support/descriptor-limit.js';
import { EchoServer, openDescriptors, temporaryFolder, until } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';

const duplicate = libc<(fd: number) => number>('dup', 'int', ['int']);
const none = new Uint8Array(0);

/** A duplicate of a descriptor, in the place of one that was inherited. */
function inherited(fd: number): number {
  return check(result(duplicate(fd)), 'dup');
}

test('front-ends come and go, several at a time, each with a session of its own', async (t) => {
  const echo = EchoServer.start(t);
  const first = await echo.connect(t);
  const second = await echo.connect(t, { requestQueues: 1, indirect: 4 });
  assert.equal(echo.server.connections, 2);
  assert.deepEqual(await first.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  assert.deepEqual(await second.request(1, [Uint8Array.of(2)], [1]), Uint8Array.of(2));
  assert.deepEqual(
    echo.sessions.map((session) => session.served),
    [1, 1],
  );
  first.close();
  await until(() => echo.server.connections === 1, 'the first one is gone');
  assert.deepEqual(
    echo.sessions.map((session) => session.closed),
    [true, false],
  );
  const third = await echo.connect(t);
  assert.deepEqual(await third.request(2, [Uint8Array.of(3)], [1]), Uint8Array.of(3));
  assert.deepEqual(await second.request(1, [Uint8Array.of(4)], [1]), Uint8Array.of(4));
});

test('a hundred connections leave no descriptor and no memory mapped', async (t) => {
  const echo = EchoServer.start(t);
  const once = async () => {
    const frontEnd = await FrontEnd.connect(echo.path, { memory: 2 ** 16 });
    await frontEnd.request(1, [Uint8Array.of(1)], [1]);
    frontEnd.close();
    await until(() => echo.server.connections === 0, 'the front-end is gone');
  };
  await once();
  const before = openDescriptors();
  for (let i = 0; i < 100; i++) await once();
  assert.equal(openDescriptors(), before);
});

test('more front-ends than allowed are turned away with a line in the log', async (t) => {
  const echo = EchoServer.start(t, { maxConnections: 1 });
  const frontEnd = await echo.connect(t);
  await assert.rejects(echo.connect(t), /closed the connection/);
  assert.match(echo.log.complaints[0]!, /turned away: too many connections/);
  frontEnd.close();
  await until(() => echo.server.connections === 0, 'there is room again');
  await echo.connect(t);
});

test('a front-end is served no further when its session cannot be opened', async (t) => {
  let refuse = true;
  const echo: EchoServer = EchoServer.start(t, {
    openSession: () => {
      if (refuse) throw new Error('no room for a session');
      return {
        dispatch: (message) => message.complete(0),
        submit: () => {},
        drain: async () => {},
        quiesce: async () => 0,
        settle: async () => {},
        withdraw: () => {},
        close: async () => {},
      };
    },
  });
  await assert.rejects(echo.connect(t), /closed the connection/);
  assert.match(echo.log.complaints[0]!, /cannot serve a front-end.*no room for a session/s);
  refuse = false;
  const frontEnd = await echo.connect(t);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), none);
});

test('the server ends with its last front-end where it was asked to, and removes its socket', async (t) => {
  const echo = EchoServer.start(t, { once: true });
  (await echo.connect(t)).close();
  await echo.server.ended;
  assert.equal(existsSync(echo.path), false);
});

test('closing the server ends its connections and removes its socket', async (t) => {
  const echo = EchoServer.start(t);
  const frontEnd = await echo.connect(t);
  await Promise.all([echo.server.close(), echo.server.close()]);
  await echo.server.ended;
  assert.match((await frontEnd.ended).message, /closed the connection/);
  await assert.rejects(frontEnd.request(1, [none], []), /closed the connection/);
  assert.equal(existsSync(echo.path), false);
  assert.equal(echo.session.closed, true);
});

test('requests under way are rejected when the daemon goes away', async (t) => {
  const echo = EchoServer.start(t, { drainTimeoutMs: 10 });
  const frontEnd = await echo.connect(t);
  echo.session.stuck = true;
  const replies = Promise.allSettled(
    Array.from({ length: 500 }, () => frontEnd.request(1, [Uint8Array.of(0xff)], [1])),
  );
  await until(() => echo.session.held.length > 0, 'requests are held');
  await echo.server.close();
  for (const reply of await replies) assert.equal(reply.status, 'rejected');
});

test('a socket file left behind by a daemon that was killed is replaced', async (t) => {
  const path = join(temporaryFolder(t), 'socket');
  const die = "() => process.kill(process.pid, 'SIGKILL')";
  spawnSync(process.execPath, ['-e', `require('net').createServer().listen(process.argv[1], ${die})`, path]);
  assert.ok(statSync(path).isSocket());
  const echo = EchoServer.start(t, { socket: { path } });
  const frontEnd = await FrontEnd.connect(path);
  t.after(() => frontEnd.close());
  assert.equal(echo.server.connections, 1);
});

function listenError(t: TestContext, path: string): string {
  try {
    EchoServer.start(t, { socket: { path } });
  } catch (error) {
    assert.ok(error instanceof ListenError);
    assert.ok(!error.message.includes('\n'));
    return error.message;
  }
  throw new Error('it listens');
}

test('a socket that cannot be had is explained in one line, with the way out', (t) => {
  const folder = temporaryFolder(t);
  const echo = EchoServer.start(t);
  writeFileSync(join(folder, 'file'), '');
  assert.match(
    listenError(t, echo.path),
    /another process listens on it; stop that one or choose another path$/,
  );
  assert.match(listenError(t, join(folder, 'file')), /a file that is not a socket; remove it or choose/);
  assert.match(listenError(t, join(folder, 'none/s')), /no such directory: .*none; create it first$/);
  assert.match(listenError(t, join(folder, 'file/s')), /file is not a directory; choose another path$/);
  assert.match(listenError(t, join(folder, 'x'.repeat(120))), /too long for a socket/);
  assert.ok(existsSync(join(folder, 'file')));
});

test('the socket file has the mode and group that were asked for, whatever the umask', (t) => {
  const folder = temporaryFolder(t);
  mkdirSync(join(folder, 'd'));
  chmodSync(join(folder, 'd'), 0o755);
  const umask = process.umask(0o077);
  t.after(() => process.umask(umask));
  const group = process.getuid!() === 0 ? 12345 : process.getgid!();
  EchoServer.start(t, { socket: { path: join(folder, 'd/s') }, mode: 0o660, group });
  const stat = statSync(join(folder, 'd/s'));
  assert.equal(stat.mode & 0o777, 0o660);
  assert.equal(stat.gid, group);
  assert.equal(process.umask(), 0o077);
});

test('an inherited listening socket is served, and its file left alone', async (t) => {
  const path = join(temporaryFolder(t), 'socket');
  const listener = UnixListener.listen(path);
  t.after(() => listener.close());
  const echo = EchoServer.start(t, { socket: { fd: inherited(listener.fd) } });
  const frontEnd = await FrontEnd.connect(path);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  frontEnd.close();
  await echo.server.close();
  assert.ok(existsSync(path));
});

test('an inherited connection is served, and the server ends with it', async (t) => {
  const [mine, theirs] = UnixConnection.pair();
  const fd = inherited(theirs.fd);
  theirs.close();
  const echo = EchoServer.start(t, { socket: { fd } });
  const frontEnd = await FrontEnd.connect(mine);
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  frontEnd.close();
  await echo.server.ended;
});

test('a descriptor that is no socket is explained', (t) => {
  assert.throws(
    () => EchoServer.start(t, { socket: { fd: 9999 } }),
    (error) => error instanceof ListenError && /--fd 9999: not an open socket/.test(error.message),
  );
});

test('messages may come byte by byte, and many at once', async (t) => {
  const echo = EchoServer.start(t);
  const connection = UnixConnection.connect(echo.path);
  t.after(() => connection.close());
  for (const byte of encodeMessage(Request.GET_FEATURES, 0, none)) connection.send(Uint8Array.of(byte));
  const many = Buffer.concat(
    Array.from({ length: 100 }, () => encodeMessage(Request.GET_QUEUE_NUM, 0, none)),
  );
  connection.send(many);
  const received: number[] = [];
  const chunk = new Uint8Array(4096);
  await until(() => {
    const count = connection.recv(chunk, []);
    if (count > 0) received.push(...chunk.subarray(0, count));
    return received.length === 101 * 20;
  }, 'all replies are there');
  assert.deepEqual(received.slice(20, 40), received.slice(-20));
});

test('a connection that ends within a message is told of in the log', async (t) => {
  const echo = EchoServer.start(t);
  const connection = UnixConnection.connect(echo.path);
  connection.send(Uint8Array.of(1, 0, 0));
  connection.close();
  await until(() => echo.log.complaints.length > 0, 'there is a line');
  assert.match(echo.log.complaints[0]!, /the connection ended within a message/);
});

test('a front-end that reads no replies is let go', async (t) => {
  const echo = EchoServer.start(t);
  const connection = UnixConnection.connect(echo.path);
  t.after(() => connection.close());
  const many = Buffer.concat(
    Array.from({ length: 1000 }, () => encodeMessage(Request.GET_QUEUE_NUM, 0, none)),
  );
  await until(() => {
    connection.send(many);
    return echo.log.complaints.length > 0;
  }, 'the device gave up');
  assert.match(echo.log.complaints[0]!, /cannot send to the front-end/);
});

test('a front-end channel refuses replies that nobody asked for', async (t) => {
  const [mine, theirs] = UnixConnection.pair();
  t.after(() => theirs.close());
  let reason = '';
  const channel = new FrontEndChannel(mine, (error) => {
    reason = error.message;
  });
  theirs.send(encodeMessage(Request.GET_FEATURES, 4, new Uint8Array(8)));
  await until(() => reason !== '', 'the channel ended');
  assert.match(reason, /a reply to GET_FEATURES that nobody waits for/);
  assert.throws(() => channel.send('SET_OWNER', none), /nobody waits for/);
});

test('descriptors that this process has no room for end their connection, and no other', async (t) => {
  const echo = EchoServer.start(t);
  const honest = await echo.connect(t);
  const channel = echo.channel(t);
  await channel.call('GET_FEATURES', none);
  using fd = eventfd();
  const before = openDescriptors();
  await withFewDescriptors(3, async () => {
    channel.send(
      'SET_MEM_TABLE',
      new Uint8Array(264),
      Array.from({ length: 8 }, () => fd.value),
    );
    await until(() => echo.log.complaints.length > 0, 'the device noticed');
    assert.deepEqual(await honest.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
  });
  assert.deepEqual(echo.log.complaints, [
    'warn: the connection to the front-end was closed | recvmsg: errno 24',
  ]);
  // The device's end and the front-end's.
  assert.equal(openDescriptors(), before - 2);
});

test('a front-end that comes when no descriptor is left is served later', async (t) => {
  const echo = EchoServer.start(t);
  const connection = await withFewDescriptors(1, async () => {
    const early = UnixConnection.connect(echo.path);
    await until(() => echo.log.complaints.length > 0, 'the server noticed');
    return early;
  });
  assert.match(echo.log.complaints[0]!, /cannot accept a front-end/);
  const frontEnd = await FrontEnd.connect(connection);
  t.after(() => frontEnd.close());
  assert.deepEqual(await frontEnd.request(1, [Uint8Array.of(1)], [1]), Uint8Array.of(1));
});
