import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FrontEnd } from '../../support/front-end.js';
import { connectTo, ours, startDaemon } from '../../support/daemons.js';
import { FuseClient, FuseError, ROOT } from '../../support/fuse-client.js';
import { fuseTransport } from '../../support/vhost-user.js';

const MIB = 2 ** 20;
const PROJECT = '7';
const [ENOSPC, EDQUOT] = [28, 122];

interface FileSystem {
  /** Makes one in an image. */
  readonly make: readonly string[];
  /** Gives an empty directory, and what will be made in it, to the project. */
  readonly assign: (directory: string, mountPoint: string) => readonly string[];
  /** What who has reached the limit is told. */
  readonly full: number;
}

const fileSystems: Readonly<Record<string, FileSystem>> = {
  ext4: {
    make: ['mkfs.ext4', '-q', '-O', 'quota,project', '-E', 'quotatype=prjquota'],
    assign: (directory) => ['chattr', '+P', '-p', PROJECT, directory],
    full: EDQUOT,
  },
  xfs: {
    make: ['mkfs.xfs', '-q'],
    assign: (directory, mountPoint) => [
      'xfs_quota',
      '-x',
      '-c',
      `project -s -p ${directory} ${PROJECT}`,
      mountPoint,
    ],
    full: ENOSPC,
  },
};

function run([program, ...words]: readonly string[]): void {
  execFileSync(program!, words, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Mounts one with project quotas. @returns where, or why that cannot be. */
function mounted(t: TestContext, { make }: FileSystem): { mountPoint: string } | { missing: string } {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-'));
  const [image, mountPoint] = [join(folder, 'image'), join(folder, 'mounted')];
  let isMounted = false;
  t.after(() => {
    // The daemon may still use it.
    if (isMounted) run(['umount', '-l', mountPoint]);
    rmSync(folder, { recursive: true });
  });
  mkdirSync(mountPoint);
  try {
    run(['truncate', '-s', '320M', image]);
    run([...make, image]);
    run(['mount', '-o', 'loop,prjquota', image, mountPoint]);
    isMounted = true;
    run(['xfs_quota', '-V']);
  } catch (error) {
    return { missing: (error as Error).message };
  }
  return { mountPoint };
}

/** Repeats a change until it fails. @returns how often it did not, and with what it failed. */
async function untilRefused(
  most: number,
  change: (i: number) => Promise<unknown>,
): Promise<[number, number]> {
  for (let i = 0; i < most; i++) {
    try {
      await change(i);
    } catch (error) {
      assert.ok(error instanceof FuseError, String(error));
      return [i, error.errno];
    }
  }
  return [most, 0];
}

for (const [name, fileSystem] of Object.entries(fileSystems)) {
  test(`a project quota of ${name} holds for guests, who see it as the size of the share`, async (t) => {
    const found = mounted(t, fileSystem);
    if ('missing' in found) {
      t.skip(found.missing);
      return;
    }
    const { mountPoint } = found;
    const limited = join(mountPoint, 'limited');
    mkdirSync(limited);
    run(fileSystem.assign(limited, mountPoint));
    run(['xfs_quota', '-f', '-x', '-c', `limit -p bhard=8m ihard=20 ${PROJECT}`, mountPoint]);
    // ext4 lets processes with CAP_SYS_RESOURCE pass; a confined daemon has not got it. What else
    // confines it does not matter here.
    const daemon = {
      ...ours,
      command: (...where: Parameters<typeof ours.command>) => [
        ...ours.command(...where),
        '--missing-layers',
        'warn',
      ],
    };
    const running = startDaemon(t, daemon, limited);
    const frontEnd = await FrontEnd.connect(await connectTo(running));
    t.after(() => frontEnd.close());
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    const empty = await fuse.statfs();
    assert.equal(empty.blocks * empty.frsize, 8 * MIB);
    assert.equal(empty.files, 20);

    const { entry, open } = await fuse.create(ROOT, 'large');
    const piece = Buffer.alloc(MIB, 'x');
    const [pieces, why] = await untilRefused(12, (i) => fuse.write(entry.nodeid, open.fh, i * MIB, piece));
    assert.equal(why, fileSystem.full);
    assert.ok(pieces === 7 || pieces === 8, `${pieces} MiB`);
    assert.ok((await fuse.statfs()).bfree * empty.frsize < MIB);
    await fuse.release(entry.nodeid, open.fh);
    await fuse.unlink(ROOT, 'large');
    await fuse.forget(entry.nodeid, 1n);

    const directories: bigint[] = [];
    const [made, whyNot] = await untilRefused(30, async (i) => {
      directories.push((await fuse.mkdir(ROOT, `${i}`)).nodeid);
    });
    assert.equal(whyNot, fileSystem.full);
    assert.ok(made > 10 && made < 20, `${made} directories`);
    assert.equal((await fuse.statfs()).ffree, 0);
    await fuse.rmdir(ROOT, '0');
    await fuse.forget(directories[0]!, 1n);
    // The daemon closes what was forgotten a little later.
    while ((await untilRefused(1, () => fuse.create(ROOT, 'again')))[0] === 0) await sleep(5);
  });
}
