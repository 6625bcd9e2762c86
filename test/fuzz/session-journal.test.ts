import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { FsError } from '../../core/backend/index.js';
import { recoverRequests, restoreSession, type Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { IntentKind, NO_PLACE, NO_SLOT, recoverExport, replay, type Slot } from '../../core/state/index.js';
import { MemoryLog } from '../support/engine.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { journaled, PlainMemory } from '../support/journaled.js';
import { Loopback } from '../support/loopback.js';
import { checkProperty, Random } from '../support/random.js';
import { TinyBackend } from '../support/tiny-backend.js';

/** Mutated journals that are read; VIRTIOFS_KIT_FUZZ sets another number. */
const JOURNALS = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 20_000);
/** Journals in each of fast-check's runs. */
const PER_RUN = 200;
const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

const WORDS = 1024 + 2 * 8192;
/** The header's words: magic, version, order, and the lengths of both parts. */
const HEADER_WORDS = 5;

/** A journal with records of every type, in both parts. */
async function busyJournal(tiny: TinyBackend): Promise<PlainMemory> {
  const memory = new PlainMemory(WORDS);
  const running = await journaled(tiny, memory);
  const root = running.export.nodes.find(1 as never, 0 as never);
  for (const number of [0, 1]) {
    const { session, client } = running.kept();
    await client.init();
    const { entry, open } = await client.create(ROOT, `file${number}`, 0o644, 0o2002);
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    await client.setlk(entry.nodeid, open.fh, 7n, LOCK);
    const directory = await client.mkdir(ROOT, `directory${number}`);
    await client.mkdir(directory.nodeid, 'inner');
    const listing = await client.opendir(ROOT);
    await client.readdir(ROOT, listing.fh, 0n, 64);
    const removed = await client.create(ROOT, 'removed');
    const journal = session.journal!;
    const slot = session.counts.resolve(
      Number(removed.entry.nodeid & 0xffffffffn) as never,
      Number(removed.entry.nodeid >> 32n) as never,
    );
    journal.hold(Math.max(slot, 1) as Slot);
    await client.unlink(ROOT, 'removed');
    const key = { slot: NO_SLOT, key: tiny.key(tiny.root) };
    const other = { slot: NO_SLOT, key: Buffer.from('bytes as a key') };
    const known = { slot, key: undefined };
    journal.intend(100, 0, IntentKind.CREATION, root, 'new');
    journal.intend(101, 0, IntentKind.LINK, root, 'link', other);
    journal.intend(102, 0, IntentKind.REMOVAL, root, 'file0', key);
    journal.intend(103, 0, IntentKind.RENAME, root, 'file1', known, root, 'file2');
    journal.intend(104, 0, IntentKind.XATTR_SET, root, 'user.a');
    journal.intend(105, 0, IntentKind.XATTR_REMOVED, root, 'user.b');
    journal.intend(106, 0, IntentKind.APPEND, root, '', undefined, root, '', 3, 5);
    journal.intend(109, 0, IntentKind.MOVE, root, '', undefined, NO_SLOT, '', 3);
    journal.keep(107, 0, { kind: 'happened', bytes: 5 });
    for (const place of [NO_PLACE, 5]) {
      const words = Int32Array.of(1, 2);
      journal.keep(108, 0, { kind: 'answered', place, length: 8, words });
      journal.keep(109, 0, { kind: 'gave', place: place + 1, lookups: [[slot, 1]] });
    }
    await client.lookup(ROOT, 'file0');
  }
  return memory;
}

/** Goes on from a journal, as the next engine does. @returns whether it was accepted. */
async function goOn(tiny: TinyBackend, memory: PlainMemory): Promise<boolean> {
  const sessions: Session[] = [];
  let close: (() => Promise<void>) | undefined;
  try {
    const left = replay(memory);
    if (left === undefined) return false;
    const restored = await recoverExport(tiny, left, { log: new MemoryLog(), createBuffer: hostBuffer });
    close = () => restored.export.close();
    for (const saved of restored.sessions) sessions.push(await restoreSession(restored, saved));
    await recoverRequests(restored, left, sessions);
    restored.finish();
    for (const session of sessions) {
      if (session.negotiated === undefined) continue;
      // The new client's requests have other ids than those that come again.
      session.recovered = undefined;
      const client = new FuseClient(new Loopback(session));
      await client.getattr(ROOT);
    }
    return true;
  } catch (error) {
    // Any other error would be a fault of this program.
    if (!(error instanceof RangeError || error instanceof FsError)) throw error;
    return false;
  } finally {
    for (const session of sessions) await session.close();
    await close?.();
  }
}

const STRANGE = [0, 1, -1, 2, 3, 4, 7, 255, 256, 65536, 2 ** 29, 2 ** 30, 2 ** 31 - 1, -(2 ** 31)];

test('mutated session journals are refused cleanly, or sessions go on that work', async (t) => {
  const tiny = new TinyBackend();
  const { words } = await busyJournal(tiny);
  tiny.openFiles.clear();
  const length = words[3]!;
  const memory = new PlainMemory(WORDS);
  memory.words.set(words);
  assert.equal(await goOn(tiny, memory), true);
  let [accepted, refused] = [0, 0];
  const property = fc.asyncProperty(fc.integer(), async (seed) => {
    const random = new Random(seed);
    for (let i = 0; i < PER_RUN; i++) {
      memory.words.set(words);
      const place = () => (random.once(12) ? random.below(HEADER_WORDS) : 1024 + random.below(length));
      // A process that was killed leaves a shorter log.
      if (random.once(3)) memory.words[3] = random.below(length + 1);
      // Both parts count while one takes the place of the other.
      if (random.once(6)) {
        const at = 1024 + 8192;
        memory.words.copyWithin(at, 1024, 1024 + length);
        memory.words[4] = length;
        memory.words[2] = random.pick([1, 2, 3]);
      }
      for (let changes = random.below(5); changes > 0; changes--) {
        const at = place();
        const choice = random.below(4);
        if (choice === 0) memory.words[at] = memory.words[at]! ^ (1 << random.below(32));
        else if (choice === 1) memory.words[at] = random.pick(STRANGE);
        else if (choice === 2) memory.words[at] = random.next();
        else memory.words.copyWithin(at, place(), place() + random.below(40));
      }
      if (await goOn(tiny, memory)) accepted += 1;
      else refused += 1;
    }
    assert.equal(tiny.openFiles.size, 0);
  });
  await checkProperty(t, property, { numRuns: Math.ceil(JOURNALS / PER_RUN) });
  t.diagnostic(`${accepted} went on, ${refused} refused`);
  assert.ok(accepted > 0 && refused > 0);
});
