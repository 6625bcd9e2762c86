import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { mountHelper as helper, program } from '../../../support/program.js';
import { temporaryFolder } from '../../../support/vhost-user.js';

const run = promisify(execFile);

test('a mount in the background is there when the command returns, and a failed one says why', async (t) => {
  const folder = temporaryFolder(t);
  const [directory, log] = [join(folder, 'mount'), join(folder, 'log')];
  mkdirSync(directory);
  const words = [program, 'mount', directory, '--daemon', '--log-file', log, '--backend'];
  await run(process.execPath, [...words, 'memfs']);
  try {
    assert.match(readFileSync('/proc/mounts', 'utf8'), new RegExp(`^virtiofs-kit:memfs ${directory} `, 'm'));
    writeFileSync(join(directory, 'file'), 'content');
    assert.equal(readFileSync(join(directory, 'file'), 'utf8'), 'content');
  } finally {
    await run('umount', [directory]);
  }
  assert.match(readFileSync(log, 'utf8'), /mounted/);
  const failed = run(process.execPath, [...words, 'passthrough', '--shared-dir', join(folder, 'nothing')]);
  await assert.rejects(failed, ({ code, stderr }: { code: number; stderr: string }) => {
    assert.equal(code, 2);
    assert.match(stderr, /^virtiofs-kit: .*nothing: no such directory\n$/);
    return true;
  });
});

test('mount(8) mounts every kind of backend that fstab names, once', async (t) => {
  const folder = temporaryFolder(t);
  for (const name of ['above', 'memory', 'shared', 'served']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'shared', 'file'), 'content');
  const line = (kind: string, where: string, options: string): string =>
    `virtiofs-kit:${kind} ${folder}/${where} virtiofs-kit log-file=${folder}/${where}.log,${options} 0 0\n`;
  const shared = line('passthrough', 'served', `shared-dir=${folder}/shared,ro,nofail`);
  writeFileSync(join(folder, 'fstab'), line('memfs', 'memory', 'size=1m,_netdev') + shared);
  // A directory of programs that is ours alone, so that mount(8) finds the helper.
  const script = `
    mount -t tmpfs above ${folder}/above && mkdir ${folder}/above/upper ${folder}/above/work
    mount -t overlay -o lowerdir=/usr/sbin,upperdir=${folder}/above/upper,workdir=${folder}/above/work programs /usr/sbin
    printf '#!/bin/sh\\nexec ${process.execPath} ${helper} "$@"\\n' > /usr/sbin/mount.virtiofs-kit
    chmod +x /usr/sbin/mount.virtiofs-kit
    for i in 1 2; do mount -a -T ${folder}/fstab; done
    trap 'umount ${folder}/memory ${folder}/served' EXIT
    echo made > ${folder}/memory/file; cat ${folder}/memory/file ${folder}/served/file
    echo; ! touch ${folder}/served/other 2> /dev/null
    grep -c ' ${folder}/memory ' /proc/mounts; grep -c ' ${folder}/served fuse[^ ]* ro' /proc/mounts`;
  const { stdout } = await run('unshare', ['-m', 'sh', '-euc', script]);
  assert.equal(stdout, 'made\ncontent\n1\n1\n');
});
