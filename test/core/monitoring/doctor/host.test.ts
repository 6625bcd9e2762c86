import assert from 'node:assert/strict';
import { release } from 'node:os';
import { test } from 'node:test';
import { hostFacts, judgeHost, type HostFacts } from '../../../../core/monitoring/doctor/index.js';

const GOOD: HostFacts = {
  kernel: '6.12.9',
  isRoot: true,
  kvm: 'usable',
  fuse: 'usable',
  fusermount: 'usable',
  landlock: 6,
  seccompActions: ['kill_process', 'errno', 'log', 'allow'],
  capabilities: 2n ** 41n - 1n,
  openFiles: { soft: 1024, hard: 2 ** 20 },
  lockedBytes: 2 ** 23,
  userNamespaces: 1000,
  sharedMemory: { bytes: 2 ** 33, freeBytes: 2 ** 33 },
};

test('a host on which all is there is said to be well', () => {
  assert.deepEqual(
    judgeHost(GOOD).filter(({ level }) => level !== 'ok'),
    [],
  );
});

const cases: readonly [what: string, facts: Partial<HostFacts>, finding: RegExp][] = [
  ['an old kernel', { kernel: '4.19.0-27-amd64' }, /^warning kernel: Linux 4\.19\.0-27-amd64 is older/],
  ['no KVM', { kvm: 'absent' }, /^warning \/dev\/kvm: there is none/],
  ['a KVM for others', { kvm: 'refused' }, /^warning \/dev\/kvm: this user may not open it/],
  [
    'little shared memory',
    { sharedMemory: { bytes: 2 ** 26, freeBytes: 2 ** 26 } },
    /^warning \/dev\/shm: only 64 MiB of 64 MiB are free/,
  ],
  ['few descriptors', { openFiles: { soft: 1024, hard: 4096 } }, /^note limits: .* 4096 files/],
  ['no Landlock', { landlock: -95 }, /^problem Landlock: this kernel has none/],
  ['no filters of system calls', { seccompActions: [] }, /^problem seccomp: /],
  ['root in a container', { capabilities: 0xfbn }, /^problem capabilities: root without CAP_SYS_ADMIN/],
  [
    'a user',
    { isRoot: false, capabilities: 0n, fusermount: 'absent' },
    /^note \/dev\/fuse: only root can mount/,
  ],
];

for (const [what, facts, expected] of cases) {
  test(`${what} is told, with what to do`, () => {
    const findings = judgeHost({ ...GOOD, ...facts });
    const found = findings.find(({ level, about, text }) => expected.test(`${level} ${about}: ${text}`));
    assert.ok(found !== undefined, JSON.stringify(findings));
    assert.ok(found.advice !== undefined);
  });
}

test('what this host is, is read', () => {
  const facts = hostFacts();
  assert.equal(facts.kernel, release());
  assert.ok(facts.openFiles.soft > 0 && facts.openFiles.hard >= facts.openFiles.soft);
  assert.ok(judgeHost(facts).length > 6);
});
