import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { FsError } from '../../core/backend/index.js';
import { restoreSession, saveSession, type Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { restoreExport, saveExport } from '../../core/state/index.js';
import { decodeSaved, encodeSaved } from '../../core/state/saved-form.js';
import { engine, MemoryLog } from '../support/engine.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';
import { checkProperty, Random } from '../support/random.js';
import { mutate } from '../support/saved-states.js';
import { TinyBackend } from '../support/tiny-backend.js';

/** Mutated states that are restored; VIRTIOFS_KIT_FUZZ sets another number. */
const STATES = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 100_000);
/** States in each of fast-check's runs. */
const PER_RUN = 200;
const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

/** Two guests with files, directory streams, locks held and waited for. */
async function busyState(tiny: TinyBackend): Promise<Uint8Array> {
  const running = await engine(tiny);
  const guests = [running.guest(), running.guest()];
  const waits: Promise<unknown>[] = [];
  for (const [number, { client }] of guests.entries()) {
    await client.init();
    const { entry, open } = await client.create(ROOT, `file${number}`);
    await client.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
    await client.setlk(entry.nodeid, open.fh, 7n, LOCK);
    waits.push(client.setlk(entry.nodeid, open.fh, 8n, LOCK, true).catch(() => undefined));
    const directory = await client.mkdir(ROOT, `directory${number}`);
    await client.mkdir(directory.nodeid, 'inner');
    const listing = await client.opendir(ROOT);
    await client.readdir(ROOT, listing.fh, 0n, 64);
  }
  const bytes = await saveExport(
    running.export,
    guests.map(({ session }) => saveSession.bind(undefined, session)),
  );
  for (const { session } of guests) await session.drain();
  await Promise.all(waits);
  return bytes;
}

/** @returns whether the state was accepted. */
async function restoreOnce(tiny: TinyBackend, bytes: Uint8Array): Promise<boolean> {
  const sessions: Session[] = [];
  let close: (() => Promise<void>) | undefined;
  try {
    const restored = await restoreExport(tiny, bytes, { log: new MemoryLog(), createBuffer: hostBuffer });
    close = () => restored.export.close();
    for (const saved of restored.sessions) sessions.push(await restoreSession(restored, saved));
    restored.finish();
    for (const session of sessions) {
      if (session.negotiated === undefined) continue;
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

test('mutated saved states are refused cleanly, or restored to a session that works', async (t) => {
  const tiny = new TinyBackend();
  const bytes = await busyState(tiny);
  tiny.openFiles.clear();
  const { saved, backendState } = decodeSaved(bytes);
  assert.equal(await restoreOnce(tiny, bytes), true);
  let [accepted, refused] = [0, 0];
  const property = fc.asyncProperty(fc.integer(), async (seed) => {
    const random = new Random(seed);
    for (let i = 0; i < PER_RUN; i++) {
      let mutated: Uint8Array;
      if (random.below(4) === 0) {
        mutated = bytes.slice(0, random.below(3) === 0 ? random.below(bytes.length) : bytes.length);
        for (let flips = random.below(4); flips > 0 && mutated.length > 0; flips--)
          mutated[random.below(mutated.length)] = random.below(256);
      } else {
        const copy = structuredClone(saved);
        for (let changes = 1 + random.below(3); changes > 0; changes--) mutate(copy, random);
        mutated = encodeSaved(copy, backendState);
      }
      if (await restoreOnce(tiny, mutated)) accepted += 1;
      else refused += 1;
    }
    assert.equal(tiny.openFiles.size, 0);
  });
  await checkProperty(t, property, { numRuns: Math.ceil(STATES / PER_RUN) });
  t.diagnostic(`${accepted} restored, ${refused} refused`);
  assert.ok(accepted > 0 && refused > 0);
});
