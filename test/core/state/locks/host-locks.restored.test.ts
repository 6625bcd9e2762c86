import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Errno, FsError, LockHold, wrap, type Backend } from '../../../../core/backend/index.js';
import { restoreSession, saveSession, type Session } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import {
  recoverExport,
  replay,
  restoreExport,
  saveExport,
  type Restored,
} from '../../../../core/state/index.js';
import { MemoryLog, type Guest } from '../../../support/engine.js';
import { FuseClient, rejectsWith, ROOT, type FileLock } from '../../../support/fuse-client.js';
import { journaled, PlainMemory, type Journaled } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { TinyBackend, type TinyNode } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 8192;
const SHARED: FileLock = { start: 0n, end: 9n, type: 0, pid: 1 };
const EXCLUSIVE: FileLock = { ...SHARED, type: 1 };

/** Locks of one file that processes of the host, and other hosts, keep to. */
class Outside {
  mine: LockHold = LockHold.NONE;
  theirs: LockHold = LockHold.NONE;
  readonly tiny = new TinyBackend();

  /** The file system of an engine, with these locks. */
  backend(): Backend<TinyNode> {
    const lock = (_node: TinyNode, hold: LockHold): void => {
      if (hold > this.mine && hold + this.theirs > LockHold.EXCLUSIVE && this.theirs > 0)
        throw FsError.of('EAGAIN');
      this.mine = hold;
    };
    return wrap<TinyNode, unknown>(this.tiny as Backend<TinyNode>, {}, { add: { lock } });
  }
}

type End = (
  running: Journaled,
  guest: Guest,
  memory: PlainMemory,
) => Promise<(outside: Outside) => Promise<Restored>>;

const options = () => ({ log: new MemoryLog(), createBuffer: hostBuffer });

const ends: Readonly<Record<string, End>> = {
  'was saved and restored': async (running, { session }) => {
    const bytes = await saveExport(running.export, [saveSession.bind(undefined, session)]);
    return (outside) => restoreExport(outside.backend(), bytes, options());
  },
  'was killed': (_running, _guest, memory) => {
    const left = replay(memory)!;
    return Promise.resolve((outside) => recoverExport(outside.backend(), left, options()));
  },
};

/** @param meanwhile what happens outside while there is no engine, which has no locks then. */
async function over(end: End, lock: FileLock, meanwhile: (outside: Outside) => void) {
  const outside = new Outside();
  const memory = new PlainMemory(WORDS);
  const running = await journaled(outside.backend(), memory);
  const guest = running.kept();
  await guest.client.init();
  const { entry, open } = await guest.client.create(ROOT, 'file');
  await guest.client.setlk(entry.nodeid, open.fh, 7n, lock);
  const restore = await end(running, guest, memory);
  outside.tiny.openFiles.clear();
  outside.mine = LockHold.NONE;
  meanwhile(outside);
  const restored = await restore(outside);
  const session: Session = await restoreSession(restored, restored.sessions[0]!);
  restored.finish();
  const client = new FuseClient(new Loopback(session));
  return { outside, session, client, nodeid: entry.nodeid, fh: open.fh };
}

for (const [how, end] of Object.entries(ends)) {
  for (const [kind, lock, hold] of [
    ['a shared', SHARED, LockHold.SHARED],
    ['an exclusive', EXCLUSIVE, LockHold.EXCLUSIVE],
  ] as const)
    test(`${kind} lock that the host keeps to is had again when an engine ${how}`, async () => {
      const { outside, session, client, nodeid, fh } = await over(end, lock, () => undefined);
      assert.equal(outside.mine, hold);
      assert.equal(session.counters.lostLocks, 0);
      await client.read(nodeid, fh, 0, 1);
      await client.flush(nodeid, fh, 7n);
      assert.equal(outside.mine, LockHold.NONE);
    });

  test(`a file whose lock somebody of the host has taken when an engine ${how} gives EIO until it is closed`, async () => {
    const { outside, session, client, nodeid, fh } = await over(end, EXCLUSIVE, (its) => {
      its.theirs = LockHold.SHARED;
    });
    assert.equal(outside.mine, LockHold.NONE);
    assert.equal(session.counters.lostLocks, 1);
    await rejectsWith(client.read(nodeid, fh, 0, 1), Errno.EIO);
    await client.release(nodeid, fh);
    const again = await client.open(nodeid, 2);
    await client.setlk(nodeid, again.fh, 7n, SHARED);
    await rejectsWith(client.setlk(nodeid, again.fh, 7n, EXCLUSIVE), Errno.EAGAIN);
    assert.equal(outside.mine, LockHold.SHARED);
  });
}
