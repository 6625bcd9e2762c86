import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { InodeNumbers } from '../../../../backends/passthrough/maps/inode-numbers.js';
import { BackendRegistry, MountedExport } from '../../../../core/plugins/index.js';
import { keepingLog, shell, temporaryDirectory } from '../../../support/host-mount.js';

const run = (command: string, ...words: string[]): void => {
  const { status, stderr } = spawnSync(command, words, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
};

/** A share with another file system in it; both are new, and so number their files alike. */
async function twoDevices(): Promise<AsyncDisposable & { readonly share: string; readonly target: string }> {
  const host = await temporaryDirectory();
  const [share, target] = [join(host.path, 'share'), join(host.path, 'target')];
  const sub = join(share, 'sub');
  mkdirSync(share);
  mkdirSync(target);
  run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', share);
  mkdirSync(sub);
  run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', sub);
  for (const [directory, text] of [
    [share, 'outer'],
    [sub, 'inner'],
  ]) {
    const script = `for i in 1 2 3 4 5 6; do echo ${text} $i > f$i; ln f$i link$i; done; mkdir -p a/b/c`;
    run('sh', '-c', `cd "$1" && ${script}`, 'sh', directory!);
  }
  const unmount = async (): Promise<void> => {
    run('umount', sub);
    run('umount', share);
    await host[Symbol.asyncDispose]();
  };
  return { share, target, [Symbol.asyncDispose]: unmount };
}

for (const [name, backend] of [
  ['passthrough', (share: string) => ({ type: 'passthrough', sharedDir: share })],
  [
    'passthrough that crosses',
    (share: string) => ({ type: 'passthrough', sharedDir: share, submounts: 'cross' }),
  ],
  ['overlay', (share: string) => ({ type: 'overlay', upper: { type: 'memfs' }, lowers: [share] })],
] as const) {
  test(`${name}: tar, cp and find tell files of two devices apart that have equal numbers`, async () => {
    await using devices = await twoDevices();
    const { share, target } = devices;
    const registry = new BackendRegistry();
    const options = { directory: target, backend: backend(share), registry, log: keepingLog() };
    const mounted = await MountedExport.open(options);
    try {
      const { code, output } = await shell(
        `set -e; t=$(mktemp -d); trap 'rm -rf $t' EXIT; cd ${target}
        tar -cf $t/t.tar . ; mkdir $t/tar $t/cp; tar -xf $t/t.tar -C $t/tar; cp -a . $t/cp
        for copy in tar cp; do
          cat $t/$copy/f[1-6] $t/$copy/sub/f[1-6] | sort | uniq -c | awk '{ print $1, $2 }' | uniq -c
          stat -c %h $t/$copy/f1 $t/$copy/sub/link6
        done
        find . -type d | wc -l; find . -type f -printf '%i\\n' | sort | uniq -c | awk '{ print $1 }' | uniq -c
        ls -ai sub | awk '$2 == "f3" { print $1 }'; stat -c %i sub/f3; stat -c %i sub/link3`,
        '/',
      );
      assert.equal(code, 0, output);
      const lines = output
        .trimEnd()
        .split('\n')
        .map((line) => line.trim());
      const copies = ['6 1 inner', '6 1 outer', '2', '2'];
      // Nine directories: the root, sub, and three of each device; 12 files of two links each.
      assert.deepEqual(lines.slice(0, -3), [...copies, ...copies, '8', '12 2'], output);
      assert.equal(new Set(lines.slice(-3)).size, 1, output);
    } finally {
      await mounted.close();
    }
  });
}

test('numbers of another device are the same after a restart, and meet no other', () => {
  const seen = new Set<number | bigint>();
  const numbers = new InodeNumbers(1);
  const again = new InodeNumbers(1);
  again.enter(70, [7, 7, 7]);
  for (let device = 2; device < 200; device++) {
    const identity = [device * 3, 5, device];
    numbers.enter(device, identity);
    const later = new InodeNumbers(9);
    later.enter(device + 1000, identity);
    for (const ino of [1, 2, 256, 2 ** 39]) {
      const shown = numbers.shown(device, ino);
      assert.ok(Number.isSafeInteger(shown) && !seen.has(shown) && shown > 2 ** 40);
      seen.add(shown);
      if (device < 20) assert.equal(later.shown(device + 1000, ino), shown);
    }
    const wide = numbers.shown(device, 0xfedc_ba98_7654_3210n - BigInt(device));
    assert.ok(Number.isSafeInteger(wide) && wide >= 2 ** 52 && !seen.has(wide));
    seen.add(wide);
  }
  assert.equal(numbers.shown(1, 42), 42);
  assert.equal(numbers.shown(1, 2n ** 60n), 2n ** 60n);
});
