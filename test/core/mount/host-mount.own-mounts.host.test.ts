import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { keepingLog, shell, temporaryDirectory } from '../../support/host-mount.js';
import { BackendRegistry, MountedExport } from '../../../core/plugins/index.js';
import { program } from '../../support/program.js';

/**
 * Runs the command line in a process of its own. The faults that these tests look for would hang
 * this process.
 */
async function mount(directory: string, ...words: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [program, 'mount', directory, '--log-level', 'error', ...words], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  while (!readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${directory} `)) {
    assert.equal(child.exitCode, null, 'the mount ended');
    await delay(20);
  }
  return child;
}

async function unmount(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
  assert.deepEqual(await ended, [0, null]);
  clearTimeout(late);
}

const passthrough = ['--backend', 'passthrough', '--shared-dir'];
for (const [name, words] of [
  ['with file handles', passthrough],
  ['without file handles', ['--inode-file-handles', 'never', ...passthrough]],
  ['in the mode that announces mounts', ['--submounts', 'announce', ...passthrough]],
  ['in the mode that refuses mounts', ['--submounts', 'refuse', ...passthrough]],
  ['of an overlay', ['--backend', 'overlay', '--upper', 'memfs', '--lower']],
] as const) {
  test(`a mount below its own share ${name} shows the directory beneath`, async () => {
    await using host = await temporaryDirectory();
    const share = join(host.path, 'share');
    mkdirSync(join(share, 'mnt', 'deep'), { recursive: true });
    writeFileSync(join(share, 'file'), 'content\n');
    const child = await mount(join(share, 'mnt'), ...words, share);
    try {
      const { code, output } = await shell(
        `cd ${share}/mnt && ls -a && ls -la mnt && cat file mnt/../file && find . | sort && stat -c %F mnt/deep &&
         ! rmdir mnt 2>/dev/null && touch mnt/new && ls mnt`,
        '/',
      );
      assert.equal(code, 0, output);
      assert.match(output, /^\.\n\.\.\nfile\nmnt\n/);
      assert.match(output, /content\ncontent\n\.\n\.\/file\n\.\/mnt\n\.\/mnt\/deep\ndirectory\ndeep\nnew\n$/);
    } finally {
      await unmount(child);
    }
    assert.equal(existsSync(join(share, 'mnt', 'new')), name !== 'of an overlay');
  });
}

test('the whole host, mounted below itself, can be walked through', async () => {
  await using host = await temporaryDirectory();
  const child = await mount(host.path, ...passthrough, '/');
  try {
    const inside = join(host.path, host.path);
    const { code, output } = await shell(
      `ls -la ${inside} && ls ${host.path}/usr >/dev/null && echo walked`,
      '/',
    );
    assert.equal(code, 0, output);
    assert.match(output, /walked\n$/);
  } finally {
    await unmount(child);
  }
});

test('two mounts of one process below one share are both shown as what lies beneath', async () => {
  await using host = await temporaryDirectory();
  for (const name of ['a', 'b']) mkdirSync(join(host.path, name, `beneath-${name}`), { recursive: true });
  const registry = new BackendRegistry();
  const log = keepingLog();
  const backend = { type: 'passthrough', sharedDir: host.path };
  const first = await MountedExport.open({ directory: join(host.path, 'a'), backend, registry, log });
  try {
    const memory = { type: 'memfs' };
    const second = await MountedExport.open({
      directory: join(host.path, 'b'),
      backend: memory,
      registry,
      log,
    });
    try {
      const { code, output } = await shell(`timeout 10 ls ${host.path}/a/a ${host.path}/a/b`, '/');
      assert.equal(code, 0, output);
      assert.match(output, /beneath-a\n[^]*beneath-b\n/);
      const inside = { type: 'passthrough', sharedDir: join(host.path, 'a') };
      await assert.rejects(
        MountedExport.open({ directory: join(host.path, 'b'), backend: inside, registry, log }),
        /lies in .*, which this process serves; share it from a process of its own$/,
      );
    } finally {
      await second.close();
    }
    // A mount that is gone covers nothing any more.
    const { output } = await shell(`timeout 10 ls ${host.path}/a/b`, '/');
    assert.equal(output, 'beneath-b\n');
  } finally {
    await first.close();
  }
});

test('a mount that would cover the cache of its own backend is refused', async () => {
  await using host = await temporaryDirectory();
  const cacheDir = join(host.path, 'cache');
  mkdirSync(cacheDir);
  const backend = {
    type: 's3',
    bucket: 'none',
    endpoint: 'http://127.0.0.1:1',
    region: 'us-east-1',
    cacheDir,
  };
  await assert.rejects(
    MountedExport.open({ directory: host.path, backend, registry: new BackendRegistry(), log: keepingLog() }),
    /the backend keeps files in .*cache.*, which the mount would cover; choose another directory$/,
  );
});
