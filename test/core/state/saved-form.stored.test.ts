import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { restoreSession } from '../../../core/fuse/index.js';
import { hostBuffer } from '../../../core/memory/index.js';
import { restoreExport } from '../../../core/state/index.js';
import { OLDEST_VERSION, SAVED_VERSION } from '../../../core/state/saved-form.js';
import { MemoryLog } from '../../support/engine.js';
import { goesOn, unpack } from '../../support/stored-guests.js';
import { storedStates } from '../../support/stored-states.js';

for (const { version, bytes, guests } of storedStates) {
  test(`guests that an engine of version ${version} has saved go on with everything`, async () => {
    const log = new MemoryLog();
    const { backend } = new MemfsVolume();
    const restored = await restoreExport(backend, unpack(bytes), { log, createBuffer: hostBuffer });
    assert.equal(restored.sessions.length, guests.length);
    for (const [number, saved] of restored.sessions.entries()) {
      const session = await restoreSession(restored, saved);
      await goesOn(session, guests[number]!, number, 2);
    }
    restored.finish();
    assert.deepEqual(log.lines, []);
  });
}

test('a state of each version that is read is stored', () => {
  const versions = Array.from({ length: SAVED_VERSION - OLDEST_VERSION + 1 }, (_, i) => OLDEST_VERSION + i);
  for (const { version, bytes } of storedStates) assert.equal(unpack(bytes).readUInt32LE(8), version);
  assert.deepEqual(
    storedStates.map(({ version }) => version),
    versions,
  );
});
