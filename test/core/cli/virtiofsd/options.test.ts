import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { UsageError } from '../../../../core/backend/index.js';
import { parseVirtiofsd, VIRTIOFSD_HELP } from '../../../../core/cli/virtiofsd/options.js';
import { root } from '../../../support/documents.js';

test("virtiofsd's long options become this program's", () => {
  const { backend, settings, sandbox, seccomp, modcaps } = parseVirtiofsd([
    '--socket-path=/run/s',
    '--shared-dir',
    '/srv',
    '--cache=never',
    '--posix-acl',
    '--inode-file-handles=mandatory',
    '--no-announce-submounts',
    '--translate-uid',
    'map:0:1000:1',
    '--gid-map=:0:100:1:',
    '--sandbox=none',
    '--seccomp',
    'log',
    '--modcaps=-mknod',
    '--readonly',
    '--thread-pool-size',
    '8',
  ]);
  assert.deepEqual(backend, {
    xattr: true,
    posixAcl: true,
    requires: ['posix-acl'],
    sharedDir: '/srv',
    cache: 'never',
    inodeFileHandles: 'mandatory',
    submounts: 'cross',
    ioThreads: Math.min(8, availableParallelism() - 1),
    translateUid: ['map:0:1000:1'],
    translateGid: ['map:0:100:1'],
  });
  assert.deepEqual(settings, {
    socket: '/run/s',
    readOnly: true,
    tag: 'virtiofs',
    locks: 'local',
    exitOnDisconnect: true,
    socketMode: '0700',
  });
  assert.deepEqual([sandbox, seccomp, modcaps], ['none', 'log', '-mknod']);
});

test('the -o list as libvirt writes it is taken, commas in a path doubled', () => {
  const { backend, settings, cache } = parseVirtiofsd([
    '--fd=33',
    '-o',
    'source=/srv/a,,b,cache=always,timeout=2.5,xattr,flock,no_posix_lock,xattrmap=:map::user.virtiofs.:',
    '-oposix_acl,writeback',
    '-f',
    '-d',
  ]);
  assert.equal(backend['sharedDir'], '/srv/a,b');
  assert.equal(backend['cache'], 'always');
  assert.equal(backend['xattrmap'], ':map::user.virtiofs.:');
  assert.equal(backend['posixAcl'], true);
  assert.equal(backend['writeback'], true);
  assert.equal(settings['fd'], 33);
  assert.equal(settings['locks'], 'shared');
  assert.deepEqual(cache, { entryTimeout: 2.5, attributeTimeout: 2.5 });
});

test('ACLs and security labels are negotiated by value, as in virtiofsd 1.14', () => {
  const backendOf = (...words: string[]) =>
    parseVirtiofsd(['--socket-path=/s', '--shared-dir=/d', ...words]).backend;
  for (const [option, key] of [
    ['--posix-acl', 'posixAcl'],
    ['--security-label', 'securityLabel'],
  ] as const) {
    for (const value of ['', '=auto', '=always']) {
      const { [key]: is, xattr } = backendOf(option + value);
      assert.deepEqual([is, xattr], [true, true], option + value);
    }
    const compatible = option.slice(2).replace('-', '_');
    // Alone it is `always`: virtiofsd never served a guest without it that was to have it.
    for (const always of [[option], [`${option}=always`], ['-o', compatible]])
      assert.deepEqual(backendOf(...always)['requires'], [option.slice(2)], always.join(' '));
    for (const later of [`${option}=auto`, `${option}=never`, `-ono_${compatible}`])
      assert.equal(backendOf(option, later)['requires'], undefined);
    assert.equal(backendOf(`${option}=auto`)['requires'], undefined);
    const { [key]: is, xattr } = backendOf(`${option}=never`);
    assert.deepEqual([is, xattr], [false, false]);
    assert.throws(() => backendOf(`${option}=maybe`), /is not one of always, auto, never/);
  }
});

test('without options for them, extended attributes and ACLs are off, as in virtiofsd', () => {
  const { backend } = parseVirtiofsd(['--socket-path=/s', '--shared-dir=/d']);
  assert.equal(backend['xattr'], false);
  assert.equal(backend['posixAcl'], false);
});

/** Options of virtiofsd 1.14 (its `main.rs`), each as an operator may write it. */
const OPTIONS: Readonly<Record<string, readonly string[]>> = {
  'shared-dir': ['--shared-dir=/srv', '--shared-dir /srv'],
  tag: ['--tag=data'],
  socket: ['--socket=/run/s'],
  'socket-path': ['--socket-path=/run/s'],
  'socket-group': ['--socket-group=kvm'],
  fd: ['--fd=3'],
  'thread-pool-size': ['--thread-pool-size=0', '--thread-pool-size=64'],
  xattr: ['--xattr'],
  'posix-acl': ['--posix-acl', '--posix-acl=never', '--posix-acl=auto', '--posix-acl=always'],
  xattrmap: ['--xattrmap=:map::user.virtiofs.:'],
  sandbox: ['--sandbox=namespace', '--sandbox=chroot', '--sandbox=none'],
  readonly: ['--readonly'],
  seccomp: ['none', 'kill', 'log', 'trap'].map((action) => `--seccomp=${action}`),
  'announce-submounts': ['--announce-submounts'],
  'no-announce-submounts': ['--no-announce-submounts'],
  'inode-file-handles': ['never', 'prefer', 'fallback', 'mandatory'].map(
    (mode) => `--inode-file-handles=${mode}`,
  ),
  cache: ['auto', 'always', 'never', 'metadata'].map((policy) => `--cache=${policy}`),
  'allow-mmap': ['--allow-mmap'],
  'no-readdirplus': ['--no-readdirplus'],
  writeback: ['--writeback'],
  'allow-direct-io': ['--allow-direct-io'],
  'print-capabilities': ['--print-capabilities'],
  modcaps: ['--modcaps=+sys_admin:-chown'],
  'log-level': ['error', 'warn', 'info', 'debug', 'trace', 'off'].map((level) => `--log-level=${level}`),
  syslog: ['--syslog'],
  'rlimit-nofile': ['--rlimit-nofile=0', '--rlimit-nofile=100000'],
  o: ['-o source=/srv,cache=none,xattr', '-ono_xattr,readdirplus,no_writeback,loglevel=err'],
  d: ['-d'],
  f: ['-f'],
  'killpriv-v2': ['--killpriv-v2'],
  'no-killpriv-v2': ['--no-killpriv-v2'],
  'security-label': ['', '=never', '=auto', '=always'].map((mode) => `--security-label${mode}`),
  'uid-map': ['--uid-map=:0:100000:65536:'],
  'gid-map': ['--gid-map=:0:100000:65536:'],
  'translate-uid': ['guest:0:1:2', 'host:0:1:2', 'squash-guest:0:1:2', 'map:0:1:2', 'forbid-guest:0:1'].map(
    (rule) => `--translate-uid=${rule}`,
  ),
  'translate-gid': ['--translate-gid=squash-host:0:1:2'],
  'preserve-noatime': ['--preserve-noatime'],
  'migration-mode': ['--migration-mode=find-paths', '--migration-mode=file-handles'],
  'migration-on-error': ['--migration-on-error=abort', '--migration-on-error=guest-error'],
  'migration-verify-handles': ['--migration-verify-handles'],
  'migration-confirm-paths': ['--migration-confirm-paths'],
  help: ['--help', '-h'],
  version: ['--version', '-V'],
};

test('each option of virtiofsd 1.14 is taken, with each of its values, and is in the documents', () => {
  const document = readFileSync(join(root, 'docs', 'libvirt-kata.md'), 'utf8');
  for (const [name, forms] of Object.entries(OPTIONS)) {
    for (const form of forms) {
      const needed = [
        ...(/^(--shared-dir|-o source)/.test(form) ? [] : ['--shared-dir=/srv']),
        ...(/^--(socket|socket-path|fd)[= ]/.test(form) ? [] : ['--socket-path=/run/s']),
      ];
      parseVirtiofsd([...needed, ...form.split(' ')]);
    }
    const shown = name.length === 1 ? `-${name}` : `--${name}`;
    assert.ok(document.includes(`\`${shown}`), `${shown} is in no document`);
    if (name.length > 1) assert.ok(VIRTIOFSD_HELP.includes(shown), `${shown} is not in the help`);
  }
});

for (const [words, message] of [
  [
    ['--shared-dir=/d', '--fd=3', '--migration-mode=file-handles', '--migration-verify-handles'],
    /--migration-verify-handles: not with/,
  ],
  [['--socket-path=/s', '--fd=3', '--shared-dir=/d'], /give one of them/],
  [['--fd=3', '--shared-dir=/d', '--uid-map=0:1'], /must be like :0:100000:65536:/],
  [['--fd=3', '--shared-dir=/d', '--daemonize'], /let a service manager start it/],
  [['--shared-dir=/d'], /socket-path or --fd is required/],
  [['--fd=3'], /shared-dir/],
  [['--fd=3', '--shared-dir=/d', '--cahce=auto'], /--cahce: not an option/],
  [['--fd=3', '--shared-dir=/d', '--cache=some'], /is not one of/],
  [['--fd=x', '--shared-dir=/d'], /is not a number/],
  [['--shared-dir'], /needs a value/],
  [['--xattr=1'], /takes no value/],
  [['-o', 'sorce=/d'], /-o sorce: not an option/],
  [['extra'], /extra: not an option/],
] as const) {
  test(`virtiofsd ${words.join(' ')} is refused with a reason`, () => {
    assert.throws(
      () => parseVirtiofsd(words),
      (error) => {
        assert.ok(error instanceof UsageError);
        assert.match(error.message, message);
        return true;
      },
    );
  });
}
