import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fromWebdav } from '../../../../core/adapters/index.js';
import { type Backend, Errno } from '../../../../core/backend/index.js';
import { checkBackend } from '../../../../core/contract/index.js';
import { engine, withGuest } from '../../../support/engine.js';
import { rejectsWith, ROOT } from '../../../support/fuse-client.js';
import { keepingLog, MountedExport, shell } from '../../../support/host-mount.js';
import { webdavServer } from '../../../support/webdav-server.js';

/** Modes, owners, and times to set. */
const HAS_NOT = [
  'a created file is empty, regular, has the mode asked for, one link, and is found and listed',
  'a created file belongs to who created it',
  'a directory is made empty with the mode asked for, filled, and removed only when it is empty',
  'mode, owner and group change as asked, and nothing else does',
  'times are kept to the nanosecond, before 1970 and after 2038, each by itself',
  'a change of attributes moves ctime on',
];

/** The server's times are whole seconds: it depends on when it is tried. */
const MAY_FAIL = 'a write moves mtime and ctime on';

/** Rules that make thousands of files, each by several requests. They take half a minute. */
const LONG_LISTINGS = /^a listing (shows each|of more than|ends)/;
const isWhole = process.env['VIRTIOFS_KIT_WEBDAV'] === 'all';

describe('a directory of a WebDAV server', () => {
  it('keeps the contract, but for what WebDAV does not have', async () => {
    await using server = await webdavServer();
    const create = (): Backend => fromWebdav(server.url) as Backend;
    const only = (name: string): boolean => isWhole || !LONG_LISTINGS.test(name);
    // Apache and this process share the processors with other tests.
    const { results, passed } = await checkBackend({ create, log: keepingLog(), only, timeoutMs: 600_000 });
    assert.deepEqual(
      results
        .filter(({ name, outcome }) => outcome === 'failed' && name !== MAY_FAIL)
        .map(({ name, reason }) => (HAS_NOT.includes(name) ? name : `${name}: ${reason}`)),
      HAS_NOT,
    );
    assert.ok(passed >= 30, `${passed} rules`);
    assert.deepEqual(readdirSync(server.directory), []);
  });

  it('is read by ranges, and written when a file is closed', async () => {
    await using server = await webdavServer();
    const content = 'content '.repeat(100_000);
    writeFileSync(join(server.directory, 'a "b" &'), content);
    await withGuest(fromWebdav(server.url) as Backend, async (client) => {
      assert.deepEqual(await client.list(ROOT), ['a "b" &']);
      const { nodeid, attr } = await client.lookup(ROOT, 'a "b" &');
      assert.equal(attr.size, content.length);
      const { fh } = await client.open(nodeid, 2);
      assert.equal(Buffer.from(await client.read(nodeid, fh, 400_000, 16)).toString(), 'content content ');
      assert.equal((await client.read(nodeid, fh, content.length, 16)).length, 0);
      await client.write(nodeid, fh, 8, Buffer.from('CONTENT'));
      assert.equal((await client.getattr(nodeid)).size, content.length);
      assert.equal(readFileSync(join(server.directory, 'a "b" &'), 'utf8'), content);
      await client.flush(nodeid, fh);
      const changed = content.slice(0, 8) + 'CONTENT' + content.slice(15);
      assert.equal(readFileSync(join(server.directory, 'a "b" &'), 'utf8'), changed);
      await client.rename(ROOT, 'a "b" &', ROOT, 'ö');
      await client.write(nodeid, fh, 0, Buffer.from('X'));
      await client.release(nodeid, fh);
      assert.equal(readFileSync(join(server.directory, 'ö'), 'utf8'), `X${changed.slice(1)}`);
    });
  });

  it('has no more in memory than it may, and all of that for whichever file needs it', async () => {
    await using server = await webdavServer();
    const limited = fromWebdav(server.url, { draftBytes: 2 ** 20 });
    await withGuest(limited as Backend, async (client) => {
      const { entry, open } = await client.create(ROOT, 'file');
      await client.write(entry.nodeid, open.fh, 2 ** 20 - 1, Buffer.from('x'));
      await rejectsWith(client.write(entry.nodeid, open.fh, 2 ** 20, Buffer.from('x')), Errno.ENOSPC);
      await rejectsWith(client.setattr(entry.nodeid, { size: 2 ** 40 }), Errno.ENOSPC);
      await client.release(entry.nodeid, open.fh);
      const second = await client.create(ROOT, 'second');
      await client.write(second.entry.nodeid, second.open.fh, 2 ** 20 - 1, Buffer.from('x'));
      await client.release(second.entry.nodeid, second.open.fh);
    });
    assert.equal(readFileSync(join(server.directory, 'second')).length, 2 ** 20);
    await withGuest(limited as Backend, async (client) => {
      for (const name of ['a', 'b']) {
        const { entry, open } = await client.create(ROOT, name);
        for (let at = 0; at < 500_000; at += 100_000)
          await client.write(entry.nodeid, open.fh, at, Buffer.alloc(100_000, name));
      }
    });
    for (const name of ['a', 'b'])
      assert.deepEqual(readFileSync(join(server.directory, name)), Buffer.alloc(500_000, name));
  });

  it('lists and keeps what has names of any kind', async () => {
    await using server = await webdavServer();
    const names = ['ä', 'a+b', 'a%b', 'me@x', '[x]', 'a;b=c,d', 'a#b?c'];
    for (const name of names) mkdirSync(join(server.directory, name));
    for (const name of names) writeFileSync(join(server.directory, name, 'ö+'), 'x');
    await withGuest(fromWebdav(server.url) as Backend, async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), names.toSorted());
      for (const name of names) {
        const { nodeid } = await client.lookup(ROOT, name);
        assert.deepEqual(await client.list(nodeid), ['ö+'], name);
        await rejectsWith(client.rmdir(ROOT, name), Errno.ENOTEMPTY);
      }
      // A name that is not UTF-8 is one that guests cannot have.
      const folder = Buffer.from(join(server.directory, 'latin'));
      mkdirSync(folder);
      writeFileSync(Buffer.concat([folder, Buffer.from([0x2f, 0xe9])]), 'x');
      assert.deepEqual(await client.list((await client.lookup(ROOT, 'latin')).nodeid), []);
      await rejectsWith(client.rmdir(ROOT, 'latin'), Errno.ENOTEMPTY);
      await client.mkdir(ROOT, 'ü');
      await rejectsWith(client.rename(ROOT, 'ü', ROOT, 'ä'), Errno.ENOTEMPTY);
      await client.rmdir(ROOT, 'ü');
    });
    for (const name of names) assert.deepEqual(readdirSync(join(server.directory, name)), ['ö+']);
  });

  it('gives errors of the server to guests, and tells of one that is gone', async () => {
    const server = await webdavServer();
    const running = await engine(fromWebdav(server.url) as Backend);
    const { client, session } = running.guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('x'));
    await server[Symbol.asyncDispose]();
    await rejectsWith(client.flush(entry.nodeid, open.fh), Errno.EIO);
    await rejectsWith(client.lookup(ROOT, 'other'), Errno.EIO);
    await session.close();
    await running.export.close();
    assert.equal(running.log.errors[0], 'FLUSH failed');
  });

  it('is used by programs in a mount of this host', async () => {
    await using server = await webdavServer();
    {
      await using mounted = await MountedExport.open(fromWebdav(server.url, { isQuiet: true }) as Backend);
      const script = `set -e; mkdir -p a/b; echo one > a/b/file; echo two >> a/b/file; cp a/b/file copy
        mv a/b/file a/moved; cat a/moved; rmdir a/b; truncate -s 4 copy; cat copy; rm copy
        git init -q r; cd r; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one; git log --format=%s`;
      assert.deepEqual(await shell(script, mounted.directory), { code: 0, output: 'one\ntwo\none\none\n' });
      assert.deepEqual(mounted.log.lines, []);
    }
    assert.deepEqual(readdirSync(server.directory).sort(), ['a', 'r']);
    assert.ok(existsSync(join(server.directory, 'r/.git/HEAD')));
  });
});
