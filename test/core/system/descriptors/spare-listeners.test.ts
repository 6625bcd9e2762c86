import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, renameSync, statSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { UnixConnection, UnixListener } from '../../../../core/system/index.js';
import { SpareListeners } from '../../../../core/system/descriptors/spare-listeners.js';
import { temporaryFolder } from '../../../support/vhost-user.js';

test('sockets that listen already take names, and give them back for others', (t) => {
  const [folder, other] = [temporaryFolder(t), temporaryFolder(t)];
  const taken = UnixListener.listen(join(folder, 'taken'));
  // What two former processes have left, of which one lives; and a third is just starting.
  const [gone, alive, young] = ['gone', 'alive', 'young'].map((name) =>
    join(folder, `.virtiofs-kit-${name}`),
  );
  for (const left of [gone!, alive!, young!]) mkdirSync(left);
  const closed = UnixListener.listen(join(gone!, 'before'));
  renameSync(join(gone!, 'before'), join(gone!, '0'));
  closed.close();
  const living = UnixListener.listen(join(alive!, '0'));
  for (const left of [gone!, alive!]) utimesSync(left, 1, 1);

  // A socket's path has room in it, but not that of a hidden directory's.
  const long = join(folder, 'l'.repeat(100 - folder.length));
  mkdirSync(long);
  const missing = join(folder, 'missing');
  const failures: unknown[] = [];
  SpareListeners.use(
    new Map([
      [missing, 1],
      [folder, 2],
      [long, 1],
    ]),
    (where, made, error) => failures.push([where, made, (error as NodeJS.ErrnoException).code]),
  );
  assert.deepEqual(failures, [[missing, 0, 'ENOENT']]);
  const inLong = UnixListener.listen(join(long, 'sock'));
  UnixConnection.connect(join(long, 'sock')).close();
  inLong.close();
  const hidden = readdirSync(folder, { encoding: 'utf8' }).filter((name) => name.startsWith('.'));
  const [own, ...others] = hidden.filter((name) => !/-(?:alive|young)$/.test(name));
  assert.deepEqual([hidden.length, others], [3, []]);
  assert.equal(statSync(join(folder, own!)).mode & 0o777, 0o700);

  const path = (name: string): string => join(folder, name);
  for (let round = 0; round < 5; round++) {
    const umask = process.umask(round % 2 === 0 ? 0o177 : 0o022);
    const [first, second] = [UnixListener.listen(path(`first${round}`)), UnixListener.listen(path('second'))];
    process.umask(umask);
    assert.equal(statSync(path('second')).mode & 0o777, round % 2 === 0 ? 0o600 : 0o755);
    assert.throws(() => UnixListener.listen(path('third')), { code: 'EPERM' });
    const client = UnixConnection.connect(path('second'));
    const server = second.accept();
    assert.ok(server instanceof UnixConnection);
    server.close();
    client.close();
    // One whom nobody has accepted is gone when the socket has another name.
    const waiting = UnixConnection.connect(path('second'));
    second.close();
    second.close();
    first.close();
    assert.ok(!existsSync(path('second')));
    assert.equal(waiting.recv(new Uint8Array(1), []), 0);
    waiting.close();
  }
  assert.throws(() => UnixListener.listen(path('taken')), { code: 'EADDRINUSE' });
  assert.throws(() => UnixListener.listen(join(other, 'socket')), { code: 'EPERM' });
  assert.throws(() => UnixListener.listen(path('x'.repeat(256))), { code: 'ENAMETOOLONG' });
  const [again, more] = [UnixListener.listen(path('again')), UnixListener.listen(path('more'))];
  again.close();
  more.close();
  living.close();
  taken.close();
  assert.ok(!existsSync(path('taken')));
});
