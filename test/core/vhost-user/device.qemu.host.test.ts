import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ours, startDaemon } from '../../support/daemons.js';
import { until } from '../../support/vhost-user.js';

const unpacked = fileURLToPath(
  new URL('../../../../.cache/qemu/usr/bin/qemu-system-x86_64', import.meta.url),
);

/** A machine whose processor does not run; it ends by what is typed into its monitor. */
const MACHINE =
  '-M q35,accel=tcg -m 64M -S -nodefaults -display none -monitor stdio ' +
  '-object memory-backend-memfd,id=mem,size=64M,share=on -numa node,memdev=mem ' +
  '-device vhost-user-fs-pci,chardev=c,tag=t -chardev';

for (const program of ['/usr/bin/qemu-system-x86_64', unpacked]) {
  const skip = !existsSync(program) && `no ${program}`;
  test(
    `${program === unpacked ? 'the newer' : 'the installed'} QEMU takes the device without a warning`,
    { skip },
    async (t) => {
      const { socket } = startDaemon(t, ours);
      await until(() => existsSync(socket), 'the daemon listens');
      const { status, stdout, stderr } = spawnSync(
        program,
        [...MACHINE.split(' '), `socket,id=c,path=${socket}`],
        { input: 'info status\nquit\n', encoding: 'utf8', timeout: 60_000 },
      );
      assert.equal(stderr, '');
      assert.match(stdout, /paused/);
      assert.equal(status, 0);
    },
  );
}
