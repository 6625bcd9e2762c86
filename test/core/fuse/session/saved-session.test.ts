import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { restoreSession, saveSession } from '../../../../core/fuse/index.js';
import { InitFlag } from '../../../../core/fuse/wire/abi.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { type ExportOptions, restoreExport, saveExport } from '../../../../core/state/index.js';
import { MemoryLog, engine, type Engine, type Guest } from '../../../support/engine.js';
import { FuseClient, ROOT, rejectsWith, usualInitFlags } from '../../../support/fuse-client.js';
import { Loopback } from '../../../support/loopback.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

/**
 * Saves guests and brings them back in an engine of its own, over the same files, as after the
 * daemon's restart.
 */
async function restart(
  tiny: TinyBackend,
  running: Engine,
  guests: readonly Guest[],
  limits: ExportOptions['limits'] = {},
): Promise<{ guests: Guest[]; log: MemoryLog; nodes: number; bytes: Uint8Array }> {
  const saves = guests.map(({ session }) => saveSession.bind(undefined, session));
  const bytes = await saveExport(running.export, saves);
  tiny.openFiles.clear();
  const log = new MemoryLog();
  const restored = await restoreExport(tiny, bytes, { log, createBuffer: hostBuffer, limits });
  const back: Guest[] = [];
  for (const saved of restored.sessions) {
    const session = await restoreSession(restored, saved);
    const loopback = new Loopback(session);
    back.push({ session, loopback, client: new FuseClient(loopback) });
  }
  restored.finish();
  return { guests: back, log, nodes: restored.export.nodes.size, bytes };
}

describe('a restored session', () => {
  it('goes on with its nodes, lookup counts, handles, directory streams and locks', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const before = running.guest();
    await before.client.init();
    const { entry, open } = await before.client.create(ROOT, 'file');
    await before.client.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    await before.client.lookup(ROOT, 'file');
    const closed = await before.client.open(entry.nodeid);
    await before.client.release(entry.nodeid, closed.fh);
    for (const name of ['a', 'b', 'c']) await before.client.mkdir(ROOT, name);
    const listing = await before.client.opendir(ROOT);
    const [, , , second] = await before.client.readdir(ROOT, listing.fh, 0n, 4096);
    await before.client.setlk(entry.nodeid, open.fh, 7n, LOCK);
    await before.client.rmdir(ROOT, 'b');

    const { guests, log, nodes } = await restart(tiny, running, [before]);
    const [{ client, session }] = guests as [Guest];
    assert.deepEqual(log.lines, []);
    assert.equal(nodes, 5);
    assert.deepEqual(session.negotiated, before.session.negotiated);
    assert.equal((await client.getattr(entry.nodeid)).size, 4);
    assert.equal(Buffer.from(await client.read(entry.nodeid, open.fh, 0, 9)).toString(), 'data');
    await rejectsWith(client.read(entry.nodeid, closed.fh, 0, 9), 9);
    const rest = await client.readdir(ROOT, listing.fh, second!.off);
    assert.deepEqual(
      rest.map(({ name }) => name),
      ['b', 'c'],
    );
    const other = await client.open(entry.nodeid, 2);
    assert.notEqual(other.fh, closed.fh);
    await rejectsWith(client.setlk(entry.nodeid, other.fh, 8n, LOCK), 11);
    await client.flush(entry.nodeid, open.fh, 7n);
    await client.setlk(entry.nodeid, other.fh, 8n, LOCK);
    await client.forget(entry.nodeid, 1n);
    await client.getattr(entry.nodeid);
    await client.forget(entry.nodeid, 1n);
    await rejectsWith(client.getattr(entry.nodeid), 116);
    await client.release(entry.nodeid, open.fh);
    await client.release(entry.nodeid, other.fh);
    await client.destroy();
    assert.equal(session.handles.size, 0);
    assert.equal(tiny.known.size, 0);
  });

  it('keeps guests apart', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const [one, two] = [running.guest(), running.guest()];
    await one.client.init();
    await two.client.init();
    const mine = await one.client.create(ROOT, 'file');
    const theirs = await two.client.lookup(ROOT, 'file');
    const { fh } = await two.client.open(theirs.nodeid, 2);
    await one.client.setlk(mine.entry.nodeid, mine.open.fh, 1n, LOCK);
    const onlyMine = await one.client.mkdir(ROOT, 'mine');
    const { guests } = await restart(tiny, running, [one, two]);
    const [first, second] = guests as [Guest, Guest];
    await rejectsWith(second.client.getattr(onlyMine.nodeid), 116);
    await rejectsWith(second.client.setlk(theirs.nodeid, fh, 1n, LOCK), 11);
    await first.client.destroy();
    await second.client.setlk(theirs.nodeid, fh, 1n, LOCK);
  });

  it('gets EIO for a file on which its lock cannot be had again, until it closes it', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const guest = running.guest();
    await guest.client.init();
    const files: Awaited<ReturnType<typeof guest.client.create>>[] = [];
    for (const name of ['one', 'two']) {
      const file = await guest.client.create(ROOT, name);
      await guest.client.setlk(file.entry.nodeid, file.open.fh, 1n, LOCK);
      files.push(file);
    }
    const narrow = { locks: { sessionLocks: 1 } };
    const { guests, log } = await restart(tiny, running, [guest], narrow);
    const [again] = guests as [Guest];
    const [one, two] = files as [(typeof files)[0], (typeof files)[0]];
    await again.client.read(one.entry.nodeid, one.open.fh, 0, 1);
    await rejectsWith(again.client.read(two.entry.nodeid, two.open.fh, 0, 1), 5);
    assert.equal(again.session.counters.lostLocks, 1);
    assert.match(log.lines.at(-1)!.message, /locks of a guest cannot be had again/);
    // The mark outlives another restart.
    const third = await restart(tiny, { ...running, export: again.session.export }, [again], narrow);
    const [last] = third.guests as [Guest];
    await rejectsWith(last.client.read(two.entry.nodeid, two.open.fh, 0, 1), 5);
    await last.client.release(two.entry.nodeid, two.open.fh);
    const opened = await last.client.open(two.entry.nodeid, 2);
    await last.client.read(two.entry.nodeid, opened.fh, 0, 1);
  });

  it('finds a file by its handle that it had forgotten before, and not where none is remembered', async () => {
    const tiny = new TinyBackend();
    const limits = { remembered: 2 };
    const running = await engine(tiny, { limits });
    const guest = running.guest();
    const flags = usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT);
    await guest.client.init(flags);
    const { nodeid, generation } = await guest.client.mkdir(ROOT, 'directory');
    await guest.client.forget(nodeid, 1n);
    assert.equal(running.export.nodes.size, 1);
    const { guests, bytes } = await restart(tiny, running, [guest], limits);
    const [{ client, session }] = guests as [Guest];
    const found = await client.lookup(nodeid, '.');
    assert.deepEqual([found.nodeid, found.generation], [nodeid, generation]);
    await client.getattr(nodeid);
    await rejectsWith(client.lookup(nodeid + 1n, '.'), 116);
    await client.forget(nodeid, 1n);
    for (const name of ['one', 'two']) await client.forget((await client.mkdir(ROOT, name)).nodeid, 1n);
    await rejectsWith(client.lookup(nodeid, '.'), 116);
    assert.equal(session.export.nodes.size, 1);
    const restored = await restoreExport(tiny, bytes, { log: new MemoryLog(), createBuffer: hostBuffer });
    assert.deepEqual([...restored.export.nodes.remembered.all], []);
  });

  it('tells files apart that are found by their handles at once, of a backend with one answer for all', async () => {
    const tiny = new TinyBackend();
    const answer = { mode: 0 };
    const getattr = tiny.getattr.bind(tiny);
    tiny.getattr = (node) => Object.assign(answer, getattr(node));
    const { client } = (await engine(tiny, { limits: { remembered: 2 } })).guest();
    await client.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
    const made = [await client.mkdir(ROOT, 'one', 0o700), await client.mkdir(ROOT, 'two', 0o711)];
    const found = await Promise.all(made.map(({ nodeid }) => client.lookup(nodeid, '.')));
    assert.deepEqual(
      found.map(({ nodeid, attr }) => [nodeid, attr.mode & 0o777]),
      [
        [made[0]!.nodeid, 0o700],
        [made[1]!.nodeid, 0o711],
      ],
    );
  });

  it('answers ESTALE for a file that went away meanwhile, and EBADF for its handles', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const guest = running.guest();
    await guest.client.init();
    const { entry, open } = await guest.client.create(ROOT, 'file');
    await guest.client.setlk(entry.nodeid, open.fh, 1n, LOCK);
    tiny.all.delete(tiny.key(tiny.root.children.get('file')!));
    const { guests, log } = await restart(tiny, running, [guest]);
    const [{ client }] = guests as [Guest];
    await rejectsWith(client.getattr(entry.nodeid), 116);
    await rejectsWith(client.read(entry.nodeid, open.fh, 0, 1), 9);
    const lines = log.lines.filter(({ level }) => level !== 'debug');
    assert.deepEqual(
      lines.map(({ fields, message }) => ({ fields, message })),
      [
        {
          fields: { nodes: 1, handles: 1, locks: 1 },
          message: 'files that guests knew are gone, with what was open or locked of them',
        },
      ],
    );
  });

  it('is not made of bytes that are none, or of another version', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const { bytes } = await restart(tiny, running, []);
    const options = { log: new MemoryLog(), createBuffer: hostBuffer };
    const attempt = (change: (bytes: Uint8Array) => Uint8Array): Promise<unknown> =>
      restoreExport(new TinyBackend(), change(new Uint8Array(bytes)), options);
    await assert.rejects(
      attempt((all) => all.subarray(0, 10)),
      RangeError,
    );
    await assert.rejects(
      attempt((all) => all.fill(0, 0, 1)),
      RangeError,
    );
    await assert.rejects(
      attempt((all) => all.fill(9, 8, 9)),
      /version 9/,
    );
    await assert.rejects(
      attempt((all) => all.subarray(0, 20)),
      /cut short/,
    );
    await assert.rejects(
      attempt((all) => all.fill(0x20, 16, 30)),
      RangeError,
    );
  });

  it('has what versions 2 to 5 of the saved form have added', async () => {
    const tiny = new TinyBackend();
    const running = await engine(tiny);
    const guest = running.guest();
    await guest.client.init();
    const { entry } = await guest.client.create(ROOT, 'file');
    const keys = [tiny.root, tiny.root.children.get('file')!].map((node) => {
      const key = tiny.key(node);
      return JSON.stringify(typeof key === 'number' ? { n: key } : { s: key });
    });
    const [low, high] = [entry.nodeid & 0xffffffffn, entry.nodeid >> 32n];
    const remembered = `,"remembered":[{"key":${keys[1]},"low":${low},"high":${high},"generation":7,"trace":"x"}]`;
    for (const [version, added, more] of [
      [2, '"held":0', ''],
      [3, '"lost":true', ''],
      [4, '"lost":true', remembered],
      [5, '"lost":true', `,"traced":false${remembered}`],
    ] as const) {
      const json = `{"nodes":[{"key":${keys[0]},"low":1,"high":0,"generation":0},{"key":${keys[1]},"low":${low},"high":${high},"generation":${entry.generation}}],"sessions":[{"id":3,"negotiated":{"minor":38,"flags":0,"flags2":0,"maxReadahead":131072,"maxWrite":131072,"maxPages":32},"lookups":[[1,1]],"handles":[{"index":0,"generation":5,"node":1,"flags":2,${added}}],"handleGeneration":5}],"locks":{"locks":[{"kind":"posix","session":3,"node":1,"owner":"7","type":1,"start":"0","end":"9","pid":1,"handle":0}],"waiters":[]}${more}}`;
      const head = Buffer.from('VFSKSAVE\0\0\0\0\0\0\0\0', 'latin1');
      head.writeUInt32LE(version, 8);
      head.writeUInt32LE(json.length, 12);
      const bytes = Buffer.concat([head, Buffer.from(json)]);
      const restored = await restoreExport(tiny, bytes, { log: new MemoryLog(), createBuffer: hostBuffer });
      const session = await restoreSession(restored, restored.sessions[0]!);
      restored.finish();
      const client = new FuseClient(new Loopback(session));
      const reading = client.read(entry.nodeid, 5n << 32n, 0, 1);
      if (version > 2) await rejectsWith(reading, 5);
      else assert.equal((await reading).length, 0);
      assert.equal(session.locks.counts.locks, 1);
      await session.close();
    }
  });

  it('is refused where the backend has no durable keys', async () => {
    const tiny = new TinyBackend();
    const running = await engine({
      mount: () => tiny.root,
      lookup: () => undefined,
      getattr: () => ({ mode: 0o40755 }),
    });
    await assert.rejects(saveExport(running.export, []), /durable node keys/);
  });
});
