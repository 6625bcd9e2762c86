import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it, test } from 'node:test';
import { promisify } from 'node:util';
import { documents, root } from '../support/documents.js';

/*
 * The commands of the README and of the guides, as they stand there. Those that need nothing but
 * this machine run, in a mount namespace with a /srv, /run, /tmp and /mnt of its own. Of each of
 * the others it is said why it does not, and what runs it instead.
 */

interface Trial {
  readonly command: string;
  /** What a reader has before. */
  readonly given?: string;
  /** For a command that serves until it is ended: holds as soon as it does. */
  readonly ready?: string;
  /** Holds after the command, or while it serves. */
  readonly shows?: string;
}

const MOUNTED = "grep -q ' /mnt fuse' /proc/mounts";
const LAYERS = 'mkdir -p /srv/base /srv/patches /srv/changes; echo base > /srv/base/file';
const UPPER = `${LAYERS}; mkdir -p /srv/changes/data /srv/changes/work /srv/changes/kernel-work`;
const CHANGED = `${LAYERS}; echo added > /srv/changes/added; mkdir -p /tmp/out`;

const trials: readonly Trial[] = [
  {
    command:
      'virtiofs-kit serve --socket-path /tmp/fs.sock --tag data --backend passthrough --shared-dir /srv/data',
    given: 'mkdir /srv/data',
    ready: 'test -S /tmp/fs.sock',
  },
  {
    command: 'virtiofs-kit check-backend --backend ./hello.mjs',
    shows: "grep -q ' passed, 0 failed' said",
  },
  {
    command:
      'virtiofs-kit serve --socket-path /run/work.sock --backend passthrough --shared-dir /srv/work --watch',
    given: 'mkdir /srv/work',
    ready: 'test -S /run/work.sock',
  },
  {
    command: 'virtiofs-kit check-backend --backend ./environment.js',
    shows: "grep -q ' passed, 0 failed' said",
  },
  {
    command: 'virtiofs-kit mount /mnt --backend ./environment.js',
    given: 'export SHOWN=value',
    ready: MOUNTED,
    shows: 'test "$(cat /mnt/SHOWN)" = value',
  },
  {
    command: 'ln -s "$(command -v mount.virtiofs-kit)" /sbin/mount.virtiofs-kit',
    given: `mkdir /tmp/upper /tmp/work
      mount -t overlay -o lowerdir=/usr/sbin,upperdir=/tmp/upper,workdir=/tmp/work programs /usr/sbin`,
    shows: `mount -t virtiofs-kit virtiofs-kit:memfs /mnt -o log-file=/tmp/log; ${MOUNTED}; umount /mnt`,
  },
  {
    command: 'virtiofs-kit mount /mnt --backend overlay --lower /srv/base --upper memfs',
    given: LAYERS,
    ready: MOUNTED,
    shows: 'echo more >> /mnt/file; test "$(wc -l < /mnt/file)" = 2; test "$(cat /srv/base/file)" = base',
  },
  {
    command:
      'virtiofs-kit serve --socket-path /run/box.sock --tag box --backend overlay --lower passthrough:/srv/patches --lower passthrough:/srv/base --upper passthrough:/srv/changes',
    given: LAYERS,
    ready: 'test -S /run/box.sock',
  },
  {
    command:
      'virtiofs-kit mount /mnt --backend overlay --lower /srv/base --upper /srv/changes --upper-path /data --work-path /work',
    given: UPPER,
    ready: MOUNTED,
    shows: 'rm /mnt/file; echo made > /mnt/made; test "$(cat /srv/changes/data/made)" = made',
  },
  {
    command:
      'mount -t overlay overlay /mnt -o lowerdir=/srv/base,upperdir=/srv/changes/data,workdir=/srv/changes/kernel-work,redirect_dir=on,metacopy=on',
    given: UPPER,
    shows: 'test "$(cat /mnt/file)" = base; umount /mnt',
  },
  {
    command: 'virtiofs-kit overlay diff --lower /srv/base --upper /srv/changes',
    given: CHANGED,
    shows: "grep -q '^A .*added' said",
  },
  {
    command: 'virtiofs-kit overlay export layer.tar.gz --lower /srv/base --upper /srv/changes',
    given: `${CHANGED}; cd /tmp/out`,
    shows: 'tar -tzf layer.tar.gz | grep -q added',
  },
  {
    command: 'virtiofs-kit overlay commit --lower /srv/base --upper /srv/changes',
    given: CHANGED,
    shows: 'test "$(cat /srv/base/added)" = added; ! test -e /srv/changes/added',
  },
  {
    command:
      'virtiofs-kit-virtiofsd --socket-path=/run/vm001-fs.sock --shared-dir=/srv/vm001 --cache=auto --xattr',
    given: 'mkdir /srv/vm001',
    ready: 'test -S /run/vm001-fs.sock',
  },
  {
    command:
      'cp node_modules/virtiofs-kit/docs/50-virtiofs-kit.json /etc/qemu/vhost-user/10-virtiofs-kit.json',
    given: `mount -t tmpfs tmpfs /etc; mkdir -p /etc/qemu/vhost-user /tmp/node_modules; cd /tmp
      ln -s ${root} node_modules/virtiofs-kit`,
    shows: 'grep -q vhost-user /etc/qemu/vhost-user/10-virtiofs-kit.json',
  },
];

/** Commands that do not run here, by how they begin, with the reason. */
const elsewhere: readonly (readonly [begin: string, reason: string])[] = [
  ['npm run demo', 'boots a guest: a step of CI of its own'],
  ['npm init -y && npm i zod /path/to/virtiofs-kit', 'needs the registry: see program.host.test.ts'],
  ['virtiofs-kit guest ', 'boots a guest: see test/guest/guest.test.ts and examples.test.ts'],
  ['qemu-system-x86_64 … ', 'a line to be completed: the guests of test/guest are booted with these words'],
  ['migrate_incoming ', 'is said to a monitor of QEMU: see test/guest/migration.test.ts'],
  ['migrate tcp:', 'is said to a monitor of QEMU: see test/guest/migration.test.ts'],
  ['mount -t virtiofs work /mnt', 'is for a guest: see test/guest/watched.test.ts'],
  ['sh virtiofs-kit-agent /mnt &', 'is for a guest: see test/guest/watched.test.ts'],
  ['virtiofs-kit-virtiofsd --fd=33 ', 'needs a socket from the program that starts it, as libvirt does'],
  ['cloud-hypervisor … ', 'a line to be completed, and no package of Debian'],
  ['virtiofs-kit sandbox ', 'boots a guest: see test/guest/sandbox.test.ts and sandbox-api.test.ts'],
  ['skopeo ', 'needs a registry of images'],
];

/** The commands of a block, without comments. */
function commandsIn(block: string): string[] {
  return block
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .map((line) => line.replace(/(^|\s+)# .*$/, '').trim())
    .filter((line) => line !== '');
}

const guides = [...documents].filter(([path]) => /^(README\.md|docs\/[^/]+\.md)$/.test(path));

const commands = guides.flatMap(([path, text]) =>
  [...text.matchAll(/^```(?:sh|bash|console)\n([^]*?)^```/gm)].flatMap(([, block]) =>
    commandsIn(block!).map((command) => ({ path, command })),
  ),
);

test('each command in a guide runs here, or it is said why not', () => {
  assert.ok(commands.length >= 30, `${commands.length} commands`);
  const isTried = (command: string): boolean => trials.some((trial) => trial.command === command);
  const isElsewhere = (command: string): boolean => elsewhere.some(([begin]) => command.startsWith(begin));
  const unknown = commands.filter(({ command }) => isTried(command) === isElsewhere(command));
  assert.deepEqual(unknown, []);
  const stale = [
    ...trials.filter((trial) => !commands.some(({ command }) => command === trial.command)),
    ...elsewhere.filter(([begin]) => !commands.some(({ command }) => command.startsWith(begin))),
  ];
  assert.deepEqual(stale, []);
});

test('no block of commands in a guide is without its language', () => {
  const bare = guides.flatMap(([path, text]) =>
    [
      ...text.replaceAll(/^```\w+\n[^]*?^```$/gm, '').matchAll(/^```\n((?:virtiofs-kit|npm|mount) .*)$/gm),
    ].map(([, line]) => `${path}: ${line}`),
  );
  assert.deepEqual(bare, []);
});

const run = promisify(execFile);

describe('a command of the guides', { concurrency: 2 }, () => {
  let folder: string;
  before(() => {
    // Below the package's folder, so that backends find the package by its name.
    mkdirSync(join(root, '.cache'), { recursive: true });
    folder = mkdtempSync(join(root, '.cache', 'shell-'));
    const programs = join(folder, 'bin');
    mkdirSync(programs);
    for (const name of ['virtiofs-kit', 'virtiofs-kit-virtiofsd', 'mount.virtiofs-kit']) {
      const file = join(root, 'dist/program', `${name}.js`);
      writeFileSync(join(programs, name), `#!/bin/sh\nexec ${process.execPath} ${file} "$@"\n`);
      chmodSync(join(programs, name), 0o755);
    }
    const hello = /^\/\/ hello\.mjs\n[^]*?(?=^```)/m.exec(documents.get('README.md')!)![0];
    writeFileSync(join(folder, 'hello.mjs'), hello);
    copyFileSync(join(root, 'dist/examples/environment.js'), join(folder, 'environment.js'));
  });
  after(() => rmSync(folder, { recursive: true }));

  for (const [number, { command, given = '', ready, shows = '' }] of trials.entries()) {
    it(command, async () => {
      const home = join(folder, `home-${number}`);
      mkdirSync(home);
      for (const file of ['hello.mjs', 'environment.js']) copyFileSync(join(folder, file), join(home, file));
      const isolated = `mount --bind ${root} /mnt
        for place in /srv /run /tmp; do mount -t tmpfs tmpfs $place; done
        mkdir -p ${root}; mount --bind /mnt ${root}; umount /mnt; mount -t tmpfs tmpfs /mnt; cd ${home}`;
      const tried =
        ready === undefined
          ? `${command} > said || { cat said; exit 1; }\n${shows}`
          : `${command} > said 2>&1 & served=$!
            until ${ready}; do kill -0 $served || { cat said; exit 1; }; sleep 0.05; done
            ${shows}
            kill $served; wait $served`;
      const script = `${isolated}\n${given}\n${tried}`;
      const path = `${join(folder, 'bin')}:${process.env['PATH']}`;
      const { stderr } = await run('unshare', ['-m', 'bash', '-euc', script], {
        env: { ...process.env, PATH: path },
        timeout: 60_000,
      });
      assert.doesNotMatch(stderr, /error|fail/i);
    });
  }
});
