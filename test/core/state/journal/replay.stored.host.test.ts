import assert from 'node:assert/strict';
import { writeSync } from 'node:fs';
import { test } from 'node:test';
import { MemfsVolume } from '../../../../backends/memfs/index.js';
import type { LastingMemory } from '../../../../core/backend/accelerator.js';
import { recoverRequests, restoreSession, type Session } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { contentsMemory, makeContentsMemory } from '../../../../core/plugins/lasting-memory.js';
import { Journal, recoverExport, replay } from '../../../../core/state/index.js';
import { JOURNAL } from '../../../../core/state/journal/records.js';
import { MemoryLog } from '../../../support/engine.js';
import { FuseClient, rejectsWith, ROOT } from '../../../support/fuse-client.js';
import { PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { goesOn, unpack } from '../../../support/stored-guests.js';
import { storedJournals } from '../../../support/stored-states.js';

/** The words of the journals' memory. */
const WORDS = 1024 + 2 * 8192;

/** A client whose next request has an id. */
function clientAt(session: Session, unique: bigint): FuseClient {
  const client = new FuseClient(new Loopback(session));
  while (client.unique < unique - 2n) client.encode(0, 0n, new Uint8Array(0));
  return client;
}

for (const { version, journal, contents, removal, renaming, guests } of storedJournals) {
  test(`guests of a killed engine with a journal of version ${version} go on, and nothing is done twice`, async (t) => {
    const memory = new PlainMemory(WORDS);
    Buffer.from(memory.words.buffer).set(unpack(journal));
    const { backend } = new MemfsVolume();
    const kept = (size: number): LastingMemory => {
      const fd = makeContentsMemory(size);
      t.after(() => fd.close());
      for (const [at, bytes] of contents) writeSync(fd.value, unpack(bytes), 0, null, at);
      return contentsMemory(fd);
    };

    const log = new MemoryLog();
    const read = replay(memory)!;
    const restored = await recoverExport(backend, read, {
      log,
      createBuffer: hostBuffer,
      contentsMemory: kept,
    });
    const sessions: Session[] = [];
    for (const saved of restored.sessions) sessions.push(await restoreSession(restored, saved));
    await recoverRequests(restored, read, sessions);
    const holder = { hold: () => 1, drop: () => undefined };
    const next = new Journal(restored.export, { memory: new PlainMemory(WORDS), holder, log });
    for (const session of sessions) session.journal = next.register(session, { connection: 0, socket: 0 });
    next.begin();
    restored.finish();
    assert.deepEqual(log.lines, []);

    const [one, two] = sessions as [Session, Session];
    await clientAt(one, removal).unlink(ROOT, 'file0');
    await clientAt(two, renaming).rename(ROOT, 'file1', ROOT, 'moved');
    for (const [number, session] of sessions.entries()) {
      // What follows has ids anew.
      session.recovered = undefined;
      await goesOn(session, guests[number]!, number, 3);
    }
    const client = new FuseClient(new Loopback(one));
    for (const name of ['file0', 'file1']) await rejectsWith(client.lookup(ROOT, name), 2);
    await client.lookup(ROOT, 'moved');
  });
}

test('a journal of each version that is read is stored', () => {
  const versions = storedJournals.map(({ version }) => version);
  for (const { version, journal } of storedJournals) assert.equal(unpack(journal).readInt32LE(4), version);
  const read = Array.from({ length: JOURNAL.version - JOURNAL.oldest + 1 }, (_, i) => JOURNAL.oldest + i);
  assert.deepEqual(versions, read);
});
