import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { packRemoved, unpackRemoved } from '../../../../backends/passthrough/nodes/removed-files.js';
import { options } from '../../../../backends/passthrough/options.js';
import { Share } from '../../../../backends/passthrough/share.js';
import { close } from '../../../../core/system/calls/files.js';
import type { Fd } from '../../../../core/system/index.js';
import { Lines } from '../harness.js';

const MIB = 2 ** 20;

/** A share, and a file in it without a name. */
function shareWithFile(t: TestContext): { share: Share; fd: Fd } {
  const directory = fs.mkdtempSync(join(tmpdir(), 'vfk-removed-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  const share = new Share(options.parse({ sharedDir: directory, xattr: true }), new Lines());
  t.after(() => share.close());
  const fd = fs.openSync(join(directory, 'file'), 'w+');
  t.after(() => fs.closeSync(fd));
  fs.unlinkSync(join(directory, 'file'));
  return { share, fd: fd as Fd };
}

test('a removed file that grows while it is packed is unpacked as it was', async (t) => {
  const { share, fd } = shareWithFile(t);
  fs.writeSync(fd, 'begin', 0);
  fs.writeSync(fd, 'end', 4 * MIB);
  const packing = packRemoved(share, fd, MIB);
  const isPacked = packing.then(() => true);
  for (let at = 4 * MIB + 3; !(await Promise.race([isPacked, nextTurn(false)])); at += 4096)
    fs.writeSync(fd, Buffer.alloc(4096, 'x'), 0, 4096, at);
  const record = await packing;
  assert.ok(record !== undefined);
  let copy: fs.BigIntStats | undefined;
  const entered = unpackRemoved(share, record, (path) => {
    copy = fs.statSync(`/proc/self/fd/${path}`, { bigint: true });
    close(path);
    return undefined;
  });
  await assert.rejects(entered, { code: 'ESTALE' });
  assert.ok(copy !== undefined && copy.size > 4n * BigInt(MIB));
});

test('what a removed file has beside its data counts as what it takes', async (t) => {
  const { share, fd } = shareWithFile(t);
  fs.writeSync(fd, 'data', 0);
  const whole = await packRemoved(share, fd, MIB);
  assert.ok(whole !== undefined);
  assert.equal((await packRemoved(share, fd, whole.length))?.length, whole.length);
  assert.equal(await packRemoved(share, fd, whole.length - 1), undefined);
});
