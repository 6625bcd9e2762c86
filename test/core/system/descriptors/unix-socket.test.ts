import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import {
  type Fd,
  drain,
  eventfd,
  MAX_FDS,
  type OwnedFd,
  signal,
  UnixConnection,
  UnixListener,
} from '../../../../core/system/index.js';

const EAGAIN = constants.errno.EAGAIN;

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'socket-'));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

test('bytes and descriptors cross a socket', (t) => {
  const path = join(folder(t), 'socket');
  const listener = UnixListener.listen(path);
  assert.equal(listener.accept(), -EAGAIN);
  const client = UnixConnection.connect(path);
  const server = listener.accept();
  assert.ok(server instanceof UnixConnection);
  const target = new Uint8Array(100);
  const fds: OwnedFd[] = [];
  assert.equal(server.recv(target, fds), -EAGAIN);
  using first = eventfd();
  using second = eventfd();
  assert.equal(client.send(Buffer.from('hello'), [first.value, second.value]), 5);
  assert.equal(server.recv(target, fds), 5);
  assert.equal(Buffer.from(target.subarray(0, 5)).toString(), 'hello');
  assert.equal(fds.length, 2);
  signal(fds[1]!.value);
  assert.equal(drain(first.value), -EAGAIN);
  assert.equal(drain(second.value), 8);
  for (const fd of fds) fd.close();
  client.close();
  assert.equal(server.recv(target, fds), 0);
  assert.equal(server.send(Buffer.from('x')), -constants.errno.EPIPE);
  server.close();
  listener.close();
  listener.close();
  assert.ok(!existsSync(path));
});

test('a message carries at most 253 descriptors', () => {
  const [a, b] = UnixConnection.pair();
  using event = eventfd();
  const received: OwnedFd[] = [];
  const before = readdirSync('/proc/self/fd').length;
  assert.equal(a.send(Buffer.from('x'), Array<Fd>(MAX_FDS).fill(event.value)), 1);
  assert.equal(b.recv(new Uint8Array(1), received), 1);
  assert.equal(received.length, MAX_FDS);
  for (const fd of received) fd.close();
  assert.equal(readdirSync('/proc/self/fd').length, before);
  assert.equal(a.send(Buffer.from('x'), Array<Fd>(MAX_FDS + 1).fill(event.value)), -constants.errno.EMSGSIZE);
  a.close();
  b.close();
});

test('a peer that does not read makes send give EAGAIN', () => {
  const [a, b] = UnixConnection.pair();
  const bytes = new Uint8Array(65536);
  let sent = 0;
  for (;;) {
    const count = a.send(bytes);
    if (count < 0) {
      assert.equal(count, -EAGAIN);
      break;
    }
    sent += count;
  }
  let received = 0;
  for (let count = b.recv(bytes, []); count > 0; count = b.recv(bytes, [])) received += count;
  assert.equal(received, sent);
  a.close();
  b.close();
});

test('a stale socket file is replaced, a busy one is not', (t) => {
  const path = join(folder(t), 'socket');
  const first = UnixListener.listen(path);
  assert.throws(() => UnixListener.listen(path), { code: 'EADDRINUSE', message: `bind ${path}: EADDRINUSE` });
  const stale = UnixListener.adopt(first.fd);
  stale.close();
  assert.ok(existsSync(path));
  const second = UnixListener.listen(path);
  UnixConnection.connect(path).close();
  second.close();
});

test("closing leaves another's socket file alone", (t) => {
  const path = join(folder(t), 'socket');
  const first = UnixListener.listen(path);
  renameSync(path, `${path}.old`);
  const second = UnixListener.listen(path);
  first.close();
  UnixConnection.connect(path).close();
  unlinkSync(path);
  second.close();
});

test('a file that is no socket is left alone', (t) => {
  const path = join(folder(t), 'file');
  writeFileSync(path, 'precious');
  assert.throws(() => UnixListener.listen(path), { code: 'EADDRINUSE' });
  assert.ok(existsSync(path));
});

test('a path that cannot name a socket is refused by name', () => {
  const path = `/tmp/${'x'.repeat(200)}`;
  assert.throws(() => UnixListener.listen(path), { code: 'ENAMETOOLONG' });
  assert.throws(() => UnixConnection.connect(path), { code: 'ENAMETOOLONG' });
  assert.throws(() => UnixConnection.connect('/nowhere/socket'), { code: 'ENOENT' });
});
