import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { FILE_HANDLE } from '../support/file-handles.js';
import { fastest } from '../support/uml.js';
import { DaemonWithGuests } from './daemon-with-guests.js';

/** Opens each handle until it leads to its file again: a node is forgotten some time after it. */
const SCRIPT = `${FILE_HANDLE}
set -eu
mkdir -p sub/deep; for f in a sub/b sub/deep/c moved gone; do echo "in $f" > $f; done; sync
names='a sub/b sub/deep/c sub sub/deep moved gone'
for f in $names; do file_handle save $f > /tmp/$(echo $f | tr / -); done
mv moved sub/there; rm gone
for round in 1 2 3; do
  sync; echo 3 > /proc/sys/vm/drop_caches; sleep 0.2
  for f in $names; do echo "$(file_handle open . $(cat /tmp/$(echo $f | tr / -)))"; done
done`;

describe('a guest', () => {
  let served: DaemonWithGuests;
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-handles-'));
    const limits = { remembered: 100 };
    served = await DaemonWithGuests.boot(
      [
        { backend: { type: 'memfs' }, limits },
        { tag: 'passthrough', backend: { type: 'passthrough', sharedDir: folder }, limits },
      ],
      { hostTools: true, accelerator: fastest() },
    );
  });
  after(async () => {
    await served[Symbol.asyncDispose]();
    await rm(folder, { recursive: true });
  });

  for (const [kind, at] of [
    ['memfs', '/mnt'],
    ['passthrough', '/mnt/passthrough'],
  ])
    it(`opens files and directories of ${kind} by their handles after caches were dropped`, async () => {
      await served.guest.exec(['mkdir', `${at}/handles`]);
      const { code, stdout, stderr } = await served.guest.exec(SCRIPT, { folder: `${at}/handles` });
      assert.equal(`${stderr}exit ${code}`, 'exit 0');
      const once = ['in a', 'in sub/b', 'in sub/deep/c', '. .. b deep there', '. .. c', 'in moved'];
      const round = [...once, 'Stale file handle'];
      assert.deepEqual(stdout.trimEnd().split('\n'), [...round, ...round, ...round]);
    });
});
