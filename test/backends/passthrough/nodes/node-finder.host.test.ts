import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { putName } from '../../../../backends/passthrough/calls/call-memory.js';
import { statName } from '../../../../backends/passthrough/calls/stat.js';
import type { Node } from '../../../../backends/passthrough/nodes/nodes.js';
import { options } from '../../../../backends/passthrough/options.js';
import { Share } from '../../../../backends/passthrough/share.js';
import { close, O } from '../../../../core/system/calls/files.js';
import { Lines } from '../harness.js';

/** More than birth times lag behind the clock. */
const OLD_MS = 60;

/** A share in which a file was just found that was not known, and two more are not known yet. */
async function shareOfNewFiles(t: TestContext, where: string): Promise<{ share: Share; directory: string }> {
  const directory = fs.mkdtempSync(join(where, 'vfk-finder-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  const share = new Share(options.parse({ sharedDir: directory }), new Lines());
  t.after(() => share.close());
  for (const name of ['first', 'second', 'third']) fs.writeFileSync(join(directory, name), '');
  await sleep(OLD_MS);
  lookUp(share, 'first');
  return { share, directory };
}

function lookUp(share: Share, name: string): Node {
  return share.lookUp(share.root, share.descriptor(share.root), putName(name), name)!.node;
}

/** The beginning of a look-up, up to the stat. */
function begin(share: Share, name: string): number {
  return share.finder.statName(share.root, share.descriptor(share.root), putName(name));
}

/** The end of a look-up. */
function end(share: Share, code: number, name: string): Node | undefined {
  return share.finder.found(code, share.root, share.descriptor(share.root), putName(name), name);
}

for (const where of [tmpdir(), '/dev/shm']) {
  test(`the next new file of a directory is looked at once (${where})`, async (t) => {
    const { share, directory } = await shareOfNewFiles(t, where);
    const code = begin(share, 'second');
    fs.renameSync(join(directory, 'second'), join(directory, 'moved'));
    const node = end(share, code, 'second');
    assert.ok(node !== undefined);
    const fd = share.nodes.openByHandle(node, O.RDONLY);
    assert.ok(fd >= 0);
    close(fd);
    assert.equal(lookUp(share, 'moved'), node);
  });

  test(`a name that is missing in it is found missing (${where})`, async (t) => {
    const { share } = await shareOfNewFiles(t, where);
    assert.equal(end(share, begin(share, 'nothing'), 'nothing'), undefined);
    assert.ok(lookUp(share, 'third'));
  });
}

test('a file that takes the place and the inode number of another between handle and stat is itself', async (t) => {
  const { share, directory } = await shareOfNewFiles(t, tmpdir());
  const path = join(directory, 'second');
  const { ino } = fs.statSync(path);
  begin(share, 'second');
  fs.unlinkSync(path);
  const others: string[] = [];
  for (let i = 0; ; i++) {
    fs.writeFileSync(path, '');
    if (fs.statSync(path).ino === ino) break;
    if (i === 100) {
      t.skip('the file system does not give the number again');
      return;
    }
    others.push(join(directory, `other-${i}`));
    fs.renameSync(path, others.at(-1)!);
  }
  const code = statName(share.descriptor(share.root), putName('second'));
  const node = end(share, code, 'second');
  assert.ok(node !== undefined);
  const fd = share.nodes.openByHandle(node, O.RDONLY);
  assert.ok(fd >= 0, `errno ${-fd}`);
  close(fd);
});
