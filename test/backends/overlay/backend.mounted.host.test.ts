import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Backend } from '../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { contend, MountedExport, shell, temporaryDirectory } from '../../support/host-mount.js';
import { workloads } from '../../support/workloads.js';
import { defaults, memoryLayer, share } from './support.js';

/** A lower in which each workload and each test of this file finds something of its own. */
const LOWER = `set -eu
  for i in $(seq 0 40); do mkdir w$i; done
  mkdir locks tree; echo lower > locks/file
  mkdir -p tree/a/b; echo one > tree/a/b/one; echo two > tree/a/two; ln tree/a/two tree/a/b/hard; ln -s two tree/a/link
  echo ok`;

const STATE = 'find . -type f -exec cat {} + | sort; find . -printf "%p %y %m %n %l\\n" | sort';

const kinds: readonly [string, (directory: string) => Promise<Backend>][] = [
  ['memfs over passthrough', () => memoryLayer()],
  ['passthrough over passthrough', async (directory) => share(directory)],
];

for (const [kind, makeUpper] of kinds) {
  describe(`over a host mount of ${kind}`, () => {
    let lower: Awaited<ReturnType<typeof temporaryDirectory>>;
    let upper: Awaited<ReturnType<typeof temporaryDirectory>>;
    let mounted: MountedExport;
    let state: string;
    before(async () => {
      lower = await temporaryDirectory();
      upper = await temporaryDirectory();
      assert.match((await shell(LOWER, lower.path)).output, /ok\n$/);
      state = (await shell(STATE, lower.path)).output;
      const layers = { upper: await makeUpper(upper.path), lowers: [share(lower.path)] };
      mounted = await MountedExport.open(createOverlay({ ...defaults, ...layers }) as Backend, { times: 2 });
    });
    after(async () => {
      await mounted[Symbol.asyncDispose]();
      await lower[Symbol.asyncDispose]();
      await upper[Symbol.asyncDispose]();
    });

    workloads.forEach(({ name, script }, index) => {
      it(`in a directory of the lower: ${name}`, async () => {
        const { code, output } = await shell(`cd w${index}\n${script}`, mounted.directory);
        assert.match(output, /(^|\n)ok\n$/);
        assert.equal(code, 0);
      });
    });

    contend(() => mounted);

    it('a lock taken before a copy-up keeps others out after it', async () => {
      const { code, output } = await shell(
        `set -eu; cd locks
        exec 8< file; flock -x 8
        ! flock -n -s file true
        echo changed > file
        ! flock -n -s file true
        [ "$(cat <&8)" = changed ]
        flock -u 8; flock -n -x file true; echo ok`,
        mounted.directory,
      );
      assert.equal(output, 'ok\n');
      assert.equal(code, 0);
    });

    it('what one hard link of a lower file is given is seen through the other', async () => {
      const { output } = await shell(
        `set -eu; cd tree/a
        exec 7< two; [ "$(head -c 3 <&7)" = two ]
        echo TWO > b/hard; [ "$(cat two)" = TWO ]; exec 6< two; [ "$(cat <&6)" = TWO ]
        [ "$(stat -c %h,%i two)" = "$(stat -c %h,%i b/hard)" ]; [ "$(stat -c %h two)" = 2 ]; echo ok`,
        mounted.directory,
      );
      assert.equal(output, 'ok\n');
    });

    it('a whole tree of the lower is moved, emptied and made again', async () => {
      const { output } = await shell(
        `set -eu; mv tree moved; [ "$(cat moved/a/b/one)" = one ]; [ ! -e tree ]
        mkdir tree; [ -z "$(ls -A tree)" ]; mv moved/a tree/; [ "$(cat tree/a/b/one)" = one ]
        rm -r tree moved; [ ! -e tree ]; mkdir -p tree/a; [ -z "$(ls -A tree/a)" ]; echo ok`,
        mounted.directory,
      );
      assert.equal(output, 'ok\n');
    });

    it('the lower is as it was, nothing was logged as wrong, and no lock or node is left', async () => {
      assert.match(state, /lower\none\ntwo\ntwo/);
      assert.equal((await shell(STATE, lower.path)).output, state);
      assert.deepEqual(mounted.log.lines, []);
      assert.deepEqual(mounted.export.locks.counts, { locks: 0, waiters: 0 });
    });
  });
}
