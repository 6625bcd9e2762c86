import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { it } from 'node:test';
import { type Backend, FileType } from '../../../core/backend/index.js';
import { BackendRegistry, MountedExport } from '../../../core/plugins/index.js';
import { keepingLog, shell, temporaryDirectory } from '../../support/host-mount.js';

it('on a host mount more processes may wait for one lock than a queue of a guest would hold', async () => {
  await using host = await temporaryDirectory();
  const log = keepingLog();
  const options = { directory: host.path, backend: { type: 'memfs' }, registry: new BackendRegistry(), log };
  const mounted = await MountedExport.open(options);
  try {
    const { code, output } = await shell(
      `: > lock; exec 9> lock; flock -x 9
      for i in $(seq 1 150); do (flock -x lock echo granted || echo refused) 9>&- & done
      sleep 1; echo waiting; flock -u 9; exec 9>&-; wait`,
      mounted.directory,
    );
    const lines = output.trimEnd().split('\n');
    assert.deepEqual([code, lines[0]], [0, 'waiting']);
    assert.deepEqual(lines.slice(1), Array(150).fill('granted'));
  } finally {
    await mounted.close();
  }
});

it('a backend that has no way to change anything is mounted read-only, and shown so', async () => {
  const root = { mode: FileType.DIRECTORY | 0o555 };
  const backend: Backend = { mount: () => root, lookup: () => undefined, getattr: () => root };
  for (const [source, shown] of [
    [backend, 'ro'],
    [{ type: 'memfs' }, 'rw'],
  ] as const) {
    await using host = await temporaryDirectory();
    const options = { directory: host.path, backend: source, registry: new BackendRegistry() };
    const mounted = await MountedExport.open({ ...options, log: keepingLog() });
    try {
      const line = readFileSync('/proc/mounts', 'utf8')
        .split('\n')
        .find((one) => one.includes(` ${mounted.directory} `));
      assert.match(line ?? '', new RegExp(` fuse[^ ]* ${shown},`));
    } finally {
      await mounted.close();
    }
  }
});

const [major, minor] = release().split('.').map(Number);
/** FUSE_NOTIFY_PRUNE is from 6.18. */
const tooOld = major! < 6 || (major === 6 && minor! < 18) ? 'this kernel is not asked to forget' : false;

it(
  'the kernel forgets files that nobody uses, so that programs get to more than may be known',
  { skip: tooOld },
  async () => {
    await using host = await temporaryDirectory();
    const log = keepingLog();
    const options = {
      directory: host.path,
      backend: { type: 'memfs' },
      limits: { nodes: 2000 },
      registry: new BackendRegistry(),
      log,
    };
    const mounted = await MountedExport.open(options);
    try {
      const { code, output } = await shell(
        `mkdir d e && echo content > held && exec 9<> held && cd e || exit 1
      # The kernel may take a moment.
      patiently() { n=0; until "$@"; do n=$((n + 1)); [ $n -lt 1000 ] || exit 2; sleep 0.01; done; }
      make() { true 2> /dev/null > "$1"; }
      for i in $(seq 1 5000); do patiently make ../d/$i 2> /dev/null; done
      for i in $(seq 1 5000); do patiently test -f ../d/$i; done
      cat <&9; echo more >&9; cat ../held; cd ..; ls d | wc -l`,
        mounted.directory,
      );
      assert.deepEqual([code, output.split('\n')], [0, ['content', 'content', 'more', '5000', '']]);
      assert.deepEqual(log.lines, []);
    } finally {
      await mounted.close();
    }
  },
);
