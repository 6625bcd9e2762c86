import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import { UsageError } from '../../../../core/backend/index.js';
import { parseVirtiofsd } from '../../../../core/cli/virtiofsd/options.js';

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

for (const [words, message] of [
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
