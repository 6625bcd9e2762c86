import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { BackendRegistry } from '../../../core/plugins/index.js';
import { hostBuffer } from '../../../core/memory/index.js';
import { keepingLog } from '../../support/host-mount.js';
import { caller } from './support.js';

/** Mode, owner and group of the root directory of a memfs with these options. */
async function rootOf(
  options: object,
  continues = false,
): Promise<[string, number | undefined, number | undefined]> {
  const log = keepingLog();
  const given = { log, ...(continues ? { continues } : {}) };
  const backend = await new BackendRegistry().create({ type: 'memfs', ...options }, given);
  const root = await backend.mount({ log, createBuffer: hostBuffer });
  const { mode, uid, gid } = await backend.getattr(root, undefined, caller());
  await backend.unmount?.();
  return [(mode & 0o7777).toString(8), uid, gid];
}

test('the root directory has the mode and the owner asked for', async (t) => {
  assert.deepEqual(await rootOf({}), ['755', 0, 0]);
  assert.deepEqual(await rootOf({ mode: '1777' }), ['1777', 0, 0]);
  assert.deepEqual(await rootOf({ mode: 0o700, uid: 1000 }), ['700', 1000, 0]);
  const from = mkdtempSync(join(tmpdir(), 'vfk-memfs-'));
  t.after(() => rmSync(from, { recursive: true }));
  mkdirSync(join(from, 'directory'));
  assert.deepEqual(await rootOf({ from, gid: 7, mode: '0711' }), ['711', process.getuid!(), 7]);
  // What goes on is as it was left.
  assert.deepEqual(await rootOf({ mode: '1777', uid: 5 }, true), ['755', 0, 0]);
  await assert.rejects(rootOf({ mode: '888' }), /must be octal/);
  await assert.rejects(rootOf({ uid: -1 }), /uid/);
});
