import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Backend } from '../../../../core/backend/index.js';
import { engine, type Guest } from '../../../support/engine.js';
import { Op, ROOT, rejectsWith } from '../../../support/fuse-client.js';
import { TinyBackend, asynchronous } from '../../../support/tiny-backend.js';

/** Starts a guest on a fresh file system. */
async function mounted(
  variant: (tiny: TinyBackend) => Backend,
): Promise<Guest & { tiny: TinyBackend; log: string[] }> {
  const tiny = new TinyBackend();
  const { guest, log } = await engine(variant(tiny));
  const connected = guest();
  await connected.client.init();
  return { ...connected, tiny, log: log.errors };
}

for (const [kind, variant] of [
  ['synchronous', (tiny: TinyBackend): Backend => tiny],
  ['asynchronous', (tiny: TinyBackend): Backend => asynchronous(tiny)],
] as const) {
  describe(`a session over a ${kind} backend`, () => {
    it('creates, writes, reads, lists, renames and removes', async () => {
      const { client, tiny, session, log } = await mounted(variant);
      const { entry, open } = await client.create(ROOT, 'file', 0o640);
      assert.equal(entry.attr.mode, 0o100640);
      assert.equal(await client.write(entry.nodeid, open.fh, 0, Buffer.from('hello, guest')), 12);
      assert.equal(Buffer.from(await client.read(entry.nodeid, open.fh, 7, 100)).toString(), 'guest');
      assert.equal((await client.getattr(entry.nodeid)).size, 12);
      assert.equal((await client.getattr(entry.nodeid, open.fh)).size, 12);
      assert.equal((await client.setattr(entry.nodeid, { size: 5 })).size, 5);
      await client.flush(entry.nodeid, open.fh);
      await client.release(entry.nodeid, open.fh);
      const dir = await client.mkdir(ROOT, 'dir');
      await client.symlink(dir.nodeid, 'link', '../file');
      assert.equal(await client.readlink((await client.lookup(dir.nodeid, 'link')).nodeid), '../file');
      assert.deepEqual(await client.list(ROOT), ['file', 'dir']);
      await client.rename(ROOT, 'file', dir.nodeid, 'moved');
      await rejectsWith(client.lookup(ROOT, 'file'), 2);
      assert.equal((await client.lookup(dir.nodeid, 'moved')).nodeid, entry.nodeid);
      await client.link(entry.nodeid, ROOT, 'second');
      assert.equal((await client.getattr(entry.nodeid)).nlink, 2);
      await client.unlink(ROOT, 'second');
      await rejectsWith(client.rmdir(ROOT, 'dir'), 39);
      await client.setxattr(entry.nodeid, 'user.a', Buffer.from('value'));
      assert.deepEqual(await client.listxattr(entry.nodeid), ['user.a']);
      assert.equal(Buffer.from(await client.getxattr(entry.nodeid, 'user.a')).toString(), 'value');
      await rejectsWith(client.getxattr(entry.nodeid, 'user.b'), 61);
      assert.equal((await client.statfs()).blocks, 1000);
      await client.destroy();
      await session.close();
      assert.equal(tiny.known.size, 0);
      assert.equal(tiny.openFiles.size, 0);
      assert.deepEqual(log, []);
    });

    it('counts the lookups of READDIRPLUS, but not those of . and ..', async () => {
      const { client, tiny } = await mounted(variant);
      for (let i = 0; i < 40; i++) await client.forget((await client.mkdir(ROOT, `directory-${i}`)).nodeid);
      assert.equal(tiny.known.size, 0);
      const { fh } = await client.opendir(ROOT);
      const seen = [];
      for (let offset = 0n; ;) {
        const entries = await client.readdirplus(ROOT, fh, offset);
        if (entries.length === 0) break;
        seen.push(...entries);
        offset = entries.at(-1)!.off;
      }
      assert.deepEqual(
        seen.map(({ name }) => name),
        ['.', '..', ...Array.from({ length: 40 }, (_, i) => `directory-${i}`)],
      );
      assert.equal(seen[0]!.entry!.nodeid, 0n);
      assert.equal(tiny.known.size, 40);
      await client.batchForget(seen.slice(2).map(({ entry }) => [entry!.nodeid, 1n]));
      assert.equal(tiny.known.size, 0);
      await client.releasedir(ROOT, fh);
    });

    it('serves a file that has lost its name for as long as it is open', async () => {
      const { client, tiny } = await mounted(variant);
      const { entry, open } = await client.create(ROOT, 'gone');
      await client.unlink(ROOT, 'gone');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('still here'));
      await client.forget(entry.nodeid);
      assert.equal(Buffer.from(await client.read(entry.nodeid, open.fh, 0, 99)).toString(), 'still here');
      assert.equal(tiny.known.size, 1);
      await client.release(entry.nodeid, open.fh);
      assert.equal(tiny.known.size, 0);
    });

    it('refuses with ENOSYS what makes Linux stop asking', async () => {
      const { client } = await mounted(variant);
      await rejectsWith(client.access(ROOT, 4), 38);
      await rejectsWith(client.call(Op.POLL, ROOT, new Uint8Array(24), 8), 38);
      await rejectsWith(client.call(Op.BMAP, ROOT, new Uint8Array(16), 8), 38);
    });
  });
}
