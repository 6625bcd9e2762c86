import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { after, it } from 'node:test';
import type { Guest } from '../../core/guest/index.js';
import { removeFolders, temporaryFolder, TestBucket } from '../backends/s3/support.js';
import { fastest } from '../support/uml.js';
import { WITHOUT_HARD_LINKS } from '../support/workloads.js';
import { runWorkloads } from './workloads.js';

after(removeFolders);

/**
 * Workloads that are left out. Hard links: an object has one name. Thousands of files: each takes
 * some requests, one after the other, which is minutes under emulation.
 * `reading-backend.s3.test.ts` lists large directories.
 */
const LACKS = /hard links share|4,000 files|names are removed and added/;

/** MiB of the file that fio writes; SIZE=512 for a long run. */
const SIZE = Number(process.env['SIZE'] ?? 64);

let bucket: TestBucket;

/** Runs a script in the mount, which must succeed. @returns what it printed. */
async function run(guest: Guest, script: string): Promise<string> {
  const { code, stdout, stderr } = await guest.exec(`set -eu\n${script}`);
  assert.equal(code, 0, `${stdout}${stderr}`);
  return stdout;
}

function moreTests(guest: () => Guest): void {
  it('a file that is saved by renaming, again and again, and appended to by two writers is what other readers see', async () => {
    await run(
      guest(),
      `
      mkdir saved; cd saved; echo 'version 0' > notes
      for version in 1 2 3 4 5; do
        mv notes notes~; echo "version $version" > notes; rm notes~
        echo "version $version again" > .notes.swp; mv .notes.swp notes
      done
      [ "$(cat notes)" = 'version 5 again' ]; [ "$(ls -A)" = notes ]
      exec 3>> log 4>> log
      for i in 1 2 3 4 5; do echo "first $i" >&3; echo "second $i" >&4; done
      exec 3>&- 4>&-; sync notes log; sync`,
    );
    assert.equal((await bucket.get('saved/notes')).toString(), 'version 5 again\n');
    const lines = [1, 2, 3, 4, 5].map((i) => `first ${i}\nsecond ${i}\n`);
    assert.equal((await bucket.get('saved/log')).toString(), lines.join(''));
    assert.deepEqual((await bucket.keys('saved/')).sort(), ['saved/', 'saved/log', 'saved/notes']);
  });

  it('fio writes at random into a large file, and other readers see the same bytes', async () => {
    const seen = await run(
      guest(),
      `
      fio --thread --name=large --filename=large --size=${SIZE}m --ioengine=psync --rw=randwrite --bs=64k --randseed=7 \\
        --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 --output=fio.log >&2 || { cat fio.log >&2; exit 1; }
      echo 1 > /proc/sys/vm/drop_caches
      sha256sum < large`,
    );
    const content = await bucket.get('large');
    assert.equal(content.length, SIZE * 2 ** 20);
    assert.equal(seen.split(' ')[0], createHash('sha256').update(content).digest('hex'));
  });

  it('what other writers change appears when what is known is too old', async () => {
    await bucket.put('elsewhere/file', 'first');
    await bucket.put('elsewhere/goes', 'soon');
    const script = 'sleep 6; ls elsewhere; cat elsewhere/file';
    assert.equal(await run(guest(), script), 'file\ngoes\nfirst');
    await bucket.put('elsewhere/file', 'the second');
    await bucket.put('elsewhere/new', 'new');
    await bucket.remove('elsewhere/goes');
    assert.equal(await run(guest(), script), 'file\nnew\nthe second');
  });
}

runWorkloads(
  's3',
  async () => {
    bucket = await TestBucket.create();
    const { name, endpoint } = bucket;
    return { type: 's3', bucket: name, endpoint, pathStyle: true, cacheDir: await temporaryFolder() };
  },
  { accelerator: fastest(), lacks: LACKS, prelude: WITHOUT_HARD_LINKS, more: moreTests },
);
